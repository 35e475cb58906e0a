//! `aifactory-operator run`: wires everything together and ends in good order.

use std::sync::Arc;
use std::time::Duration;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin::{AdminError, AdminServer, Readiness};
use crate::cli::Run;
use crate::client::{ClientSettings, Clients};
use crate::credential::reader::{CredentialReader, Looks};
use crate::hub::{Hub, HubIdError, HubRecord, HubSettings, KnownSitesError, hub_id, load_known_sites};
use crate::lease::{Elector, Leadership, LeaseError, WriteGate};
use crate::telemetry::event_recorder::EventRecorder;
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Metrics;

/// The longest wait for each of the hub and the leader election to end.
const ENDING: Duration = Duration::from_secs(15);

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no usable configuration for the hub.
    #[error("the hub's kubeconfig can not be used: {0}")]
    Config(String),
    /// No client for the hub.
    #[error("no client for the hub can be made")]
    Client(#[source] Box<kube::Error>),
    /// The hub id is missing.
    #[error(transparent)]
    HubId(#[from] HubIdError),
    /// The record of sites that may hold something can not be read.
    #[error(transparent)]
    KnownSites(#[from] KnownSitesError),
    /// The lease was lost, or its settings do not fit together.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Probes and metrics can not be served.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Signals can not be listened for.
    #[error("signals can not be listened for")]
    Signals(#[source] std::io::Error),
    /// A task of the operator died.
    #[error("the operator's {0} ended unexpectedly")]
    Died(&'static str),
}

/// Runs until a signal comes or the lease is lost.
pub async fn run(options: Run) -> Result<(), RunError> {
    let metrics = Arc::new(Metrics::new());
    let readiness = Readiness::default();
    readiness.expect("caches");
    let admin = AdminServer::bind(&options.admin, metrics.clone(), readiness.clone()).await?;

    let config = hub_config(&options).await?;
    let settings = |gate: WriteGate| ClientSettings { gate, addresses: None, requests: Some(metrics.hub_requests()) };
    // The Lease has a client of its own: what keeps the gate open must not be behind it.
    let lease_client = Clients::rpc(&config, &settings(WriteGate::always_open())).map_err(client_error)?;
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "operator".to_owned());
    let (elector, leadership) = Elector::new(lease_client, options.lease.settings(&options.namespace, &host))?;
    let clients = Clients::new(&config, &settings(leadership.gate().clone())).map_err(client_error)?;

    let signals = Signals::listen()?;
    let (stop, stopped) = watch::channel(false);
    let (stop_election, election_stopped) = watch::channel(false);
    let (events, publish) = Events::new(clients.rpc.clone(), host);
    let hub = hub_settings(&options, &clients, leadership.gate().clone(), events, metrics);
    let mut tasks = Tasks {
        server: tokio::spawn(admin.run(until(stopped.clone()))),
        election: tokio::spawn(elector.run(until(election_stopped))),
        publisher: tokio::spawn(publish),
        hub: spawn_hub(hub, leadership, readiness, stopped),
        stop,
        stop_election,
    };
    match tasks.first_end(signals).await {
        End::LeaseLost(error) => Err(error),
        End::InOrder(result) => {
            tracing::info!("Ending");
            tasks.finish().await;
            result
        }
    }
}

fn hub_settings(options: &Run, clients: &Clients, gate: WriteGate, events: Events, metrics: Arc<Metrics>) -> HubSettings {
    let rules = options.addresses.rules();
    HubSettings {
        namespace: options.namespace.clone(),
        client: clients.rpc.clone(),
        watch: clients.watch.clone(),
        reader: CredentialReader {
            hub: clients.rpc.clone(),
            local: clients.clone(),
            rules: rules.clone(),
            settings: ClientSettings { gate, addresses: Some(rules), requests: None },
            looks: Looks::default(),
        },
        event_recorder: EventRecorder::new(events),
        metrics,
        test_hooks: options.test_hooks,
    }
}

/// Spawns the hub's controller: it fills its caches at once, and reconciles from when this process leads until `stopped`.
fn spawn_hub(
    settings: HubSettings,
    mut leadership: Leadership,
    readiness: Readiness,
    stopped: watch::Receiver<bool>,
) -> JoinHandle<Result<(), RunError>> {
    let (client, namespace) = (settings.client.clone(), settings.namespace.clone());
    let (hub, mut synced) = Hub::new(settings);
    tokio::spawn(async move {
        if synced.wait_for(|synced| *synced).await.is_ok() {
            readiness.set("caches", true);
        }
    });
    let lead = async move {
        leadership.acquired().await;
        // Made by the leader only: a standby writes nothing.
        let id = hub_id(&client, &namespace).await?;
        let known = load_known_sites(&client, &namespace).await?;
        Ok::<_, RunError>(HubRecord { id, known })
    };
    tokio::spawn(hub.run(lead, until(stopped)))
}

/// The signals that end the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, RunError> {
        let listen = |kind| signal(kind).map_err(RunError::Signals);
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }
}

/// How the process ends.
enum End {
    /// Another process may lead already, so nothing is finished.
    LeaseLost(RunError),
    /// What was begun is finished first.
    InOrder(Result<(), RunError>),
}

/// The tasks of the process, and the switches that stop them.
struct Tasks {
    server: JoinHandle<Result<(), AdminError>>,
    election: JoinHandle<Result<(), LeaseError>>,
    publisher: JoinHandle<()>,
    hub: JoinHandle<Result<(), RunError>>,
    stop: watch::Sender<bool>,
    stop_election: watch::Sender<bool>,
}

impl Tasks {
    /// Waits for a signal, or for the first task that ends.
    async fn first_end(&mut self, mut signals: Signals) -> End {
        End::InOrder(tokio::select! {
            _ = signals.terminate.recv() => Ok(()),
            _ = signals.interrupt.recv() => Ok(()),
            result = &mut self.election => match result {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => return End::LeaseLost(error.into()),
                Err(_) => return End::LeaseLost(RunError::Died("leader election")),
            },
            result = &mut self.server => match result {
                Ok(result) => result.map_err(RunError::from),
                Err(_) => Err(RunError::Died("server for probes")),
            },
            result = &mut self.hub => match result {
                Ok(result) => result,
                Err(_) => Err(RunError::Died("hub")),
            },
            Err(_) = &mut self.publisher => Err(RunError::Died("publisher of Events")),
        })
    }

    /// Stops the hub and waits for the writes that it has begun, then gives the lease back. Writes at sites are cut: each is there as a whole or not
    /// at all, and the next leader plans from what it finds.
    async fn finish(mut self) {
        self.stop.send_replace(true);
        if !self.hub.is_finished() {
            let _ = tokio::time::timeout(ENDING, &mut self.hub).await;
        }
        self.stop_election.send_replace(true);
        if !self.election.is_finished() {
            let _ = tokio::time::timeout(ENDING, &mut self.election).await;
        }
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stopped.wait_for(|stop| *stop).await;
}

fn client_error(error: kube::Error) -> RunError {
    RunError::Client(Box::new(error))
}

async fn hub_config(options: &Run) -> Result<Config, RunError> {
    match &options.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|error| RunError::Config(error.to_string()))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(|error| RunError::Config(error.to_string()))
        }
        None => Config::incluster().map_err(|error| RunError::Config(error.to_string())),
    }
}
