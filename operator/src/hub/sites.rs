//! The parts of sites that have a worker, and what each was sent: the whole desired set, with a tombstone for each resource that is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::factory::{Site, SiteKubernetes};
use aifactory_api::slurm::SlurmRest;
use aifactory_api::{OwnerRef, Reason};
use aifactory_plan::hub::sent::SentSet;
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::intent::{Intent, SiteIntent};
use aifactory_plan::model::report::Finding;
use aifactory_plan::model::site_key::{Part, SiteKey};

use tokio::time::Instant;

use crate::credential::reader::CredentialReader;
use crate::site::{kubernetes, slurm};
use crate::supervise::PAUSE;
use crate::telemetry::metrics::Metrics;
use crate::transport::{DesiredSet, HubReceiver, HubSender, Incarnation, SiteSender, ToSite, WorkerSender, hub_channel};

/// A part of a site that has a worker.
struct Worked {
    source: CredentialSource,
    incarnation: Incarnation,
    sender: SiteSender,
    site: Option<SiteIntent>,
    sent: SentSet,
}

/// Starts the workers of parts of sites; tests have an implementation of their own.
pub trait StartWorker: Send {
    /// Starts one; it ends when the sender is dropped.
    fn start(&self, key: SiteKey, source: CredentialSource, hub: WorkerSender) -> SiteSender;
}

/// Starts real workers.
pub struct SiteWorkers {
    pub reader: CredentialReader,
    pub metrics: Arc<Metrics>,
}

impl StartWorker for SiteWorkers {
    fn start(&self, key: SiteKey, source: CredentialSource, hub: WorkerSender) -> SiteSender {
        let mut reader = self.reader.clone();
        reader.settings.requests = Some(self.metrics.site_requests(&key.to_string()));
        match key.part {
            Part::Kubernetes => kubernetes::worker::start(key, source, reader, hub, self.metrics.clone()),
            Part::Slurm => slurm::worker::start(key, source, reader, hub, self.metrics.clone()),
        }
    }
}

/// The parts of sites that have a worker.
pub struct Sites {
    workers: Box<dyn StartWorker>,
    hub: HubSender,
    sites: BTreeMap<SiteKey, Worked>,
    /// The parts that were sent something about a resource.
    recipients: BTreeMap<OwnerRef, BTreeSet<SiteKey>>,
    started: u64,
    /// Parts whose worker has panicked, and when the next one may begin.
    resting: BTreeMap<SiteKey, Instant>,
    /// What the last worker of a part was sent, while it has none.
    former: BTreeMap<SiteKey, SentSet>,
}

impl Sites {
    pub fn new(workers: Box<dyn StartWorker>) -> (Self, HubReceiver) {
        let (hub, from_sites) = hub_channel();
        let sites =
            Self { workers, hub, sites: BTreeMap::new(), recipients: BTreeMap::new(), started: 0, resting: BTreeMap::new(), former: BTreeMap::new() };
        (sites, from_sites)
    }

    /// Starts a worker with this credential for the part unless it has one, and sends it the intent for its site; returns whether a new one was
    /// started.
    pub fn ensure(&mut self, key: &SiteKey, source: &CredentialSource, intent: SiteIntent) -> bool {
        let mut begun = false;
        // A worker whose channel is closed has ended, so another one is started.
        if self.sites.get(key).is_some_and(|known| known.source != *source || known.sender.is_closed()) {
            self.remove(key);
        }
        if !self.sites.contains_key(key) {
            if self.resting_until(key).is_some() {
                return false;
            }
            self.resting.remove(key);
            let started = self.start(key, source);
            self.sites.insert(key.clone(), started);
            begun = true;
        }
        let Some(worked) = self.sites.get_mut(key) else { return begun };
        if worked.site.as_ref() != Some(&intent) {
            worked.site = Some(intent.clone());
            let _ = worked.sender.send(ToSite::Site(Box::new(intent)));
        }
        begun
    }

    fn start(&mut self, key: &SiteKey, source: &CredentialSource) -> Worked {
        self.started += 1;
        let incarnation = Incarnation(self.started);
        let sender = self.workers.start(key.clone(), source.clone(), self.hub.of(key.clone(), incarnation));
        let sent = self.former.remove(key).unwrap_or_default();
        Worked { source: source.clone(), incarnation, sender, site: None, sent }
    }

    /// Gives intents the serials under which they were sent, or are to be sent.
    pub fn number(&self, intents: &mut BTreeMap<SiteKey, Intent>) {
        for (key, intent) in intents {
            // While a part has no worker, as after a panic, what the last one was sent counts.
            if let Some(sent) = self.sites.get(key).map(|worked| &worked.sent).or_else(|| self.former.get(key)) {
                sent.number(intent);
            }
        }
    }

    /// Sends these intents for a resource to their parts, and withdraws it from any other part that was sent it. Returns what was sent and is to be
    /// answered.
    pub fn assign(&mut self, owner: &OwnerRef, intents: &BTreeMap<&SiteKey, &Intent>) -> Vec<(SiteKey, Arc<Intent>)> {
        let sent = intents.iter().filter_map(|(key, intent)| Some(((*key).clone(), self.put(key, intent)?))).collect();
        let withdrawn: Vec<SiteKey> = self.recipients.get(owner).into_iter().flatten().filter(|key| !intents.contains_key(*key)).cloned().collect();
        for key in withdrawn {
            if let Some(worked) = self.sites.get_mut(&key)
                && worked.sent.withdraw(owner)
            {
                let _ = worked.sender.send(ToSite::Withdraw(owner.clone()));
            }
            self.forget_recipient(owner, &key);
        }
        sent
    }

    fn put(&mut self, key: &SiteKey, intent: &Intent) -> Option<Arc<Intent>> {
        let worked = self.sites.get_mut(key)?;
        let intent = worked.sent.put(intent)?;
        self.recipients.entry(intent.owner.clone()).or_default().insert(key.clone());
        let _ = worked.sender.send(ToSite::Put(intent.clone()));
        Some(intent)
    }

    /// Sends a part a tombstone: the resource is in none of the hub's caches.
    pub fn gone(&mut self, key: &SiteKey, owner: &OwnerRef) {
        let Some(worked) = self.sites.get_mut(key) else { return };
        if worked.sent.bury(owner) {
            let _ = worked.sender.send(ToSite::Gone(owner.clone()));
        }
        self.forget_recipient(owner, key);
    }

    /// Forgets the tombstones of resources that a synced part does not report as held. If something of one appears there again, it is reported as
    /// held, and gets a tombstone again.
    pub fn forget_tombstones(&mut self, key: &SiteKey, held: &BTreeSet<OwnerRef>) {
        if let Some(worked) = self.sites.get_mut(key) {
            worked.sent.retain_tombstones(|owner| held.contains(owner));
        }
    }

    /// Forgets the tombstone of a resource that a part has reported as not held.
    pub fn forget_tombstone(&mut self, key: &SiteKey, owner: &OwnerRef) {
        if let Some(worked) = self.sites.get_mut(key) {
            worked.sent.retain_tombstones(|known| known != owner);
        }
    }

    /// Sends a part the whole desired set again, so that nothing depends on a message that was sent once.
    pub fn resend(&self, key: &SiteKey) {
        let Some(worked) = self.sites.get(key) else { return };
        let set = DesiredSet { intents: worked.sent.intents().clone(), tombstones: worked.sent.tombstones().clone() };
        let _ = worked.sender.send(ToSite::Everything(Box::new(set)));
    }

    /// Whether a message is from the worker that the part has now.
    pub fn is_current(&self, key: &SiteKey, incarnation: Incarnation) -> bool {
        self.sites.get(key).is_some_and(|worked| worked.incarnation == incarnation)
    }

    /// The intent for a resource that a part was sent last.
    pub fn intent(&self, key: &SiteKey, owner: &OwnerRef) -> Option<&Arc<Intent>> {
        self.sites.get(key)?.sent.get(owner)
    }

    /// Whether a part was sent something about this resource.
    pub fn is_recipient(&self, key: &SiteKey, owner: &OwnerRef) -> bool {
        self.recipients.get(owner).is_some_and(|keys| keys.contains(key))
    }

    /// The parts that were sent something about this resource.
    pub fn recipients(&self, owner: &OwnerRef) -> Vec<SiteKey> {
        self.recipients.get(owner).into_iter().flatten().cloned().collect()
    }

    /// The resources that a part was sent something about.
    pub fn owners(&self, key: &SiteKey) -> Vec<OwnerRef> {
        self.sites.get(key).map(|worked| worked.sent.owners().cloned().collect()).unwrap_or_default()
    }

    /// The parts of a factory's sites that have a worker.
    pub fn of(&self, factory: &OwnerRef) -> Vec<SiteKey> {
        self.sites.keys().filter(|key| key.factory == *factory).cloned().collect()
    }

    /// Ends a part's worker; returns where its credential is.
    pub fn remove(&mut self, key: &SiteKey) -> Option<CredentialSource> {
        let worked = self.sites.remove(key)?;
        for owner in worked.sent.owners() {
            self.forget_recipient(owner, key);
        }
        self.former.insert(key.clone(), worked.sent.of_next_worker());
        Some(worked.source)
    }

    fn forget_recipient(&mut self, owner: &OwnerRef, key: &SiteKey) {
        if let Some(keys) = self.recipients.get_mut(owner) {
            keys.remove(key);
            if keys.is_empty() {
                self.recipients.remove(owner);
            }
        }
    }

    /// Where a part's credential is.
    pub fn source(&self, key: &SiteKey) -> Option<&CredentialSource> {
        self.sites.get(key).map(|worked| &worked.source)
    }

    /// Whether one of these parts is reached with such a credential.
    pub fn used(&self, is: &impl Fn(&CredentialSource) -> bool, counts: &impl Fn(&SiteKey) -> bool) -> bool {
        self.sites.iter().any(|(key, worked)| counts(key) && is(&worked.source))
    }

    /// When a part whose worker has panicked may have another one; `None`: it has one, or may have one now.
    pub fn resting_until(&self, key: &SiteKey) -> Option<Instant> {
        self.resting.get(key).filter(|until| **until > Instant::now()).copied()
    }

    /// Ends the worker of a part because it has panicked; the next one begins after a pause.
    pub fn died(&mut self, key: &SiteKey, now: Instant) {
        self.remove(key);
        self.resting.insert(key.clone(), now + PAUSE);
    }
}

/// The parts that a site has by its spec.
pub fn parts(factory: &OwnerRef, site: &Site) -> Vec<SiteKey> {
    let kubernetes = site.kubernetes.as_ref().map(|_| SiteKey::new(factory.clone(), &site.name));
    let slurm = rest(site).map(|_| SiteKey::slurm(factory.clone(), &site.name));
    kubernetes.into_iter().chain(slurm).collect()
}

fn rest(site: &Site) -> Option<&SlurmRest> {
    site.slurm.as_ref()?.rest.as_ref()
}

/// Where the credential of a part is by the factory's spec, or why it has none.
pub fn source(key: &SiteKey, site: &Site) -> Result<CredentialSource, Finding> {
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
