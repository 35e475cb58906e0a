//! The operator's metrics. Labels come from closed sets and names of sites; names of objects and members never appear.
//!
//! Names follow controller-runtime's with `aifactory_` in front, so that dashboards and alerts can be carried over.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aifactory_api::Kind;
use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};

use crate::client::{RequestOutcome, RequestVerb, Requests};
use crate::tolerant_decode::BROKEN;

/// Content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReconcileResult {
    /// Nothing left to do until something changes.
    Success,
    /// Success, and requeued for a known time.
    RequeueAfter,
    /// Failed, and requeued with a back-off.
    Error,
}

impl ReconcileResult {
    fn as_str(self) -> &'static str {
        match self {
            ReconcileResult::Success => "success",
            ReconcileResult::RequeueAfter => "requeue_after",
            ReconcileResult::Error => "error",
        }
    }
}

/// A task that runs beside the reconciling of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessTask {
    /// A watch on the hub.
    HubWatch,
    /// A write to the hub.
    HubWrite,
    /// The controller of a part of a site.
    SiteWorker,
    /// A watch at a site.
    SiteWatch,
    /// A request or a sync at a site.
    SiteTask,
}

impl ProcessTask {
    /// Every task.
    pub const ALL: [Self; 5] = [Self::HubWatch, Self::HubWrite, Self::SiteWorker, Self::SiteWatch, Self::SiteTask];

    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HubWatch => "hub_watch",
            Self::HubWrite => "hub_write",
            Self::SiteWorker => "site_worker",
            Self::SiteWatch => "site_watch",
            Self::SiteTask => "site_task",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabel {
    task: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    kind: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SiteLabel {
    site: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SiteRequestLabels {
    site: String,
    verb: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UsageLabels {
    site: String,
    pool: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    kind: &'static str,
    phase: &'static str,
}

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<ReconcileLabels, Counter>,
    reconcile_time: Family<KindLabel, Histogram>,
    panics: Family<KindLabel, Counter>,
    task_panics: Family<TaskLabel, Counter>,
    queue_depth: Family<KindLabel, Gauge>,
    status_writes: Family<KindLabel, Counter>,
    status_writes_pending: Family<KindLabel, Gauge>,
    resources: Family<ResourceLabels, Gauge>,
    leader: Gauge,
    hub_requests: Family<RequestLabels, Counter>,
    site_connected: Family<SiteLabel, Gauge>,
    site_queue_depth: Family<SiteLabel, Gauge>,
    site_requests: Family<SiteRequestLabels, Counter>,
    site_writes: Family<SiteLabel, Counter>,
    site_orphans: Family<SiteLabel, Gauge>,
    site_credential_expiry: Family<SiteLabel, Gauge>,
    gpu_seconds: Family<UsageLabels, Gauge>,
    /// Sites of each pool that have a figure.
    used: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

impl Metrics {
    /// Metrics with all counters at zero.
    pub fn new() -> Self {
        // From 1 ms to 16 s; a reconcile is bounded by its deadlines.
        let times = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let mut metrics = Self {
            registry: Registry::with_prefix("aifactory"),
            reconciles: Family::default(),
            reconcile_time: Family::new_with_constructor(times),
            panics: Family::default(),
            task_panics: Family::default(),
            queue_depth: Family::default(),
            status_writes: Family::default(),
            status_writes_pending: Family::default(),
            resources: Family::default(),
            leader: Gauge::default(),
            hub_requests: Family::default(),
            site_connected: Family::default(),
            site_queue_depth: Family::default(),
            site_requests: Family::default(),
            site_writes: Family::default(),
            site_orphans: Family::default(),
            site_credential_expiry: Family::default(),
            gpu_seconds: Family::default(),
            used: Mutex::default(),
        };
        metrics.register();
        // A rate over a counter that appears with its first panic would miss that one.
        for kind in [Kind::AIFactory, Kind::GPUPool, Kind::AccessGrant] {
            drop(metrics.panics.get_or_create(&KindLabel { kind: kind.as_str() }));
        }
        for task in ProcessTask::ALL {
            drop(metrics.task_panics.get_or_create(&TaskLabel { task: task.as_str() }));
        }
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("build", "Version of the operator", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("reconcile", "Reconciles of objects, by kind and result (success, requeue_after, error)", self.reconciles.clone());
        registry.register("reconcile_time_seconds", "Time of a reconcile in seconds, by kind", self.reconcile_time.clone());
        registry.register("reconcile_panics", "Panics that were caught in a reconcile, by kind; every one is a defect", self.panics.clone());
        registry.register(
            "task_panics",
            "Panics of tasks other than reconciles, by task; each task was started again, and each panic is a defect",
            self.task_panics.clone(),
        );
        registry.register("workqueue_depth", "Objects that wait to be reconciled on the hub, by kind", self.queue_depth.clone());
        registry.register("status_writes", "Writes of status on the hub, by kind; none at rest", self.status_writes.clone());
        registry.register(
            "status_writes_pending",
            "Objects on the hub whose status is written later, by kind: mere numbers at most every 30 s",
            self.status_writes_pending.clone(),
        );
        registry.register(
            "resources",
            "Objects on the hub, by kind and phase (of grants) or readiness (of factories and pools)",
            self.resources.clone(),
        );
        registry.register(
            "undecodable_objects",
            "Objects in lists, watches and answers that this release could not decode; each is named in the log, and where it is ours, in its status",
            BROKEN.clone(),
        );
        registry.register("leader_election_master_status", "1 while this process leads, 0 while it waits", self.leader.clone());
        registry.register("hub_requests", "Requests to the hub's API server, by verb and outcome", self.hub_requests.clone());
        registry.register("site_connected", "1 while the site answers, 0 while it does not", self.site_connected.clone());
        registry.register("site_workqueue_depth", "Objects that wait to be applied on the site", self.site_queue_depth.clone());
        registry.register("site_requests", "Requests to the site's API server, by verb and outcome", self.site_requests.clone());
        registry.register(
            "site_writes",
            "Requests that may have changed something on the site, dry runs left out; none at rest",
            self.site_writes.clone(),
        );
        registry.register("site_orphans", "Objects of ours on the site whose owner is gone from the hub", self.site_orphans.clone());
        registry.register(
            "site_credential_expiry_timestamp_seconds",
            "When the credential for the site ends, in seconds since 1970; absent while unknown",
            self.site_credential_expiry.clone(),
        );
        registry.register(
            "gpu_seconds",
            "Device-seconds that the grants which exist have used, by site and pool; falls when a grant goes",
            self.gpu_seconds.clone(),
        );
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }

    /// An object was reconciled.
    pub fn reconciled(&self, kind: Kind, result: ReconcileResult, time: Duration) {
        self.reconciles.get_or_create(&ReconcileLabels { kind: kind.as_str(), result: result.as_str() }).inc();
        self.reconcile_time.get_or_create(&KindLabel { kind: kind.as_str() }).observe(time.as_secs_f64());
    }

    /// A reconcile panicked, and the panic was caught.
    pub fn panicked(&self, kind: Kind) {
        self.panics.get_or_create(&KindLabel { kind: kind.as_str() }).inc();
    }

    /// So many objects wait in the hub's queue of this kind.
    pub fn set_queue_depth(&self, kind: Kind, depth: usize) {
        self.queue_depth.get_or_create(&KindLabel { kind: kind.as_str() }).set(gauge(depth));
    }

    /// A status was written.
    pub fn status_written(&self, kind: Kind) {
        self.status_writes.get_or_create(&KindLabel { kind: kind.as_str() }).inc();
    }

    /// The status of so many objects of a kind is written later.
    pub fn set_status_writes_pending(&self, kind: Kind, count: usize) {
        self.status_writes_pending.get_or_create(&KindLabel { kind: kind.as_str() }).set(gauge(count));
    }

    /// So many objects of a kind are in this phase.
    pub fn set_resources(&self, kind: Kind, phase: &'static str, count: usize) {
        self.resources.get_or_create(&ResourceLabels { kind: kind.as_str(), phase }).set(gauge(count));
    }

    /// A task of the process panicked.
    pub fn task_panicked(&self, task: ProcessTask) {
        self.task_panics.get_or_create(&TaskLabel { task: task.as_str() }).inc();
    }

    /// Whether this process leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// Whether a site answers.
    pub fn set_site_connected(&self, site: &str, connected: bool) {
        self.site_connected.get_or_create(&label(site)).set(connected.into());
    }

    /// So many objects wait in the site's queue.
    pub fn set_site_queue_depth(&self, site: &str, depth: usize) {
        self.site_queue_depth.get_or_create(&label(site)).set(gauge(depth));
    }

    /// So many orphans are on the site.
    pub fn set_site_orphans(&self, site: &str, orphans: usize) {
        self.site_orphans.get_or_create(&label(site)).set(gauge(orphans));
    }

    /// When the credential for the site ends, if that is known.
    pub fn set_site_credential_expiry(&self, site: &str, expires_at: Option<Timestamp>) {
        match expires_at {
            Some(at) => {
                self.site_credential_expiry.get_or_create(&label(site)).set(at.as_second());
            }
            None => {
                self.site_credential_expiry.remove(&label(site));
            }
        }
    }

    /// Device-seconds that grants have used of a pool, by site. Sites that were there before and are not given are forgotten.
    pub fn set_gpu_seconds(&self, pool: &str, by_site: &BTreeMap<String, i64>) {
        let labels = |site: &str| UsageLabels { site: site.to_owned(), pool: pool.to_owned() };
        let now: BTreeSet<String> = by_site.keys().cloned().collect();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        for site in used.insert(pool.to_owned(), now).unwrap_or_default().iter().filter(|site| !by_site.contains_key(*site)) {
            self.gpu_seconds.remove(&labels(site));
        }
        for (site, seconds) in by_site {
            self.gpu_seconds.get_or_create(&labels(site)).set(*seconds);
        }
    }

    /// Counts the requests of the hub's clients.
    pub fn hub_requests(self: &Arc<Self>) -> Arc<dyn Requests> {
        Arc::new(HubRequests(Arc::clone(self)))
    }

    /// Counts the requests of a site's clients.
    pub fn site_requests(self: &Arc<Self>, site: &str) -> Arc<dyn Requests> {
        Arc::new(SiteRequests { metrics: Arc::clone(self), site: site.to_owned() })
    }

    /// Removes the metrics of a site that is gone.
    pub fn forget_site(&self, site: &str) {
        let label = label(site);
        self.site_connected.remove(&label);
        self.site_queue_depth.remove(&label);
        self.site_writes.remove(&label);
        self.site_orphans.remove(&label);
        self.site_credential_expiry.remove(&label);
        for (pool, sites) in self.used.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            if sites.remove(site) {
                self.gpu_seconds.remove(&UsageLabels { site: site.to_owned(), pool: pool.clone() });
            }
        }
        for verb in RequestVerb::ALL {
            for outcome in RequestOutcome::ALL {
                self.site_requests.remove(&SiteRequestLabels { site: site.to_owned(), verb: verb.as_str(), outcome: outcome.as_str() });
            }
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

struct HubRequests(Arc<Metrics>);

impl Requests for HubRequests {
    fn ended(&self, verb: RequestVerb, outcome: RequestOutcome, _: bool) {
        self.0.hub_requests.get_or_create(&RequestLabels { verb: verb.as_str(), outcome: outcome.as_str() }).inc();
    }
}

struct SiteRequests {
    metrics: Arc<Metrics>,
    site: String,
}

impl Requests for SiteRequests {
    fn ended(&self, verb: RequestVerb, outcome: RequestOutcome, dry_run: bool) {
        let labels = SiteRequestLabels { site: self.site.clone(), verb: verb.as_str(), outcome: outcome.as_str() };
        self.metrics.site_requests.get_or_create(&labels).inc();
        // A write without an answer may have been carried out all the same.
        let changed = matches!(outcome, RequestOutcome::Success | RequestOutcome::ServerError | RequestOutcome::Unanswered);
        if verb.is_write() && !dry_run && changed {
            self.metrics.site_writes.get_or_create(&label(&self.site)).inc();
        }
    }
}

fn label(site: &str) -> SiteLabel {
    SiteLabel { site: site.to_owned() }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc, time::Duration};

    use aifactory_api::Kind;

    use super::{Metrics, ProcessTask, ReconcileResult};
    use crate::client::{RequestOutcome, RequestVerb};

    fn used() -> Arc<Metrics> {
        let metrics = Arc::new(Metrics::new());
        metrics.reconciled(Kind::AccessGrant, ReconcileResult::Success, Duration::from_millis(3));
        metrics.panicked(Kind::GPUPool);
        metrics.set_queue_depth(Kind::AIFactory, 2);
        metrics.status_written(Kind::AccessGrant);
        metrics.set_status_writes_pending(Kind::GPUPool, 3);
        metrics.set_resources(Kind::AccessGrant, "Active", 6);
        metrics.set_resources(Kind::AccessGrant, "Expired", 7);
        metrics.task_panicked(ProcessTask::SiteWorker);
        metrics.set_leader(true);
        metrics.hub_requests().ended(RequestVerb::Watch, RequestOutcome::Success, false);
        metrics.set_site_connected("bissen", true);
        metrics.set_site_queue_depth("bissen", 1);
        metrics.set_site_orphans("bissen", 4);
        metrics.set_site_credential_expiry("bissen", Some("2030-01-01T00:00:00Z".parse().unwrap()));
        metrics.set_gpu_seconds("example/h100", &BTreeMap::from([("bissen".to_owned(), 7200), ("bettembourg".to_owned(), 5)]));
        metrics.set_gpu_seconds("example/h100", &BTreeMap::from([("bissen".to_owned(), 7260)]));
        let site = metrics.site_requests("bissen");
        site.ended(RequestVerb::Patch, RequestOutcome::Success, false);
        site.ended(RequestVerb::Patch, RequestOutcome::Success, true);
        site.ended(RequestVerb::Patch, RequestOutcome::NotLeading, false);
        site.ended(RequestVerb::Read, RequestOutcome::Success, false);
        metrics
    }

    #[test]
    fn names_and_labels_are_stable() {
        let text = used().encode().unwrap();
        // Undecodable objects are counted for the whole process, so other tests change this figure.
        let sample = |line: &&str| !line.starts_with('#') && !line.contains("_bucket{") && !line.starts_with("aifactory_undecodable_objects_total");
        let samples: Vec<&str> = text.lines().filter(sample).collect();
        let golden = [
            "aifactory_build_info{version=\"0.1.0\"} 1",
            "aifactory_reconcile_total{kind=\"AccessGrant\",result=\"success\"} 1",
            "aifactory_reconcile_time_seconds_sum{kind=\"AccessGrant\"} 0.003",
            "aifactory_reconcile_time_seconds_count{kind=\"AccessGrant\"} 1",
            "aifactory_reconcile_panics_total{kind=\"AIFactory\"} 0",
            "aifactory_reconcile_panics_total{kind=\"GPUPool\"} 1",
            "aifactory_reconcile_panics_total{kind=\"AccessGrant\"} 0",
            "aifactory_task_panics_total{task=\"hub_watch\"} 0",
            "aifactory_task_panics_total{task=\"hub_write\"} 0",
            "aifactory_task_panics_total{task=\"site_worker\"} 1",
            "aifactory_task_panics_total{task=\"site_task\"} 0",
            "aifactory_task_panics_total{task=\"site_watch\"} 0",
            "aifactory_workqueue_depth{kind=\"AIFactory\"} 2",
            "aifactory_status_writes_total{kind=\"AccessGrant\"} 1",
            "aifactory_status_writes_pending{kind=\"GPUPool\"} 3",
            "aifactory_resources{kind=\"AccessGrant\",phase=\"Active\"} 6",
            "aifactory_resources{kind=\"AccessGrant\",phase=\"Expired\"} 7",
            "aifactory_leader_election_master_status 1",
            "aifactory_hub_requests_total{verb=\"watch\",outcome=\"success\"} 1",
            "aifactory_site_connected{site=\"bissen\"} 1",
            "aifactory_site_workqueue_depth{site=\"bissen\"} 1",
            "aifactory_site_requests_total{site=\"bissen\",verb=\"patch\",outcome=\"not_leading\"} 1",
            "aifactory_site_requests_total{site=\"bissen\",verb=\"patch\",outcome=\"success\"} 2",
            "aifactory_site_requests_total{site=\"bissen\",verb=\"read\",outcome=\"success\"} 1",
            "aifactory_site_writes_total{site=\"bissen\"} 1",
            "aifactory_site_orphans{site=\"bissen\"} 4",
            "aifactory_gpu_seconds{site=\"bissen\",pool=\"example/h100\"} 7260",
            "aifactory_site_credential_expiry_timestamp_seconds{site=\"bissen\"} 1893456000",
        ];
        let (mut samples, mut golden) = (samples, golden.to_vec());
        samples.sort_unstable();
        golden.sort_unstable();
        assert_eq!(samples, golden);
    }

    #[test]
    fn every_metric_has_a_help_text() {
        let text = used().encode().unwrap();
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).unwrap();
            let help = text.lines().find(|line| line.starts_with(&format!("# HELP {name} "))).unwrap();
            assert!(help.len() > name.len() + 25, "{help}");
        }
    }

    #[test]
    fn a_site_that_is_gone_leaves_nothing() {
        let metrics = used();
        metrics.forget_site("bissen");
        assert!(!metrics.encode().unwrap().contains("bissen"));
    }
}
