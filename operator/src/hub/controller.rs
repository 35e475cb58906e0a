//! The hub's controller: one task owns the cache, the reports of sites and the work queue, and reconciles; everything that waits for an API server is
//! spawned.

mod credentials;
mod deletion_protection;
mod dispatch;
mod known;
mod observe;
mod outcome;
mod pace;
mod pending;
mod receive;
mod reconcile;
#[cfg(test)]
mod site_tests;
mod status;
#[cfg(test)]
mod tests;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use aifactory_api::{AIFactory, AccessGrant, GPUPool, Kind, OwnerRef, labels};
use aifactory_plan::hub::cache::Cache;
use aifactory_plan::hub::holders::Holders;
use aifactory_plan::hub::known_sites::KnownSites;
use aifactory_plan::hub::ledger::Ledger;
use aifactory_plan::hub::reports::ReportIndex;
use aifactory_plan::model::freshness::{Freshness, Moment};
use aifactory_plan::model::id::HubId;
use aifactory_plan::model::intent::SiteConfig;
use aifactory_plan::model::report::SiteReport;
use aifactory_plan::model::site_key::SiteKey;
use jiff::Timestamp;
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::broken::Undecodable;
use super::sites::{SiteWorkers, Sites, StartWorker};
use super::watch::{WatchEvent, Watched, watch};
use crate::credential::reader::CredentialReader;
use crate::supervise::{caught, restarted};
use crate::telemetry::event_recorder::EventRecorder;
use crate::telemetry::metrics::{Metrics, ProcessTask};
use crate::telemetry::resource_counts::ResourceCounts;
use crate::transport::HubReceiver;
use crate::workqueue::WorkQueue;
use credentials::SecretName;
use outcome::Finished;
use pace::Pace;
use pending::PendingStatus;

/// How many writes to the hub run at a time.
const WRITES: usize = 16;
/// How many of them are reserved for resources that lose access.
const RESERVED: usize = 4;
/// After a restart: how long a stored status is kept while sites have not reported again.
const REPORT_GRACE: Duration = Duration::from_secs(15);
/// Pause before storing the namespaces of living grants is tried again.
const PROTECTION_RETRY: Duration = Duration::from_secs(5);
/// How many Secrets are released at a time.
const RELEASES: usize = 4;
/// How often the hub looks whether the record of known parts is still there: without it a restart would forget parts that left the specs.
const KNOWN_CHECK: Duration = Duration::from_secs(60);
/// The shortest time between two updates of the queue depth metric while the queue is not empty.
const DEPTH: Duration = Duration::from_millis(500);
/// How soon the figures of pools and factories are updated after a change of a grant.
const RECOUNT: Duration = Duration::from_secs(1);
/// The longest sleep until a wall-clock time, since that clock may be set meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

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
    /// Publishes Events about transitions.
    pub event_recorder: EventRecorder,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Honours annotations that make the operator fail, for its own tests.
    pub test_hooks: bool,
}

/// The hub's controller.
pub struct Hub {
    settings: HubSettings,
    /// Id of the hub, known once this process leads.
    id: HubId,
    cache: Cache,
    /// The last version seen of each resource, including deleted ones until the next listing, so that a late event or answer does not bring one back.
    fresh: BTreeMap<Kind, Freshness<OwnerRef>>,
    /// Counts listings, to tell which answers to writes are older than a listing.
    moment: Moment,
    /// The parts of sites that have been synced since this process leads.
    synced: BTreeSet<SiteKey>,
    unlisted: BTreeSet<Kind>,
    undecodable: BTreeMap<OwnerRef, Undecodable>,
    sites: Sites,
    from_sites: HubReceiver,
    /// The parts of sites that may hold something, as they are to be stored; `cache.known` is what is stored.
    known: KnownSites,
    storing_known: bool,
    /// Factories whose status was read for parts that an older release has claimed; `None`: the set has been stored before, so that status is not
    /// needed.
    known_from_status: Option<BTreeSet<OwnerRef>>,
    /// When storing the known parts is tried again.
    known_retry_at: Option<Instant>,
    /// When the hub looks next whether the known parts are still stored; `None`: it is looking.
    known_check_at: Option<Instant>,
    /// Counts writes of the record, to tell which reads are older than one.
    known_writes: u64,
    site_reports: BTreeMap<SiteKey, SiteReport>,
    /// The configuration that the admins of sites keep, as last reported.
    site_configs: BTreeMap<SiteKey, SiteConfig>,
    /// What sites report about resources.
    reports: ReportIndex,
    /// Which parts of sites hold something of a resource.
    holders: Holders,
    /// What each site may still let a grant use.
    ledgers: BTreeMap<OwnerRef, Ledger>,
    abandoned: BTreeSet<SiteKey>,
    schedule: WorkQueue<OwnerRef>,
    pace: BTreeMap<OwnerRef, Pace>,
    pending: PendingStatus,
    protected_namespaces: BTreeSet<String>,
    protection_stored: bool,
    grants_changed: bool,
    storing_protection: bool,
    /// When storing the namespaces of living grants is tried again, after a failure.
    protection_retry_at: Option<Instant>,
    /// Secrets that a site's controller has used and that may not be needed any more.
    releases: WorkQueue<SecretName>,
    counts: ResourceCounts,
    depth_at: Instant,
    begun: Instant,
    /// The same by the wall clock.
    leading_since: Timestamp,
    tasks: JoinSet<Finished>,
    ready: tokio::sync::watch::Sender<bool>,
}

/// What the hub stores beside its resources.
pub struct HubRecord {
    /// Its id.
    pub id: HubId,
    /// The parts of sites that may hold something of it; `None`: none was ever stored.
    pub known: Option<KnownSites>,
}

impl Hub {
    /// A controller that does not run yet, and a channel that turns true when its caches are synced.
    pub fn new(settings: HubSettings) -> (Self, tokio::sync::watch::Receiver<bool>) {
        let workers = SiteWorkers { reader: settings.reader.clone(), metrics: settings.metrics.clone() };
        Self::with_workers(settings, Box::new(workers))
    }

    /// The same, with another way to start the controllers of sites, for tests.
    pub fn with_workers(settings: HubSettings, workers: Box<dyn StartWorker>) -> (Self, tokio::sync::watch::Receiver<bool>) {
        let (sites, from_sites) = Sites::new(workers);
        let (ready, is_ready) = tokio::sync::watch::channel(false);
        let counts = ResourceCounts::new(settings.metrics.clone());
        let pending = PendingStatus::new(settings.metrics.clone());
        let hub = Self {
            settings,
            id: HubId::default(),
            cache: Cache::default(),
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
            known_check_at: Some(Instant::now() + KNOWN_CHECK),
            known_writes: 0,
            site_reports: BTreeMap::new(),
            site_configs: BTreeMap::new(),
            reports: ReportIndex::default(),
            holders: Holders::default(),
            ledgers: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            schedule: WorkQueue::new(WRITES, RESERVED),
            pace: BTreeMap::new(),
            pending,
            protected_namespaces: BTreeSet::new(),
            protection_stored: false,
            grants_changed: true,
            storing_protection: false,
            protection_retry_at: None,
            releases: WorkQueue::new(RELEASES, 0),
            counts,
            depth_at: Instant::now(),
            begun: Instant::now(),
            leading_since: Timestamp::now(),
            tasks: JoinSet::new(),
            ready,
        };
        (hub, is_ready)
    }

    /// Runs the controller until `stop` resolves. It watches from the start, and reconciles once `lead` has resolved to the hub's record.
    pub async fn run<E>(self, lead: impl Future<Output = Result<HubRecord, E>>, stop: impl Future<Output = ()>) -> Result<(), E> {
        let (to, seen) = mpsc::channel(1024);
        let mut watches = JoinSet::new();
        self.watch::<AIFactory>(&mut watches, &to);
        self.watch::<GPUPool>(&mut watches, &to);
        self.watch::<AccessGrant>(&mut watches, &to);
        drop(to);
        self.run_on(seen, lead, stop).await
    }

    /// [`Hub::run`] with events from `seen` instead of watches of its own.
    pub async fn run_on<E>(
        mut self,
        mut seen: mpsc::Receiver<WatchEvent>,
        lead: impl Future<Output = Result<HubRecord, E>>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), E> {
        tokio::pin!(lead, stop);
        let mut leading = false;
        loop {
            if leading && self.unlisted.is_empty() {
                self.work();
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
                    self.leading_since = Timestamp::now();
                    leading = true;
                    self.settings.metrics.set_leader(true);
                    tracing::info!(hub = self.id.as_str(), "Leading");
                }
                Some(event) = seen.recv() => {
                    self.observe(event);
                    while let Ok(event) = seen.try_recv() {
                        self.observe(event);
                    }
                }
                Some(message) = self.from_sites.recv() => {
                    self.receive(message);
                    while let Ok(message) = self.from_sites.try_recv() {
                        self.receive(message);
                    }
                }
                Some(done) = self.tasks.join_next() => {
                    if let Ok(done) = done {
                        self.finished(done);
                    }
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        // Writes that were begun are awaited; no new one begins.
        let finish = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(10), finish).await;
        Ok(())
    }

    /// Starts all work that is due.
    fn work(&mut self) {
        self.begin();
        self.releases.start();
        self.advance();
        self.dispatch();
        self.report_queue_depth();
        self.release_due();
        self.store_deletion_protection();
        self.store_known();
        self.check_known();
    }

    /// Starts to reconcile once every kind is listed. The controllers of sites are started before that: a grant that loses access is reconciled
    /// before its factory, and must find the sites that may hold something.
    fn begin(&mut self) {
        if self.schedule.is_started() {
            return;
        }
        let held = |factory: &AIFactory| factory.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == labels::FINALIZER);
        let factories = self.cache.factories().filter(|(_, factory)| held(factory));
        let factories: Vec<(OwnerRef, Arc<AIFactory>)> = factories.map(|(owner, factory)| (owner.clone(), factory.clone())).collect();
        for (owner, factory) in factories {
            let known = std::panic::catch_unwind(AssertUnwindSafe(|| {
                self.ensure_workers(&owner);
                self.join_from_status(&owner, &factory);
            }));
            if known.is_err() {
                tracing::error!(%owner, "Reconciling panicked");
                self.settings.metrics.panicked(owner.kind);
            }
        }
        self.schedule.start();
    }

    /// When the loop must run again without an event. Never a time in the past, unless there is work that can start.
    fn next_wake(&mut self, now: Instant) -> Option<Instant> {
        let retries = [self.known_retry_at, self.known_check_at, self.protection_retry_at].into_iter().flatten().filter(|at| *at > now);
        // The end of a grant frees quota for others, which matters only once this process reconciles.
        let end = self.cache.next_end().filter(|_| self.schedule.is_started()).map(|end| {
            let wait = Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default().min(LONGEST_WAIT);
            now + wait + Duration::from_millis(1)
        });
        self.schedule.next_wake(now).into_iter().chain(self.releases.next_wake(now)).chain(retries).chain(end).min()
    }

    fn watch<K: Watched>(&self, watches: &mut JoinSet<()>, to: &mpsc::Sender<WatchEvent>) {
        let (client, metrics, to) = (self.settings.watch.clone(), self.settings.metrics.clone(), to.clone());
        watches.spawn(async move { restarted(ProcessTask::HubWatch, &metrics, || watch::<K>(client.clone(), to.clone())).await });
    }

    /// Spawns work beside the loop. Where it panics, the result is `failed`.
    fn spawn(&mut self, failed: Finished, work: impl Future<Output = Finished> + Send + 'static) {
        let metrics = self.settings.metrics.clone();
        self.tasks.spawn(async move { caught(ProcessTask::HubWrite, &metrics, work).await.unwrap_or(failed) });
    }
}
