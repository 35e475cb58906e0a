//! The real controller of the hub on a thread of its own, so that its CPU time can be measured apart from everything around it.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aifactory_operator::client::{ClientSettings, Clients};
use aifactory_operator::credential::AddressRules;
use aifactory_operator::credential::reader::{CredentialReader, Looks};
use aifactory_operator::hub::{Hub, HubRecord, HubSettings, WatchEvent, load_known_sites};
use aifactory_operator::lease::WriteGate;
use aifactory_operator::telemetry::event_recorder::EventRecorder;
use aifactory_operator::telemetry::events::Events;
use aifactory_operator::telemetry::metrics::Metrics;
use aifactory_plan::model::id::HubId;
use kube::Client;
use tokio::sync::{mpsc, oneshot};

use super::server::Server;
use super::sites::Sites;
use crate::Failure;

const NAMESPACE: &str = "aifactory-system";
/// At rest the controller takes less than this in [`LOOK`].
const REST: Duration = Duration::from_millis(1);
/// Longer than it gathers changes before it counts figures anew.
const LOOK: Duration = Duration::from_millis(1500);

/// A controller at work.
pub struct Controller {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    /// The file in which the kernel counts its thread's CPU time.
    schedstat: PathBuf,
}

impl Controller {
    /// Starts it on what the server has.
    pub async fn start(server: &Server, sites: Sites) -> Result<Self, Failure> {
        let (shown, mut seen) = mpsc::unbounded_channel();
        server.watch(shown)?;
        let (to_hub, from_watch) = mpsc::channel::<WatchEvent>(1024);
        tokio::spawn(async move {
            while let Some(event) = seen.recv().await {
                if to_hub.send(event).await.is_err() {
                    return;
                }
            }
        });
        let client = server.client();
        let known = load_known_sites(&client, NAMESPACE).await?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (found, thread_found) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            let _ = found.send(std::fs::read_link("/proc/thread-self"));
            runtime.block_on(async move {
                let (hub, _) = Hub::with_workers(settings(&client), Box::new(sites));
                let lead = async { Ok::<_, Infallible>(HubRecord { id: HubId::new("0123456789abcdef"), known }) };
                let stop = async {
                    let _ = stopped.await;
                };
                let _ = hub.run_on(from_watch, lead, stop).await;
            });
        });
        let schedstat = PathBuf::from("/proc").join(thread_found.await??).join("schedstat");
        Ok(Self { stop, thread, schedstat })
    }

    /// CPU time that it has taken.
    pub fn cpu(&self) -> Result<Duration, Failure> {
        let text = std::fs::read_to_string(&self.schedstat)?;
        let nanoseconds = text.split_whitespace().next().ok_or("no figure in schedstat")?.parse()?;
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Waits until it does nothing; gives when it had come to rest.
    pub async fn rest(&self) -> Result<Instant, Failure> {
        loop {
            let (before, at) = (self.cpu()?, Instant::now());
            tokio::time::sleep(LOOK).await;
            if self.cpu()? - before < REST {
                return Ok(at);
            }
        }
    }

    /// Ends it.
    pub async fn stop(self) -> Result<(), Failure> {
        let _ = self.stop.send(());
        tokio::task::spawn_blocking(|| self.thread.join()).await?.map_err(|_| "the controller panicked".into())
    }
}

fn settings(client: &Client) -> HubSettings {
    let clients = Clients { rpc: client.clone(), watch: client.clone() };
    let settings = ClientSettings { gate: WriteGate::always_open(), addresses: None, requests: None };
    let (events, publish) = Events::new(client.clone(), "bench".to_owned());
    tokio::spawn(publish);
    HubSettings {
        namespace: NAMESPACE.to_owned(),
        client: client.clone(),
        watch: client.clone(),
        reader: CredentialReader { hub: client.clone(), local: clients, rules: AddressRules::default(), settings, looks: Looks::default() },
        event_recorder: EventRecorder::new(events),
        metrics: Arc::new(Metrics::new()),
        test_hooks: false,
    }
}
