//! What a federation is made of.

use crate::control_plane::Component;

/// What one cluster runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterOptions {
    pub(crate) name: String,
    pub(crate) controller_manager: bool,
    pub(crate) scheduler: bool,
    pub(crate) kwok: bool,
    pub(crate) own_store: bool,
    pub(crate) running: bool,
    pub(crate) api_server_flags: Vec<String>,
}

impl ClusterOptions {
    /// A cluster with an API server and a controller manager, as hubs are.
    pub fn hub(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            controller_manager: true,
            scheduler: false,
            kwok: false,
            own_store: false,
            running: true,
            api_server_flags: Vec::new(),
        }
    }

    /// A cluster that runs work, too: with scheduler, and KWOK that plays its nodes.
    pub fn site(name: impl Into<String>) -> Self {
        Self { scheduler: true, kwok: true, ..Self::hub(name) }
    }

    /// With or without kube-controller-manager. Without it no namespace goes, no ServiceAccount comes by itself (so
    /// Pods are refused) and no quota is counted.
    pub fn controller_manager(mut self, wanted: bool) -> Self {
        self.controller_manager = wanted;
        self
    }

    /// With or without kube-scheduler.
    pub fn scheduler(mut self, wanted: bool) -> Self {
        self.scheduler = wanted;
        self
    }

    /// With or without KWOK.
    pub fn kwok(mut self, wanted: bool) -> Self {
        self.kwok = wanted;
        self
    }

    /// With an etcd of its own, which snapshots need, instead of the one that all share.
    pub fn own_store(mut self, wanted: bool) -> Self {
        self.own_store = wanted;
        self
    }

    /// False leaves the cluster prepared and not started: its address refuses connections until
    /// [`Cluster::start`](crate::Cluster::start).
    pub fn running(mut self, wanted: bool) -> Self {
        self.running = wanted;
        self
    }

    /// A further flag for kube-apiserver.
    pub fn api_server_flag(mut self, flag: impl Into<String>) -> Self {
        self.api_server_flags.push(flag.into());
        self
    }

    pub(crate) fn runs_work(&self) -> bool {
        self.scheduler || self.kwok
    }

    /// What runs besides the API server.
    pub(crate) fn components(&self) -> impl Iterator<Item = Component> {
        [(Component::ControllerManager, self.controller_manager), (Component::Scheduler, self.scheduler), (Component::Kwok, self.kwok)]
            .into_iter()
            .filter_map(|(component, wanted)| wanted.then_some(component))
    }
}
