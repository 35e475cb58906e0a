//! `aifactory-operator run`: wires everything together and ends in good order.


use kube::Config;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Run;
use crate::client::{ClientSettings, Clients};
use crate::credential::AddressRules;
use crate::hub::{Hub, HubSettings, hub_id};
use crate::lease::{Elector, LEASE_NAME, LeaseError, LeaseSettings, WriteGate, identity};
use crate::notices::Notices;
use crate::site::credentials::CredentialReader;

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
    HubId(#[from] crate::hub::HubIdError),
    /// The lease was lost.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Signals can not be listened for, or the admin port can not be opened.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Runs until a signal comes or the lease is lost.
pub async fn run(options: Run) -> Result<(), RunError> {
    let config = hub_config(&options).await?;
    // The Lease has a client of its own: what keeps the gate open must not be behind it.
    let settings = |gate: WriteGate| ClientSettings { gate, addresses: None, requests: None };
    let lease_client = Clients::rpc(&config, &settings(WriteGate::always_open())).map_err(client_error)?;
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "operator".to_owned());
    let (elector, leadership) = Elector::new(
        lease_client,
        LeaseSettings {
            namespace: options.namespace.clone(),
            name: LEASE_NAME.to_owned(),
            identity: identity(&host),
            lease_duration: options.lease_duration,
            renew_interval: options.renew_interval,
            renew_deadline: options.renew_deadline,
        },
    )?;
    let gate = leadership.gate().clone();
    let clients = Clients::new(&config, &settings(gate.clone())).map_err(client_error)?;
    let rules = AddressRules::allowing(options.allow_site_cidrs.iter().copied());
    let reader = CredentialReader {
        hub: clients.rpc.clone(),
        local: clients.clone(),
        rules: rules.clone(),
        settings: ClientSettings { gate, addresses: Some(rules), requests: None },
    };

    let (stop, stopped) = tokio::sync::watch::channel(false);
    let stopped = || {
        let mut stopped = stopped.clone();
        async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut election = tokio::spawn(elector.run(stopped()));
    let mut waiting = leadership.clone();
    let hub_client = clients.rpc.clone();
    let namespace = options.namespace.clone();
    let test_hooks = options.test_hooks;
    let until = stopped();
    let mut work = tokio::spawn(async move {
        let mut leader = leadership;
        leader.acquired().await;
        // Made by the leader only: a standby may not write.
        let id = hub_id(&hub_client, &namespace).await?;
        let settings = HubSettings {
            id,
            namespace,
            client: clients.rpc.clone(),
            watch: clients.watch.clone(),
            reader,
            notices: Notices::new(clients.rpc.clone()),
            test_hooks,
        };
        let (hub, _ready) = Hub::new(settings);
        hub.run(async { waiting.acquired().await }, until).await;
        Ok::<(), RunError>(())
    });

    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        result = &mut election => return flatten(result).map_err(RunError::from),
        result = &mut work => result.map_err(|error| RunError::Io(std::io::Error::other(error.to_string())))?,
    };
    tracing::info!("Ending");
    let _ = stop.send(true);
    // First what was begun, then the lease, so that the next leader finds nothing half done.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(15), &mut work).await;
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), &mut election).await;
    ended
}

fn flatten(result: Result<Result<(), LeaseError>, tokio::task::JoinError>) -> Result<(), LeaseError> {
    match result {
        Ok(result) => result,
        Err(_) => Err(LeaseError::Settings),
    }
}

fn client_error(error: kube::Error) -> RunError {
    RunError::Client(Box::new(error))
}

async fn hub_config(options: &Run) -> Result<Config, RunError> {
    let loaded = match &options.kubeconfig {
        Some(path) => {
            let kubeconfig = kube::config::Kubeconfig::read_from(path).map_err(|error| RunError::Config(error.to_string()))?;
            Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
                .await
                .map_err(|error| RunError::Config(error.to_string()))
        }
        None => Config::incluster().map_err(|error| RunError::Config(error.to_string())),
    };
    loaded
}
