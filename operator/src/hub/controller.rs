//! The hub's controller: an actor that owns the cache, what sites report, and the work queue; decides in one place, and leaves waiting to tasks.

mod credentials;
mod dispatch;
mod known;
mod living;
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
use aifactory_plan::model::intent::SiteWord;
use aifactory_plan::model::report::SiteReport;
use aifactory_plan::model::site_key::SiteKey;
use jiff::Timestamp;
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::broken::Undecodable;
use super::sites::{SiteWorkers, Sites, StartWorker};
use super::watch::{Seen, Watched, watch};
use crate::credential::reader::CredentialReader;
use crate::supervise::{caught, restarted};
use crate::telemetry::event_recorder::Notices;
use crate::telemetry::metrics::{Metrics, ProcessTask};
use crate::telemetry::resource_counts::ResourceCounts;
use crate::transport::HubReceiver;
use crate::workqueue::WorkQueue;
use credentials::SecretName;
use outcome::Finished;
use pace::Pace;
use pending::PendingStatus;

/// Writes to the hub at a time.
const WRITES: usize = 16;
/// How many of them are kept for resources that lose access.
const RESERVED: usize = 4;
/// How long a status that was true before a restart stands until sites have reported again.
const REPORT_GRACE: Duration = Duration::from_secs(15);
/// Pause before storing the namespaces of living grants is tried again.
const LIVING_RETRY: Duration = Duration::from_secs(5);
/// Secrets in work at a time.
const RELEASES: usize = 4;
/// How often the depth of the queue is reported at most while there is one.
const DEPTH: Duration = Duration::from_millis(500);
/// How soon pools and factories are counted again after a change of a grant.
const RECOUNT: Duration = Duration::from_secs(1);
/// The longest wait for a moment of the wall clock.
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
    /// Tells people of transitions.
    pub notices: Notices,
    /// Counts.
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
    /// The parts of sites that may hold something, as they shall be stored; `cache.known` is what is stored.
    known: KnownSites,
    storing_known: bool,
    /// Factories whose status is read for parts that a release before this one has claimed; `None`: the set was stored before.
    known_from_status: Option<BTreeSet<OwnerRef>>,
    /// When storing them is tried again.
    known_retry_at: Option<Instant>,
    site_reports: BTreeMap<SiteKey, SiteReport>,
    /// What sites say themselves, as last read.
    words: BTreeMap<SiteKey, SiteWord>,
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
    tasks: JoinSet<Finished>,
    ready: tokio::sync::watch::Sender<bool>,
}

/// What the hub remembers beside its resources.
pub struct HubRecord {
    /// Its id.
    pub id: HubId,
    /// The parts of sites that may hold something of it; `None`: none was ever stored.
    pub known: Option<KnownSites>,
}

impl Hub {
    /// An actor that has not begun yet, and where to see that its caches are full.
    pub fn new(settings: HubSettings) -> (Self, tokio::sync::watch::Receiver<bool>) {
        let workers = SiteWorkers { reader: settings.reader.clone(), metrics: settings.metrics.clone() };
        Self::with_workers(settings, Box::new(workers))
    }

    /// The same, with workers of sites that somebody else starts.
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
            site_reports: BTreeMap::new(),
            words: BTreeMap::new(),
            reports: ReportIndex::default(),
            holders: Holders::default(),
            ledgers: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            schedule: WorkQueue::new(WRITES, RESERVED),
            pace: BTreeMap::new(),
            pending,
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

    /// Works on what somebody else's watches have seen: see [`Hub::run`].
    pub async fn run_on<E>(
        mut self,
        mut seen: mpsc::Receiver<Seen>,
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
        // What was begun is finished; nothing new begins.
        let finish = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(10), finish).await;
        Ok(())
    }

    /// Begins all that is due.
    fn work(&mut self) {
        self.begin();
        self.releases.start();
        self.advance();
        self.dispatch();
        self.report_queue_depth();
        self.release_due();
        self.store_living();
        self.store_known();
    }

    /// Begins to reconcile, when everything was listed. First of all the parts of sites that may hold something are known, since a resource that loses
    /// access goes before all others, factories included.
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

    /// When the loop goes on if nothing happens until then; never a time in the past, unless there is work to begin.
    fn next_wake(&mut self, now: Instant) -> Option<Instant> {
        let retries = [self.known_retry_at, self.living_retry_at].into_iter().flatten().filter(|at| *at > now);
        // A grant that ends sets something free for others only while this process reconciles.
        let end = self.cache.next_end().filter(|_| self.schedule.is_started()).map(|end| {
            let wait = Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default().min(LONGEST_WAIT);
            now + wait + Duration::from_millis(1)
        });
        self.schedule.next_wake(now).into_iter().chain(self.releases.next_wake(now)).chain(retries).chain(end).min()
    }

    fn watch<K: Watched>(&self, watches: &mut JoinSet<()>, to: &mpsc::Sender<Seen>) {
        let (client, metrics, to) = (self.settings.watch.clone(), self.settings.metrics.clone(), to.clone());
        watches.spawn(async move { restarted(ProcessTask::HubWatch, &metrics, || watch::<K>(client.clone(), to.clone())).await });
    }

    /// Begins work beside the loop. Where it panics, `failed` is what it comes to.
    fn spawn(&mut self, failed: Finished, work: impl Future<Output = Finished> + Send + 'static) {
        let metrics = self.settings.metrics.clone();
        self.tasks.spawn(async move { caught(ProcessTask::HubWrite, &metrics, work).await.unwrap_or(failed) });
    }
}
