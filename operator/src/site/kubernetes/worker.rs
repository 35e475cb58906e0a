//! The driver of a site's Kubernetes: it owns the index of what is at the site and the work queue, plans in one place, and spawns a task for
//! everything that waits for the API server.

mod driver;
mod observations;
mod reports;
mod session;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use aifactory_api::{Kind, OwnerRef, Reason};
use aifactory_plan::engine;
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::id::TenantNamespace;
use aifactory_plan::model::intent::{Body, SiteConfig};
use aifactory_plan::model::object::ObjectKind;
use aifactory_plan::model::plan::{Plan, Purpose};
use aifactory_plan::model::report::Finding;
use aifactory_plan::model::site_key::SiteKey;
use aifactory_plan::site::altered::AlteredObjects;
use aifactory_plan::site::index::Index;
use aifactory_plan::site::policy::SitePolicy;
use aifactory_plan::site::pools::Pools;
use aifactory_plan::site::reconcile::Reconciler;
use aifactory_plan::site::refusals::Refusals;
use aifactory_plan::site::usage::Accounts;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::credential::reader::CredentialReader;
use crate::site::clock::Now;
use crate::site::controller::{self, Core};
use crate::site::kubernetes::watch::Observation;
use crate::telemetry::metrics::Metrics;
use crate::transport::{SiteSender, WorkerSender};
use crate::workqueue::WorkQueue;
use session::Event;

/// How many resources are reconciled at a time at one site.
const CONCURRENT_RECONCILES: usize = 16;
/// How many of them are reserved for resources that lose access.
const RESERVED: usize = 4;
/// Requests at a time to one site.
const REQUESTS: usize = 16;
/// Pause before a write that the site refused is tried again.
const REFUSED: Duration = Duration::from_secs(60);
/// The shortest time between two reports of a site about itself.
const SITE_REPORT: Duration = Duration::from_millis(200);

/// Starts the controller of a site's Kubernetes; it ends when the sender is dropped.
pub fn start(key: SiteKey, source: CredentialSource, reader: CredentialReader, hub: WorkerSender, metrics: Arc<Metrics>) -> SiteSender {
    controller::start(KubernetesDriver::new(Core::new(key, source, reader, hub, metrics)))
}

struct KubernetesDriver {
    core: Core<Self>,
    label: String,
    refusals: Refusals,
    index: Index,
    /// Which pool has which nodes.
    pools: Pools,
    /// GPU time of Pods.
    hours: Accounts,
    policy: SitePolicy,
    /// The ConfigMaps by which the site's admin configures the operator, at its Slurm as well.
    site_config: SiteConfig,
    schedule: WorkQueue<OwnerRef>,
    findings: BTreeMap<OwnerRef, Vec<Finding>>,
    rounds: BTreeMap<OwnerRef, u32>,
    lost: BTreeSet<OwnerRef>,
    /// Objects that the site changes on each write, such as by a mutating webhook.
    altered: BTreeMap<OwnerRef, AlteredObjects>,
    /// UID of a cluster that answers, while the hub has not stored yet that it may hold something.
    unrecorded_uid: Option<String>,
    site_dirty: bool,
    /// Owners of which the site may hold something else than it has reported.
    held_dirty: BTreeSet<OwnerRef>,
    site_report_at: Option<Instant>,
    released: bool,
}

/// What a session lists first: before every listing is complete, nothing counts as absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Listing {
    Kind(ObjectKind),
    Nodes,
    Pods,
    Policy,
    SlurmUsers,
}

impl Listing {
    /// The listing that an event of a watch completes.
    fn completed_by(observation: &Observation) -> Option<Self> {
        match observation {
            Observation::Listed(kind, _) => Some(Self::Kind(*kind)),
            Observation::NodesListed(_) => Some(Self::Nodes),
            Observation::PodsListed(_) | Observation::PodsUnseen(Some(_)) => Some(Self::Pods),
            Observation::Policy(_) => Some(Self::Policy),
            Observation::SlurmUsers(_) => Some(Self::SlurmUsers),
            Observation::Put(_)
            | Observation::Removed(_)
            | Observation::Listing(_)
            | Observation::Node(..)
            | Observation::NodeRemoved(_)
            | Observation::NodesListing
            | Observation::Pod(_)
            | Observation::PodRemoved(_)
            | Observation::PodsUnseen(None)
            | Observation::PodsUnwatched(_)
            | Observation::Failed(_) => None,
        }
    }
}

impl KubernetesDriver {
    fn new(core: Core<Self>) -> Self {
        let mut schedule = WorkQueue::new(CONCURRENT_RECONCILES, RESERVED);
        schedule.start();
        Self {
            label: core.key.to_string(),
            core,
            refusals: Refusals::default(),
            index: Index::default(),
            pools: Pools::default(),
            hours: Accounts::default(),
            policy: SitePolicy::default(),
            site_config: SiteConfig::default(),
            schedule,
            findings: BTreeMap::new(),
            rounds: BTreeMap::new(),
            lost: BTreeSet::new(),
            altered: BTreeMap::new(),
            unrecorded_uid: None,
            site_dirty: false,
            held_dirty: BTreeSet::new(),
            site_report_at: None,
            released: false,
        }
    }

    fn synced(&self) -> bool {
        self.core.connection.session().is_some_and(|active| active.unlisted.is_empty())
    }

    /// Reconciles the resources that are due, as far as the limit of concurrent reconciles allows.
    fn reconcile_due(&mut self, now: Instant) {
        self.assign_nodes();
        while let Some(owner) = self.schedule.next(now) {
            self.reconcile(owner);
        }
        self.core.metrics.set_site_queue_depth(&self.label, self.schedule.depth());
    }

    /// Assigns nodes to pools anew after pools or nodes have changed, and queues the pools that get other nodes.
    fn assign_nodes(&mut self) {
        if !self.synced() {
            return;
        }
        let Some(changed) = self.pools.assign(&self.core.intents, &self.index) else { return };
        // Which pools a site holds nodes of follows from the nodes' labels; no other event marks these owners as changed.
        self.held_dirty.extend(self.index.pools_on_nodes(&self.core.key.factory));
        let reported = self.core.site_reported().into_iter().flat_map(|report| report.held.keys());
        self.held_dirty.extend(reported.filter(|owner| owner.kind == Kind::GPUPool).cloned());
        let first = OwnerRef::new(Kind::GPUPool, "", "");
        let gone = self.core.gone.range(first..).take_while(|owner| owner.kind == Kind::GPUPool).cloned();
        changed.into_iter().chain(gone).for_each(|owner| self.schedule.add(owner));
    }

    fn reconcile(&mut self, owner: OwnerRef) {
        self.count(&owner);
        let plan = match std::panic::catch_unwind(AssertUnwindSafe(|| self.plan(&owner))) {
            Ok(plan) => plan,
            Err(_) => {
                tracing::error!(site = %self.core.key, %owner, "Planning panicked");
                self.core.metrics.panicked(owner.kind);
                self.findings
                    .insert(owner.clone(), vec![Finding::stalled(Reason::InternalError, "the operator failed while planning; its log says where")]);
                self.schedule.failed(&owner, Instant::now());
                return;
            }
        };
        let Some(mut plan) = plan else {
            self.schedule.done(&owner);
            return;
        };
        if let Some(wake) = plan.wake {
            self.schedule.add_at(owner.clone(), Now::read().instant_of(wake));
        }
        let settled = plan.steps.is_empty();
        if settled {
            self.rounds.remove(&owner);
            self.findings.remove(&owner);
            self.ended(&owner);
        }
        self.withhold(&owner, &mut plan);
        if plan.steps.is_empty() {
            self.report_owner(&owner, &plan, settled);
            self.schedule.done(&owner);
            return;
        }
        let Some((id, active)) = self.core.connection.id().zip(self.core.connection.session()) else {
            self.schedule.done(&owner);
            return;
        };
        let (applier, steps, asked) = (active.applier.clone(), plan.steps, self.index.moment());
        let panicked = Event::Executed(id, asked, owner.clone(), Err("the operator failed while writing; its log says where".to_owned()));
        self.core.spawn(panicked, async move {
            let outcome = applier.execute(&owner, steps).await;
            Event::Executed(id, asked, owner, Ok(outcome))
        });
    }

    /// Removes steps from a plan that must not run now: all but the removal of access where the site has paused the operator or its policies are not
    /// in force, and writes of objects that the site has just altered.
    fn withhold(&mut self, owner: &OwnerRef, plan: &mut Plan) {
        if self.policy.paused || self.core.connection.session().is_none_or(|active| active.unguarded.is_some()) {
            plan.steps.retain(|step| step.purpose == Purpose::RemoveAccess);
        }
        let Some(altered) = self.altered.get_mut(owner) else { return };
        if let Some(again) = altered.withhold(plan, Timestamp::now()) {
            self.schedule.add_at(owner.clone(), Now::read().instant_of(again));
        }
        if altered.is_empty() {
            self.altered.remove(owner);
        }
    }

    /// The end of a grant that was deleted from the hub meanwhile is carried out: from now on its namespace's own annotations say how long it is
    /// retained.
    fn ended(&mut self, owner: &OwnerRef) {
        if self.core.ending.remove(owner).is_some() {
            self.schedule.add(owner.clone());
        }
    }

    /// Reports the state of an owner and its findings, without writing anything at the site.
    fn report_only(&mut self, owner: &OwnerRef) {
        if let Ok(Some(plan)) = std::panic::catch_unwind(AssertUnwindSafe(|| self.plan(owner))) {
            self.report_owner(owner, &plan, false);
        }
    }

    /// The plan for an owner; `None` while the site is not synced, or where the hub wants nothing of it.
    fn plan(&self, owner: &OwnerRef) -> Option<Plan> {
        let site = self.core.site.as_ref()?;
        if !self.synced() {
            return None;
        }
        let reconciler = Reconciler {
            site,
            intents: &self.core.intents,
            index: &self.index,
            policy: &self.policy,
            refusals: self.refusals.all(),
            lost: &self.lost,
            pools: &self.pools,
            hours: &self.hours,
            engines: engine::ALL,
            served: &self.core.connection.session()?.session.served.kinds,
            now: Timestamp::now(),
        };
        match self.core.intents.get(owner) {
            Some(intent) => Some(reconciler.intent(intent)),
            None if *owner == site.factory => Some(reconciler.factory()),
            None if self.core.gone.contains(owner) => match self.core.ending.get(owner) {
                Some(intent) => Some(reconciler.intent(intent)),
                None => reconciler.gone(owner),
            },
            None => None,
        }
    }

    fn due(&mut self, owners: BTreeSet<OwnerRef>) {
        if self.synced() {
            for owner in owners {
                self.held_dirty.insert(owner.clone());
                // An object that reappears where access must be gone is removed at once, whatever back-off its owner is in.
                let taking = self.core.gone.contains(&owner) || self.core.intents.get(&owner).is_some_and(|intent| intent.takes_access(None));
                if taking { self.schedule.add_urgent(owner) } else { self.schedule.add(owner) }
            }
        }
    }

    /// Queues the grants of which the site's policy refuses something else than before.
    fn refused(&mut self, changed: BTreeSet<OwnerRef>) {
        changed.into_iter().for_each(|owner| self.schedule.add_urgent(owner));
    }

    /// Counts the GPU time of a grant's Pods up to now, and queues the grant for when its budget will be used up.
    fn count(&mut self, owner: &OwnerRef) {
        let Some(site) = self.core.site.as_ref().filter(|_| owner.kind == Kind::AccessGrant && self.synced()) else { return };
        let namespace = TenantNamespace::of(&site.hub, owner);
        let grant = self.core.intents.get(owner).and_then(|intent| match &intent.body {
            Body::Grant(grant) => Some(grant.as_ref()),
            Body::Pool(_) => None,
        });
        let now = Timestamp::now();
        self.hours.count(&namespace, &self.index, grant, now);
        if let Some(wake) = grant.and_then(|grant| self.hours.wake(&namespace, &self.index, grant, now)) {
            self.schedule.add_at(owner.clone(), Now::read().instant_of(wake));
        }
    }

    fn queue_pools(&mut self) {
        let first = OwnerRef::new(Kind::GPUPool, "", "");
        let is_pool = |owner: &&OwnerRef| owner.kind == Kind::GPUPool;
        let wanted = self.core.intents.range(&first..).map(|(owner, _)| owner).take_while(is_pool);
        for owner in wanted.chain(self.core.gone.range(&first..).take_while(is_pool)).cloned().collect::<Vec<_>>() {
            self.schedule.add(owner);
        }
    }

    fn queue_all(&mut self) {
        for owner in self.core.intents.keys().chain(&self.core.gone).cloned().collect::<Vec<_>>() {
            let urgent = self.core.intents.get(&owner).is_some_and(|intent| intent.takes_access(None));
            self.schedule.add_anew(owner, urgent);
        }
        self.schedule.add_anew(self.core.key.factory.clone(), false);
    }
}
