//! `aifactory-operator run`: wires everything together and ends in good order.

use std::sync::Arc;
use std::time::Duration;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{AdminError, AdminServer, Readiness};
use crate::cli::Run;
use crate::client::{ClientSettings, Clients};
use crate::credential::reader::{CredentialReader, Looks};
use crate::hub::{Hub, HubIdError, HubRecord, HubSettings, KnownSitesError, hub_id, load_known_sites};
use crate::lease::{Elector, LeaseError, WriteGate};
use crate::telemetry::event_recorder::Notices;
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Metrics;

/// Longest wait for what was begun when the operator ends.
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
    let (elector, mut leadership) = Elector::new(lease_client, options.lease.settings(&options.namespace, &host))?;
    let gate = leadership.gate().clone();
    let clients = Clients::new(&config, &settings(gate.clone())).map_err(client_error)?;
    let rules = options.addresses.rules();
    let reader = CredentialReader {
        hub: clients.rpc.clone(),
        local: clients.clone(),
        rules: rules.clone(),
        settings: ClientSettings { gate, addresses: Some(rules), requests: None },
        looks: Looks::default(),
    };

    let (stop, stopped) = watch::channel(false);
    let (stop_election, election_stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let mut serving = tokio::spawn(admin.run(until(stopped.clone())));
    let mut election = tokio::spawn(elector.run(until(election_stopped)));
    let (events, publish) = Events::new(clients.rpc.clone(), host);
    let mut publishing = tokio::spawn(publish);
    let (hub, mut synced) = Hub::new(HubSettings {
        namespace: options.namespace.clone(),
        client: clients.rpc.clone(),
        watch: clients.watch.clone(),
        reader,
        notices: Notices::new(events),
        metrics,
        test_hooks: options.test_hooks,
    });
    tokio::spawn(async move {
        if synced.wait_for(|synced| *synced).await.is_ok() {
            readiness.set("caches", true);
        }
    });
    let lead = async move {
        leadership.acquired().await;
        // Made by the leader only: a standby writes nothing.
        let id = hub_id(&clients.rpc, &options.namespace).await?;
        let known = load_known_sites(&clients.rpc, &options.namespace).await?;
        Ok::<_, RunError>(HubRecord { id, known })
    };
    let mut work = tokio::spawn(hub.run(lead, until(stopped)));

    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        result = &mut election => match result {
            Ok(Ok(())) => Ok(()),
            // Nothing is finished: another process may lead already.
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(RunError::Died("leader election")),
        },
        result = &mut serving => match result {
            Ok(result) => result.map_err(RunError::from),
            Err(_) => Err(RunError::Died("server for probes")),
        },
        result = &mut work => match result {
            Ok(result) => result,
            Err(_) => Err(RunError::Died("hub")),
        },
        Err(_) = &mut publishing => Err(RunError::Died("publisher of Events")),
    };
    tracing::info!("Ending");
    stop.send_replace(true);
    // Writes to the hub that were begun are awaited, then the lease is given back. Writes at sites are cut: each is there as a whole or not at all, and
    // the next leader plans from what it finds.
    if !work.is_finished() {
        let _ = tokio::time::timeout(ENDING, &mut work).await;
    }
    stop_election.send_replace(true);
    if !election.is_finished() {
        let _ = tokio::time::timeout(ENDING, &mut election).await;
    }
    ended
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
