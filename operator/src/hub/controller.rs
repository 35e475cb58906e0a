//! The hub's actor: owns the world as last seen, what sites report, and the schedule; decides in one place, and leaves waiting to tasks.

mod credentials;
mod known;
mod pace;
mod reconcile;
#[cfg(test)]
mod site_tests;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use aifactory_api::{AIFactory, AccessGrant, GPUPool, Kind, OwnerRef, Reason, labels};
use aifactory_plan::hub::aggregate::{self, Outcome, Reports};
use aifactory_plan::hub::known_sites::KnownSites;
use aifactory_plan::hub::ledger::Ledger;
use aifactory_plan::hub::project;
use aifactory_plan::hub::urgency::takes_access;
use aifactory_plan::hub::world::{World, factory_of_pool, pools_of_grant};
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::freshness::{Freshness, Moment};
use aifactory_plan::model::intent::SiteWord;
use aifactory_plan::model::report::{Finding, Report, SiteReport};
use aifactory_plan::model::site_key::{Part, SiteKey};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::broken::{Undecodable, conditions};
use super::deletion_protection;
use super::known_sites::KnownSitesError;
use super::sites::{SiteWorkers, Sites, StartWorker, parts, source};
use super::watch::{Resourced, Seen, Watched, incarnation, watch};
use super::writes::{Write, WriteError, write};
use crate::credential::reader::CredentialReader;
use crate::supervise::{PAUSE, caught, restarted};
use crate::telemetry::access_log;
use crate::telemetry::event_recorder::Notices;
use crate::telemetry::metrics::{Metrics, ProcessTask, ReconcileResult};
use crate::telemetry::resource_counts::ResourceCounts;
use crate::transport::{FromSite, HubReceiver, Received};
use crate::workqueue::WorkQueue;
use credentials::SecretName;
use pace::{Change, Due, Pace};

/// Writes to the hub at a time.
const WRITES: usize = 16;
/// How many of them are kept for resources that lose access.
const RESERVED: usize = 4;
/// How long a status that was true before a restart stands until sites were heard of again.
const HEARING: Duration = Duration::from_secs(15);
/// Pause before storing the namespaces of living grants is tried again.
const LIVING_RETRY: Duration = Duration::from_secs(5);
/// Secrets in work at a time.
const RELEASES: usize = 4;
/// How often the depth of the queue is told at most while there is one.
const DEPTH: Duration = Duration::from_millis(500);
/// How soon pools and factories count again after a change of a grant.
const RECOUNT: Duration = Duration::from_secs(1);

/// What the hub needs to run.
pub struct HubSettings {
    /// Namespace of the operator.
    pub namespace: String,
    /// Client for calls.
    pub client: Client,
    /// Client for watches.
    pub watch: Client,
    /// Reads sites' credentials.
    pub reader: CredentialReader,
    /// Tells people of transitions.
    pub notices: Notices,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Honours annotations that make the operator fail, for its own tests.
    pub test_hooks: bool,
}

/// The hub's actor.
pub struct Hub {
    settings: HubSettings,
    /// Id of the hub, known once this process leads.
    id: String,
    world: World,
    /// The last version seen of each resource, of those that are gone as well until the next listing.
    fresh: BTreeMap<Kind, Freshness<OwnerRef>>,
    /// Orders listings and writes.
    moment: Moment,
    /// The parts of sites that have shown all that is ours there since this process leads.
    synced: BTreeSet<SiteKey>,
    unlisted: BTreeSet<Kind>,
    undecodable: BTreeMap<OwnerRef, Undecodable>,
    sites: Sites,
    from_sites: HubReceiver,
    /// The parts of sites that may hold something, as they shall be stored; `world.known` is what is stored.
    known: KnownSites,
    storing_known: bool,
    /// Factories whose status is read for parts that a release before this one has claimed; `None`: the set was stored before.
    known_from_status: Option<BTreeSet<OwnerRef>>,
    /// When storing them is tried again.
    known_retry_at: Option<Instant>,
    site_reports: BTreeMap<SiteKey, SiteReport>,
    /// What sites say themselves, as last read.
    words: BTreeMap<SiteKey, SiteWord>,
    reports: BTreeMap<OwnerRef, BTreeMap<SiteKey, Report>>,
    by_site: BTreeMap<SiteKey, BTreeSet<OwnerRef>>,
    holders: BTreeMap<OwnerRef, BTreeSet<SiteKey>>,
    /// What each site may still let a grant use.
    ledgers: BTreeMap<OwnerRef, Ledger>,
    abandoned: BTreeSet<SiteKey>,
    schedule: WorkQueue<OwnerRef>,
    pace: BTreeMap<OwnerRef, Pace>,
    living: BTreeSet<String>,
    living_stored: bool,
    grants_changed: bool,
    storing: bool,
    /// When storing the namespaces of living grants is tried again, after a failure.
    living_retry_at: Option<Instant>,
    /// Secrets that a worker has used and that may not be needed any more.
    releases: WorkQueue<SecretName>,
    counts: ResourceCounts,
    depth_at: Instant,
    begun: Instant,
    tasks: JoinSet<Done>,
    ready: tokio::sync::watch::Sender<bool>,
}

/// What the hub remembers beside its resources.
pub struct HubRecord {
    /// Its id.
    pub id: String,
    /// The parts of sites that may hold something of it; `None`: none was ever stored.
    pub known: Option<KnownSites>,
}

enum Done {
    Written {
        owner: OwnerRef,
        result: Result<Option<Seen>, WriteError>,
        status: bool,
        asked: Moment,
    },
    /// Why a resource can not be worked on was written, or could not be.
    Told {
        owner: OwnerRef,
        result: Result<Option<Seen>, WriteError>,
        asked: Moment,
    },
    Released(OwnerRef, bool),
    Living(bool),
    KnownStored(KnownSites, Result<(), KnownSitesError>),
    SecretReleased(SecretName, bool),
}

/// What a visit ends with.
enum Next {
    Nothing,
    Write(Write),
    /// Release Secrets, then take the finalizer off.
    Release(Vec<SecretName>),
}

impl Next {
    fn as_str(&self) -> &'static str {
        match self {
            Next::Nothing => "nothing",
            Next::Write(Write::AddFinalizer) => "add the finalizer",
            Next::Write(Write::RemoveFinalizer) => "remove the finalizer",
            Next::Write(Write::Status(_)) => "write the status",
            Next::Write(Write::Conditions(_)) => "say why it can not be worked on",
            Next::Release(_) => "release credentials",
        }
    }
}

impl Hub {
    /// An actor that has not begun yet, and where to see that its caches are full.
    pub fn new(settings: HubSettings) -> (Self, tokio::sync::watch::Receiver<bool>) {
        let workers = SiteWorkers { reader: settings.reader.clone(), metrics: settings.metrics.clone() };
        Self::with_workers(settings, Box::new(workers))
    }

    fn with_workers(settings: HubSettings, workers: Box<dyn StartWorker>) -> (Self, tokio::sync::watch::Receiver<bool>) {
        let (sites, from_sites) = Sites::new(workers);
        let (ready, is_ready) = tokio::sync::watch::channel(false);
        let counts = ResourceCounts::new(settings.metrics.clone());
        let hub = Self {
            settings,
            id: String::new(),
            world: World::default(),
            fresh: BTreeMap::new(),
            moment: Moment::default(),
            synced: BTreeSet::new(),
            unlisted: BTreeSet::from([Kind::AIFactory, Kind::GPUPool, Kind::AccessGrant]),
            undecodable: BTreeMap::new(),
            sites,
            from_sites,
            known: KnownSites::default(),
            storing_known: false,
            known_from_status: None,
            known_retry_at: None,
            site_reports: BTreeMap::new(),
            words: BTreeMap::new(),
            reports: BTreeMap::new(),
            by_site: BTreeMap::new(),
            holders: BTreeMap::new(),
            ledgers: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            schedule: WorkQueue::new(WRITES, RESERVED),
            pace: BTreeMap::new(),
            living: BTreeSet::new(),
            living_stored: false,
            grants_changed: true,
            storing: false,
            living_retry_at: None,
            releases: WorkQueue::new(RELEASES, 0),
            counts,
            depth_at: Instant::now(),
            begun: Instant::now(),
            tasks: JoinSet::new(),
            ready,
        };
        (hub, is_ready)
    }

    /// Watches from now on, and works from when `lead` gives the hub's id until `stop` is done.
    pub async fn run<E>(self, lead: impl Future<Output = Result<HubRecord, E>>, stop: impl Future<Output = ()>) -> Result<(), E> {
        let (to, seen) = mpsc::channel(1024);
        let mut watches = JoinSet::new();
        self.watch::<AIFactory>(&mut watches, &to);
        self.watch::<GPUPool>(&mut watches, &to);
        self.watch::<AccessGrant>(&mut watches, &to);
        drop(to);
        self.run_on(seen, lead, stop).await
    }

    async fn run_on<E>(
        mut self,
        mut seen: mpsc::Receiver<Seen>,
        lead: impl Future<Output = Result<HubRecord, E>>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), E> {
        tokio::pin!(lead, stop);
        let mut leading = false;
        loop {
            if leading && self.unlisted.is_empty() {
                self.begin();
                self.releases.start();
                self.dispatch();
                self.tell_depth();
                self.release_due();
                self.store_living();
                self.store_known();
            }
            let now = Instant::now();
            let wake = self.next_wake(now).unwrap_or(now + Duration::from_secs(3600));
            tokio::select! {
                () = &mut stop => break,
                record = &mut lead, if !leading => {
                    let record = record?;
                    self.id = record.id;
                    self.remember(record.known);
                    self.begun = Instant::now();
                    leading = true;
                    self.settings.metrics.set_leader(true);
                    tracing::info!(hub = self.id, "Leading");
                }
                Some(event) = seen.recv() => {
                    self.seen(event);
                    while let Ok(event) = seen.try_recv() {
                        self.seen(event);
                    }
                }
                Some(message) = self.from_sites.recv() => {
                    self.heard(message);
                    while let Ok(message) = self.from_sites.try_recv() {
                        self.heard(message);
                    }
                }
                Some(done) = self.tasks.join_next() => {
                    if let Ok(done) = done {
                        self.happened(done);
                    }
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        // What was begun is finished; nothing new begins.
        let finish = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(10), finish).await;
        Ok(())
    }

    /// Begins to reconcile, when everything was listed. First of all the parts of sites that may hold something are known, since a resource that loses
    /// access goes before all others, factories included.
    fn begin(&mut self) {
        if self.schedule.is_started() {
            return;
        }
        let held = |factory: &AIFactory| factory.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == labels::FINALIZER);
        let factories = self.world.factories().filter(|(_, factory)| held(factory));
        let factories: Vec<(OwnerRef, Arc<AIFactory>)> = factories.map(|(owner, factory)| (owner.clone(), factory.clone())).collect();
        for (owner, factory) in factories {
            let known = std::panic::catch_unwind(AssertUnwindSafe(|| {
                self.ensure_workers(&owner);
                self.join_from_status(&owner, &factory);
            }));
            if known.is_err() {
                tracing::error!(%owner, "A visit panicked");
                self.settings.metrics.panicked(owner.kind);
            }
        }
        self.schedule.start();
    }

    /// When the loop goes on if nothing happens until then; never a time in the past, unless there is work to begin.
    fn next_wake(&mut self, now: Instant) -> Option<Instant> {
        let retries = [self.known_retry_at, self.living_retry_at].into_iter().flatten().filter(|at| *at > now);
        self.schedule.next_wake(now).into_iter().chain(self.releases.next_wake(now)).chain(retries).min()
    }

    fn watch<K: Watched>(&self, watches: &mut JoinSet<()>, to: &mpsc::Sender<Seen>) {
        let (client, metrics, to) = (self.settings.watch.clone(), self.settings.metrics.clone(), to.clone());
        watches.spawn(async move { restarted(ProcessTask::HubWatch, &metrics, || watch::<K>(client.clone(), to.clone())).await });
    }

    /// Begins work beside the loop. Where it panics, `failed` is what it comes to.
    fn spawn(&mut self, failed: Done, work: impl Future<Output = Done> + Send + 'static) {
        let metrics = self.settings.metrics.clone();
        self.tasks.spawn(async move { caught(ProcessTask::HubWrite, &metrics, work).await.unwrap_or(failed) });
    }

    fn seen(&mut self, event: Seen) {
        match event {
            Seen::Listing(kind) => {
                self.moment = self.moment.next();
                self.fresh.entry(kind).or_default().relist(self.moment);
            }
            Seen::Put(owner, object) => {
                if self.fresh.entry(owner.kind).or_default().shown(&owner, incarnation(object.meta())) {
                    self.put(owner, object);
                }
            }
            Seen::Undecodable(owner, found) => {
                if self.fresh.entry(owner.kind).or_default().shown(&owner, incarnation(&found.meta)) {
                    self.put_undecodable(owner, *found);
                }
            }
            Seen::Removed(owner, state) => {
                if self.fresh.entry(owner.kind).or_default().went(&owner, state) {
                    self.removed(&owner);
                }
            }
            Seen::Listed(kind, names) => {
                let known: Vec<OwnerRef> = match kind {
                    Kind::AIFactory => self.world.factories().map(|(owner, _)| owner.clone()).collect(),
                    Kind::GPUPool => self.world.pools().map(|(owner, _)| owner.clone()).collect(),
                    Kind::AccessGrant => self.world.grants().map(|(owner, _)| owner.clone()).collect(),
                };
                let known = known.iter().chain(self.undecodable.keys().filter(|owner| owner.kind == kind));
                let fresh = self.fresh.entry(kind).or_default();
                let gone: BTreeSet<OwnerRef> = known.filter(|owner| !names.contains(*owner) && !fresh.outlives_listing(owner)).cloned().collect();
                gone.iter().for_each(|owner| self.removed(owner));
                if self.unlisted.remove(&kind) && self.unlisted.is_empty() {
                    self.ready.send_replace(true);
                    tracing::info!("Saw everything of ours on the hub");
                }
            }
        }
    }

    /// Takes in the answer to a write that was begun at this moment, where it is newer than what the watch has shown.
    fn answered(&mut self, found: Seen, asked: Moment) {
        match found {
            Seen::Put(owner, object) => {
                if self.fresh.entry(owner.kind).or_default().answered(&owner, incarnation(object.meta()), asked) {
                    self.put(owner, object);
                }
            }
            Seen::Undecodable(owner, found) => {
                if self.fresh.entry(owner.kind).or_default().answered(&owner, incarnation(&found.meta), asked) {
                    self.put_undecodable(owner, *found);
                }
            }
            Seen::Listing(_) | Seen::Removed(..) | Seen::Listed(..) => {}
        }
    }

    fn put_undecodable(&mut self, owner: OwnerRef, found: Undecodable) {
        self.world.put_undecodable(owner.clone());
        if self.undecodable.get(&owner).is_none_or(|known| known.why != found.why) {
            tracing::warn!(%owner, why = found.why, "Can not be decoded");
        }
        let urgent = found.meta.deletion_timestamp.is_some();
        self.counts.set(&owner, Some("Undecodable"));
        self.undecodable.insert(owner.clone(), found);
        if urgent { self.schedule.add_urgent(owner) } else { self.schedule.add(owner) }
    }

    fn put(&mut self, owner: OwnerRef, object: Resourced) {
        self.undecodable.remove(&owner);
        let deleting = object.meta().deletion_timestamp.is_some();
        let (changed, urgent) = match &object {
            Resourced::Factory(factory) => {
                let before = self.world.factory(&owner);
                let changed = before.is_none_or(|before| {
                    before.spec != factory.spec
                        || before.metadata.deletion_timestamp != factory.metadata.deletion_timestamp
                        || before.metadata.annotations != factory.metadata.annotations
                });
                self.world.put_factory(owner.clone(), factory.clone());
                (changed, deleting)
            }
            Resourced::Pool(pool) => {
                let before = self.world.pool(&owner);
                let changed =
                    before.is_none_or(|before| before.spec != pool.spec || before.metadata.deletion_timestamp != pool.metadata.deletion_timestamp);
                self.world.put_pool(owner.clone(), pool.clone());
                (changed, deleting)
            }
            Resourced::Grant(grant) => {
                let before = self.world.grant(&owner);
                let changed = before.is_none_or(|before| {
                    before.spec != grant.spec
                        || before.metadata.deletion_timestamp != grant.metadata.deletion_timestamp
                        || before.may_give_access() != grant.may_give_access()
                });
                let urgent = takes_access(before.map(Arc::as_ref), grant, Timestamp::now());
                self.grants_changed = true;
                self.world.put_grant(owner.clone(), grant.clone());
                (changed, urgent)
            }
        };
        if changed {
            self.dependents(&owner);
        }
        self.counts.set(&owner, Some(object.phase()));
        match (changed, urgent) {
            (true, urgent) => self.schedule.add_anew(owner, urgent),
            (false, true) => self.schedule.add_urgent(owner),
            (false, false) => self.schedule.add(owner),
        }
    }

    fn removed(&mut self, owner: &OwnerRef) {
        self.dependents(owner);
        self.undecodable.remove(owner);
        self.world.remove(owner);
        self.counts.set(owner, None);
        self.grants_changed = true;
        self.pace.remove(owner);
        self.ledgers.remove(owner);
        self.settings.notices.forget(owner);
        if let Some(reports) = self.reports.remove(owner) {
            for key in reports.keys() {
                if let Some(owners) = self.by_site.get_mut(key) {
                    owners.remove(owner);
                }
            }
        }
        for key in self.sites.told(owner) {
            self.sites.gone(&key, owner);
        }
        self.schedule.add(owner.clone());
    }

    /// Those whose projection or status depends on this resource.
    fn dependents(&mut self, owner: &OwnerRef) {
        let soon = Instant::now() + RECOUNT;
        match owner.kind {
            Kind::AIFactory => {
                let pools: Vec<OwnerRef> = self.world.pools_of(owner).cloned().collect();
                for pool in pools {
                    let grants: Vec<OwnerRef> = self.world.grants_of(&pool).cloned().collect();
                    self.schedule.add(pool);
                    grants.into_iter().for_each(|grant| self.schedule.add(grant));
                }
                let grants: Vec<OwnerRef> = self.world.grants_by(owner).cloned().collect();
                grants.into_iter().for_each(|grant| self.schedule.add(grant));
            }
            Kind::GPUPool => {
                let grants: Vec<OwnerRef> = self.world.grants_of(owner).cloned().collect();
                grants.into_iter().for_each(|grant| self.schedule.add(grant));
                if let Some(pool) = self.world.pool(owner) {
                    self.schedule.add(factory_of_pool(owner, pool));
                }
            }
            Kind::AccessGrant => {
                let Some(grant) = self.world.grant(owner).cloned() else { return };
                for pool_ref in pools_of_grant(owner, &grant) {
                    let deleting = self.world.pool(&pool_ref).is_some_and(|pool| pool.metadata.deletion_timestamp.is_some());
                    let shared = self.world.pool(&pool_ref).is_some_and(|pool| {
                        pool.spec.consumers.iter().any(|consumer| {
                            consumer.namespaces.names.contains(&owner.namespace) && (consumer.gpu_hours.is_some() || consumer.max_gpus.is_some())
                        })
                    });
                    if shared {
                        let others: Vec<OwnerRef> = self.world.grants_of(&pool_ref).filter(|other| *other != owner).cloned().collect();
                        others.into_iter().for_each(|other| self.schedule.add(other));
                    }
                    if let Some(pool) = self.world.pool(&pool_ref) {
                        self.schedule.add_at(factory_of_pool(&pool_ref, pool), soon);
                    }
                    if deleting { self.schedule.add(pool_ref) } else { self.schedule.add_at(pool_ref, soon) }
                }
                if grant.spec.network.cross_site.is_some() {
                    let others: Vec<OwnerRef> = self.world.with_cross_site().map(|(other, _)| other.clone()).filter(|other| other != owner).collect();
                    others.into_iter().for_each(|other| self.schedule.add(other));
                }
                let factory = OwnerRef::new(Kind::AIFactory, &owner.namespace, &grant.spec.factory_ref.name);
                let deleting = self.world.factory(&factory).is_some_and(|factory| factory.metadata.deletion_timestamp.is_some());
                if deleting { self.schedule.add(factory) } else { self.schedule.add_at(factory, soon) }
            }
        }
    }

    fn heard(&mut self, Received { key, incarnation, message }: Received) {
        // A worker that was replaced speaks of another credential, or of a part that was let go.
        if !self.sites.is_current(&key, incarnation) {
            return;
        }
        match message {
            FromSite::About(report) => {
                let owner = report.owner.clone();
                if self.world.contains(&owner) {
                    self.by_site.entry(key.clone()).or_default().insert(owner.clone());
                    self.log_access(&key, &report);
                    self.reports.entry(owner.clone()).or_default().insert(key.clone(), *report);
                    let soon = Instant::now() + RECOUNT;
                    // What a grant has used is in its pools' figures.
                    for pool in self.world.grant(&owner).map(|grant| pools_of_grant(&owner, grant)).unwrap_or_default() {
                        self.schedule.add_at(pool, soon);
                    }
                    self.schedule.add(owner);
                    self.schedule.add_at(key.factory, soon);
                }
            }
            FromSite::Site(report) => self.site_heard(key, *report),
            FromSite::Died => self.worker_died(key),
        }
    }

    /// A part without a worker is known to hold what it held, and nothing that it said stands. A new worker begins after a pause.
    fn worker_died(&mut self, key: SiteKey) {
        let now = Instant::now();
        self.sites.died(&key, now);
        self.settings.metrics.set_site_connected(&key.to_string(), false);
        let problem = Finding::note(Reason::InternalError, "the operator failed while working on the site; its log says where");
        self.site_reports.insert(key.clone(), SiteReport { problem: Some(problem), ..SiteReport::default() });
        self.dependents(&key.factory);
        self.schedule.add(key.factory.clone());
        self.schedule.add_at(key.factory, now + PAUSE);
    }

    fn site_heard(&mut self, key: SiteKey, report: SiteReport) {
        let (metrics, name) = (&self.settings.metrics, key.to_string());
        metrics.set_site_connected(&name, report.reachable);
        metrics.set_site_orphans(&name, report.orphans.len());
        metrics.set_site_credential_expiry(&name, report.credential_expires);
        if let Some(word) = &report.word {
            self.words.insert(key.clone(), word.clone());
        }
        let before = self.site_reports.insert(key.clone(), report);
        let Some(report) = self.site_reports.get(&key) else { return };
        let state = |report: &SiteReport| (report.reachable, report.synced, report.problem.as_ref().map(|problem| problem.reason));
        let moved = before.as_ref().map(state) != Some(state(report));
        let newly_synced = report.synced && !before.as_ref().is_some_and(|before| before.synced);
        let held: BTreeSet<OwnerRef> = report.held.keys().cloned().collect();
        let synced = report.synced;
        if synced {
            self.synced.insert(key.clone());
            let mut due = Vec::new();
            for owner in held.iter().filter(|owner| owner.kind != Kind::AIFactory) {
                if self.world.contains(owner) {
                    if self.holders.entry(owner.clone()).or_default().insert(key.clone()) {
                        due.push(owner.clone());
                    }
                } else if self.unlisted.is_empty() && !self.undecodable.contains_key(owner) {
                    self.sites.gone(&key, owner);
                }
            }
            for (owner, sites) in &mut self.holders {
                if !held.contains(owner) && sites.remove(&key) {
                    due.push(owner.clone());
                }
            }
            self.holders.retain(|_, sites| !sites.is_empty());
            self.sites.forget_tombstones(&key, &held);
            due.into_iter().for_each(|owner| self.schedule.add(owner));
        }
        if newly_synced {
            self.sites.resend(&key);
        }
        self.learn_of(&key);
        if moved {
            for owner in self.sites.owners(&key) {
                self.schedule.add(owner);
            }
        }
        self.schedule.add(key.factory);
    }

    fn happened(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Written { owner, result, status, asked } => match result {
                Ok(Some(found)) => {
                    if status {
                        self.settings.metrics.status_written(owner.kind);
                        if let Some(pace) = self.pace.get_mut(&owner) {
                            pace.written(now);
                        }
                    }
                    self.schedule.done(&owner);
                    self.answered(found, asked);
                    self.schedule.add(owner);
                }
                Ok(None) => self.schedule.done(&owner),
                Err(error) => {
                    tracing::debug!(%owner, error = crate::hub::writes::explain(&error), "A write to the hub failed");
                    self.schedule.failed(&owner, now);
                }
            },
            Done::Told { owner, result, asked } => {
                self.schedule.failed(&owner, now);
                match result {
                    Ok(found) => found.into_iter().for_each(|found| self.answered(found, asked)),
                    Err(error) => tracing::debug!(%owner, error = crate::hub::writes::explain(&error), "A write to the hub failed"),
                }
            }
            Done::Released(owner, released) => match self.meta(&owner) {
                Some(meta) if released => self.spawn_write(owner, meta, Write::RemoveFinalizer),
                Some(_) => self.schedule.failed(&owner, now),
                None => self.schedule.done(&owner),
            },
            Done::KnownStored(known, result) => self.known_stored(known, result),
            Done::SecretReleased(secret, true) => self.releases.done(&secret),
            Done::SecretReleased(secret, false) => self.releases.failed(&secret, now),
            Done::Living(stored) => {
                self.storing = false;
                self.living_stored = stored;
                self.living_retry_at = (!stored).then(|| now + LIVING_RETRY);
            }
        }
    }

    /// Tells how many resources wait. Where there are many, that is counted now and then only.
    fn tell_depth(&mut self) {
        let now = Instant::now();
        if self.schedule.depth() > 0 && self.depth_at > now {
            return;
        }
        self.depth_at = now + DEPTH;
        for kind in [Kind::AIFactory, Kind::GPUPool, Kind::AccessGrant] {
            self.settings.metrics.set_queue_depth(kind, self.schedule.waiting().filter(|owner| owner.kind == kind).count());
        }
    }

    /// Writes the audit trail: what this report changes in a grant's access.
    fn log_access(&self, key: &SiteKey, report: &Report) {
        let owner = &report.owner;
        let before = self.reports.get(owner).and_then(|reports| reports.get(key));
        let rows = self.world.grant(owner).and_then(|grant| grant.status.as_ref()).map(|status| status.sites.as_slice()).unwrap_or_default();
        let stored = rows.iter().find(|row| row.name == key.display(&owner.namespace)).map(|row| row.phase.as_str());
        access_log::log(key, before, stored, report);
    }

    fn dispatch(&mut self) {
        let now = Instant::now();
        while let Some(owner) = self.schedule.next(now) {
            let urgent = self.schedule.is_urgent(&owner);
            let begun = Instant::now();
            let visited = std::panic::catch_unwind(AssertUnwindSafe(|| self.visit(&owner)));
            let result = match &visited {
                Ok(Next::Nothing) => ReconcileResult::Success,
                Ok(Next::Write(_) | Next::Release(_)) => ReconcileResult::RequeueAfter,
                Err(_) => ReconcileResult::Error,
            };
            self.settings.metrics.reconciled(owner.kind, result, begun.elapsed());
            if let Ok(next) = &visited {
                tracing::debug!(%owner, urgent, next = next.as_str(), "Reconciled");
            }
            match visited {
                Ok(Next::Nothing) => self.schedule.done(&owner),
                Ok(Next::Write(write)) => match self.meta(&owner) {
                    Some(meta) => self.spawn_write(owner, meta, write),
                    None => self.schedule.done(&owner),
                },
                Ok(Next::Release(secrets)) => {
                    let reader = self.settings.reader.clone();
                    let last = self.is_last_in_namespace(&owner);
                    self.spawn(Done::Released(owner.clone(), false), async move {
                        let mut released = true;
                        for secret in &secrets {
                            released &= reader.release_secret(&secret.namespace, &secret.name).await.is_ok();
                        }
                        if released && last {
                            released = reader.release_binding(&owner.namespace).await.is_ok();
                        }
                        Done::Released(owner, released)
                    });
                }
                Err(_) => {
                    tracing::error!(%owner, "A visit panicked");
                    self.settings.metrics.panicked(owner.kind);
                    self.broken(owner);
                }
            }
        }
    }

    fn object(&self, owner: &OwnerRef) -> Option<Resourced> {
        match owner.kind {
            Kind::AIFactory => self.world.factory(owner).cloned().map(Resourced::Factory),
            Kind::GPUPool => self.world.pool(owner).cloned().map(Resourced::Pool),
            Kind::AccessGrant => self.world.grant(owner).cloned().map(Resourced::Grant),
        }
    }

    fn meta(&self, owner: &OwnerRef) -> Option<ObjectMeta> {
        let undecodable = self.undecodable.get(owner).map(|found| found.meta.clone());
        undecodable.or_else(|| self.object(owner).map(|object| object.meta().clone()))
    }

    /// The moment at which a write begins.
    fn asked(&mut self) -> Moment {
        self.moment = self.moment.next();
        self.moment
    }

    fn spawn_write(&mut self, owner: OwnerRef, meta: ObjectMeta, change: Write) {
        let client = self.settings.client.clone();
        let status = matches!(change, Write::Status(_));
        let asked = self.asked();
        let failed = Done::Written { owner: owner.clone(), result: Err(WriteError::Panicked { owner: owner.clone() }), status: false, asked };
        self.spawn(failed, async move {
            let result = write(&client, &owner, &meta, change).await;
            Done::Written { owner, result, status, asked }
        });
    }

    /// Says on the resource that reconciling it failed, and tries again later.
    fn broken(&mut self, owner: OwnerRef) {
        const MESSAGE: &str = "the operator failed while visiting this resource; its log says where";
        let stored = match self.undecodable.get(&owner) {
            Some(found) => found.conditions.clone(),
            None => self.object(&owner).map(|object| object.conditions().to_vec()).unwrap_or_default(),
        };
        let meta = self.meta(&owner).unwrap_or_default();
        let Some(conditions) = conditions(&stored, meta.generation, Reason::InternalError, MESSAGE) else {
            return self.schedule.failed(&owner, Instant::now());
        };
        let client = self.settings.client.clone();
        let asked = self.asked();
        let failed = Done::Told { owner: owner.clone(), result: Err(WriteError::Panicked { owner: owner.clone() }), asked };
        self.spawn(failed, async move {
            let result = write(&client, &owner, &meta, Write::Conditions(conditions)).await;
            Done::Told { owner, result, asked }
        });
    }

    fn store_living(&mut self) {
        if self.storing || (self.living_stored && !self.grants_changed) || self.living_retry_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.living_retry_at = None;
        self.grants_changed = false;
        let living = deletion_protection::namespaces(&self.world);
        if self.living_stored && living == self.living {
            return;
        }
        self.storing = true;
        self.living.clone_from(&living);
        let (client, namespace) = (self.settings.client.clone(), self.settings.namespace.clone());
        self.spawn(Done::Living(false), async move { Done::Living(deletion_protection::store(&client, &namespace, &living).await) });
    }
}
