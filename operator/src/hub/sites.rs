//! The sites that have a worker, and what each was told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::factory::{Site, SiteKubernetes};
use aifactory_api::slurm::SlurmRest;
use aifactory_api::{OwnerRef, Reason};
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::digest::{Digest, digest_of};
use aifactory_plan::model::intent::{Intent, SiteIntent};
use aifactory_plan::model::report::{Finding, SiteReport};
use aifactory_plan::model::site_key::{Part, SiteKey};

use crate::credential::reader::CredentialReader;
use crate::site::kubernetes::worker;
use crate::site::slurm;
use crate::telemetry::metrics::Metrics;
use crate::transport::{HubSender, SiteSender, ToSite};

struct Connected {
    source: CredentialSource,
    sender: SiteSender,
    site: Option<SiteIntent>,
    told: BTreeMap<OwnerRef, Digest>,
    gone: BTreeSet<OwnerRef>,
}

/// The sites that have a worker.
pub struct Registry {
    reader: CredentialReader,
    hub: HubSender,
    metrics: Arc<Metrics>,
    sites: BTreeMap<SiteKey, Connected>,
}

impl Registry {
    pub fn new(reader: CredentialReader, hub: HubSender, metrics: Arc<Metrics>) -> Self {
        Self { reader, hub, metrics, sites: BTreeMap::new() }
    }

    /// Sees to it that the site has a worker that knows what it must; returns what keeps it from having one.
    pub fn ensure(&mut self, key: &SiteKey, site: &Site, intent: SiteIntent) -> Option<SiteReport> {
        let source = match source(key, site) {
            Ok(source) => source,
            Err(problem) => {
                self.sites.remove(key);
                return Some(SiteReport { problem: Some(problem), ..SiteReport::default() });
            }
        };
        if self.sites.get(key).is_some_and(|connected| connected.source != source) {
            self.sites.remove(key);
        }
        let connected = self.sites.entry(key.clone()).or_insert_with(|| Connected {
            sender: {
                let mut reader = self.reader.clone();
                reader.settings.requests = Some(self.metrics.site_requests(&key.to_string()));
                let (key, source, hub, metrics) = (key.clone(), source.clone(), self.hub.clone(), self.metrics.clone());
                match key.part {
                    Part::Kubernetes => worker::start(key, source, reader, hub, metrics),
                    Part::Slurm => slurm::worker::start(key, source, reader, hub, metrics),
                }
            },
            source,
            site: None,
            told: BTreeMap::new(),
            gone: BTreeSet::new(),
        });
        if connected.site.as_ref() != Some(&intent) {
            connected.site = Some(intent.clone());
            let _ = connected.sender.send(ToSite::Site(Box::new(intent)));
        }
        None
    }

    /// Tells a site what it must know of a resource, unless it knows that already.
    pub fn put(&mut self, key: &SiteKey, intent: &Intent) {
        if let Some(connected) = self.sites.get_mut(key) {
            let digest = digest_of(intent);
            if connected.told.get(&intent.owner) != Some(&digest) {
                connected.told.insert(intent.owner.clone(), digest);
                connected.gone.remove(&intent.owner);
                let _ = connected.sender.send(ToSite::Put(Box::new(intent.clone())));
            }
        }
    }

    /// Tells a site that a resource is in none of the hub's caches.
    pub fn gone(&mut self, key: &SiteKey, owner: &OwnerRef) {
        if let Some(connected) = self.sites.get_mut(key)
            && connected.gone.insert(owner.clone())
        {
            connected.told.remove(owner);
            let _ = connected.sender.send(ToSite::Gone(owner.clone()));
        }
    }

    /// Whether a site was told something of this resource.
    pub fn knows(&self, key: &SiteKey, owner: &OwnerRef) -> bool {
        self.sites.get(key).is_some_and(|connected| connected.told.contains_key(owner))
    }

    /// The sites that were told something of this resource.
    pub fn told(&self, owner: &OwnerRef) -> Vec<SiteKey> {
        self.sites.iter().filter(|(_, connected)| connected.told.contains_key(owner)).map(|(key, _)| key.clone()).collect()
    }

    /// The resources of which a site was told something.
    pub fn owners(&self, key: &SiteKey) -> Vec<OwnerRef> {
        self.sites.get(key).map(|connected| connected.told.keys().cloned().collect()).unwrap_or_default()
    }

    /// The sites of a factory that have a worker.
    pub fn of(&self, factory: &OwnerRef) -> Vec<SiteKey> {
        self.sites.keys().filter(|key| key.factory == *factory).cloned().collect()
    }

    /// Lets a site go; returns where its credential is.
    pub fn remove(&mut self, key: &SiteKey) -> Option<CredentialSource> {
        self.sites.remove(key).map(|connected| connected.source)
    }

    /// Where a site's credential is.
    pub fn source(&self, key: &SiteKey) -> Option<&CredentialSource> {
        self.sites.get(key).map(|connected| &connected.source)
    }

    /// Whether a site is reached with this credential.
    pub fn uses(&self, source: &CredentialSource) -> bool {
        self.sites.values().any(|connected| connected.source == *source)
    }

    pub fn reader(&self) -> &CredentialReader {
        &self.reader
    }
}

/// The parts of a site that have a worker.
pub fn parts(factory: &OwnerRef, site: &Site) -> Vec<SiteKey> {
    let kubernetes = site.kubernetes.as_ref().map(|_| SiteKey::new(factory.clone(), &site.name));
    let slurm = rest(site).map(|_| SiteKey::slurm(factory.clone(), &site.name));
    kubernetes.into_iter().chain(slurm).collect()
}

fn rest(site: &Site) -> Option<&SlurmRest> {
    site.slurm.as_ref()?.rest.as_ref()
}

fn source(key: &SiteKey, site: &Site) -> Result<CredentialSource, Finding> {
    if key.part == Part::Slurm {
        let secret = rest(site).and_then(|rest| rest.token_secret_ref.as_ref().or(rest.key_secret_ref.as_ref()));
        return match secret {
            Some(secret) => {
                Ok(CredentialSource::Secret { namespace: key.factory.namespace.clone(), name: secret.name.clone(), key: secret.key.clone() })
            }
            None => Err(Finding::stalled(Reason::InvalidSpec, "slurm.rest: one of tokenSecretRef and keySecretRef is needed")),
        };
    }
    match &site.kubernetes {
        Some(SiteKubernetes { push: Some(push), .. }) => Ok(CredentialSource::Secret {
            namespace: key.factory.namespace.clone(),
            name: push.kubeconfig_secret_ref.name.clone(),
            key: push.kubeconfig_secret_ref.key.clone(),
        }),
        Some(SiteKubernetes { local: Some(_), .. }) => Ok(CredentialSource::Local),
        Some(SiteKubernetes { pull: Some(_), .. }) => {
            Err(Finding::stalled(Reason::PullNotServed, "kubernetes.pull: agents are not served by this release; use push or local"))
        }
        Some(_) => Err(Finding::stalled(Reason::InvalidSpec, "kubernetes: one of push and local is needed")),
        None => Err(Finding::note(Reason::NotApplicable, "the site has no Kubernetes")),
    }
}
