//! The worker of one site: an actor that owns the index, the intents and the schedule, decides in one place, and leaves waiting to tasks.

mod observations;
mod reports;
mod session;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use aifactory_api::name::tenant_namespace;
use aifactory_api::{Kind, OwnerRef, Reason};
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::freshness::Moment;
use aifactory_plan::model::intent::{Body, Desired, Intent, Refusal, SiteIntent, SiteWord};
use aifactory_plan::model::object::{ObjectKey, ObjectKind};
use aifactory_plan::model::plan::{Plan, Purpose};
use aifactory_plan::model::report::{Finding, Held, Report, SitePhase, SiteReport};
use aifactory_plan::model::site_key::SiteKey;
use aifactory_plan::site::altered::AlteredObjects;
use aifactory_plan::site::index::{Change, Extra, Index};
use aifactory_plan::site::policy::SitePolicy;
use aifactory_plan::site::reconcile::Reconciler;
use aifactory_plan::site::usage::Accounts;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::apply::{Applier, Outcome};
use super::contact::{self, NoContact, Served, Session, check_policies};
use super::watch::{Observation, watch};
use crate::credential::reader::{CredentialReader, Look};
use crate::site::clock::Now;
use crate::site::connection::{Backoff, Connection, PROBE_LIMIT, Task, Transition, Turn};
use crate::site::tasks::{Tasks, within};
use crate::telemetry::metrics::Metrics;
use crate::transport::{DesiredSet, FromSite, ToSite, WorkerSender};
use crate::workqueue::WorkQueue;

/// Resources in work at a time at one site.
const VISITS: usize = 16;
/// How many of them are kept for resources that lose access.
const RESERVED: usize = 4;
/// Requests at a time to one site.
const REQUESTS: usize = 16;
/// How often the site's policies are tested.
const POLICY_TEST: Duration = Duration::from_secs(60);
/// How soon they are tested again where a test failed, at first and at most.
const POLICY_TEST_AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Pause before a claim that could not be given up is tried again, at first and at most.
const RELEASE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Pause before something that the site refused is tried again.
const REFUSED: Duration = Duration::from_secs(60);
/// How often a site says something new about itself, at most.
const SITE_REPORT: Duration = Duration::from_millis(200);

/// Starts the worker of a site; it ends when the sender is dropped.
pub fn start(
    key: SiteKey,
    source: CredentialSource,
    reader: CredentialReader,
    hub: WorkerSender,
    metrics: Arc<Metrics>,
) -> mpsc::UnboundedSender<ToSite> {
    let (sender, inbox) = mpsc::unbounded_channel();
    crate::supervise::worker(metrics.clone(), hub.clone(), Worker::new(key, source, reader, hub, metrics).run(inbox));
    sender
}

struct Worker {
    key: SiteKey,
    label: String,
    source: CredentialSource,
    reader: CredentialReader,
    hub: WorkerSender,
    metrics: Arc<Metrics>,
    site: Option<SiteIntent>,
    intents: BTreeMap<OwnerRef, Arc<Intent>>,
    /// Tombstones, whether or not anything of the owner was seen: it may be seen later.
    gone: BTreeSet<OwnerRef>,
    /// What was asked for last of grants that were being ended when they went from the hub, until that is done.
    ending: BTreeMap<OwnerRef, Arc<Intent>>,
    refusals: BTreeMap<OwnerRef, Refusal>,
    index: Index,
    /// GPU time of Pods.
    hours: Accounts,
    policy: SitePolicy,
    /// What the site says itself, for its Slurm as well.
    word: SiteWord,
    schedule: WorkQueue<OwnerRef>,
    connection: Connection<Active>,
    findings: BTreeMap<OwnerRef, Vec<Finding>>,
    rounds: BTreeMap<OwnerRef, u32>,
    lost: BTreeSet<OwnerRef>,
    /// Objects of which the site makes another thing than is written.
    altered: BTreeMap<OwnerRef, AlteredObjects>,
    /// UID of a cluster that answers and where nothing may be written yet.
    unrecorded_uid: Option<String>,
    reported: BTreeMap<OwnerRef, Report>,
    site_reported: Option<SiteReport>,
    site_dirty: bool,
    site_report_at: Option<Instant>,
    released: bool,
    tasks: Tasks<Event>,
}

/// A site that answers.
struct Active {
    session: Session,
    applier: Applier,
    _watches: JoinSet<()>,
    unlisted: BTreeSet<Listing>,
    policy_test: Turn,
    policy_test_backoff: Backoff,
    /// The site's policies are not in force, or could not be tested: only access is taken away.
    unguarded: Option<Finding>,
    release: Turn,
    release_backoff: Backoff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Listing {
    Kind(ObjectKind),
    Nodes,
    Pods,
    Policy,
    SlurmUsers,
}

enum Event {
    Contact(u64, Result<Session, NoContact>),
    Probe(u64, Result<(), Finding>),
    Look(Look),
    PolicyTest(u64, Result<(), Finding>),
    Served(u64, Result<Served, Finding>),
    Executed(u64, Moment, OwnerRef, Result<Outcome, String>),
    Released(u64, Result<(), Finding>),
    Panicked(Work),
}

/// Work whose panic is repaired by trying it again.
#[derive(Clone, Copy)]
enum Work {
    Connection(Task),
    PolicyTest(u64),
    Served,
    Release(u64),
}

impl Worker {
    fn new(key: SiteKey, source: CredentialSource, reader: CredentialReader, hub: WorkerSender, metrics: Arc<Metrics>) -> Self {
        let mut schedule = WorkQueue::new(VISITS, RESERVED);
        schedule.start();
        Self {
            connection: Connection::new(key.to_string(), matches!(source, CredentialSource::Secret { .. })),
            label: key.to_string(),
            key,
            source,
            reader,
            hub,
            metrics,
            site: None,
            intents: BTreeMap::new(),
            gone: BTreeSet::new(),
            ending: BTreeMap::new(),
            refusals: BTreeMap::new(),
            index: Index::default(),
            hours: Accounts::default(),
            policy: SitePolicy::default(),
            word: SiteWord::default(),
            schedule,
            findings: BTreeMap::new(),
            rounds: BTreeMap::new(),
            lost: BTreeSet::new(),
            altered: BTreeMap::new(),
            unrecorded_uid: None,
            reported: BTreeMap::new(),
            site_reported: None,
            site_dirty: false,
            site_report_at: None,
            released: false,
            tasks: Tasks::default(),
        }
    }

    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<ToSite>) {
        let (to, mut observations) = mpsc::channel(1024);
        loop {
            self.attend();
            self.dispatch();
            self.report_site();
            let deadline = self.deadline();
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(message) => {
                        self.told(message);
                        while let Ok(message) = inbox.try_recv() {
                            self.told(message);
                        }
                    }
                    None => return,
                },
                Some((session, observation)) = observations.recv() => {
                    self.observed(session, observation);
                    while let Ok((session, observation)) = observations.try_recv() {
                        self.observed(session, observation);
                    }
                }
                event = self.tasks.next() => self.happened(event, &to),
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    fn deadline(&mut self) -> Instant {
        let now = Instant::now();
        let mut at = now + Duration::from_secs(3600);
        let mut sooner = |other: Option<Instant>| at = other.map_or(at, |other| at.min(other));
        sooner(self.schedule.next_wake(now));
        sooner(self.connection.deadline());
        sooner(self.site_report_at.filter(|_| self.site_dirty));
        if let Some(active) = self.connection.session() {
            sooner(active.policy_test.deadline());
            sooner(active.release.deadline().filter(|_| self.releasable()));
        }
        at
    }

    fn told(&mut self, message: ToSite) {
        match message {
            ToSite::Site(site) => {
                // What decides whether contact can be made, which is then tried at once.
                let decisive = |site: &SiteIntent| (site.expected_uid.clone(), site.accepted_uid.clone(), site.recorded);
                let now = Instant::now();
                self.connection.begin(now);
                if self.site.as_ref().map(decisive) != Some(decisive(&site)) {
                    self.connection.retry_now(now);
                }
                if self.site.as_ref() != Some(&site) {
                    let kept = self.site.as_ref().is_some_and(|before| (before.release && !site.release) || (before.left && !site.left));
                    let unrecorded = self.site.as_ref().is_some_and(|before| before.recorded) && !site.recorded;
                    let slurm = self.site.as_ref().is_some_and(|before| before.slurm.is_some() != site.slurm.is_some());
                    self.site = Some(*site);
                    if kept {
                        // The claim may be given up already: contact writes it anew, or finds that it is somebody else's by now.
                        self.released = false;
                    }
                    // With a Slurm more is watched.
                    if kept || slurm || unrecorded {
                        self.disconnect(None);
                    }
                    self.visit_everything();
                }
            }
            ToSite::Put(intent) => {
                let owner = intent.owner.clone();
                self.gone.remove(&owner);
                self.ending.remove(&owner);
                let urgent = intent.takes_access(self.intents.get(&owner).map(AsRef::as_ref));
                let pool = owner.kind == Kind::GPUPool;
                let decides = SitePolicy::decides_by(&intent);
                let before = self.intents.insert(owner.clone(), intent);
                // Whether the site takes a grant depends on others only where what they are judged by changes.
                if before.as_deref().map(SitePolicy::decides_by) != Some(decides) {
                    self.refuse();
                }
                if pool {
                    self.visit_pools();
                }
                self.schedule.add_anew(owner, urgent);
            }
            ToSite::Withdraw(owner) => {
                self.intents.remove(&owner);
                self.reported.remove(&owner);
                self.findings.remove(&owner);
                self.schedule.forget(&owner);
                self.refuse();
                self.site_dirty = true;
            }
            ToSite::Everything(set) => {
                let DesiredSet { intents, tombstones } = *set;
                let told = |owner: &&OwnerRef| intents.contains_key(*owner) || tombstones.contains(*owner);
                let withdrawn: Vec<OwnerRef> = self.intents.keys().filter(|owner| !told(owner)).cloned().collect();
                withdrawn.into_iter().for_each(|owner| self.told(ToSite::Withdraw(owner)));
                for (owner, intent) in intents {
                    if self.intents.get(&owner) != Some(&intent) {
                        self.told(ToSite::Put(intent));
                    }
                }
                tombstones.into_iter().for_each(|owner| self.told(ToSite::Gone(owner)));
            }
            ToSite::Gone(owner) => {
                if let Some(intent) = self.intents.remove(&owner).filter(|intent| is_ending(intent)) {
                    self.ending.insert(owner.clone(), intent);
                }
                self.reported.remove(&owner);
                self.findings.remove(&owner);
                self.schedule.forget(&owner);
                self.gone.insert(owner.clone());
                self.schedule.add_anew(owner, true);
                self.refuse();
                self.site_dirty = true;
            }
        }
    }

    fn happened(&mut self, event: Event, observations: &mpsc::Sender<(u64, Observation)>) {
        match event {
            Event::Contact(contact, Ok(session)) => {
                let Some(site) = self.site.as_ref().filter(|_| self.connection.awaits(contact)) else { return };
                let mut kinds = vec![
                    ObjectKind::Namespace,
                    ObjectKind::NetworkPolicy,
                    ObjectKind::ResourceQuota,
                    ObjectKind::LimitRange,
                    ObjectKind::ServiceAccount,
                    ObjectKind::RoleBinding,
                    ObjectKind::ConfigMap,
                ];
                if site.slurm.is_some() || site.left {
                    // Keys are never watched, since nobody but Slurm reads them.
                    kinds.extend(&session.served.slinky);
                }
                if session.served.engines.iter().any(|engine| engine.name == "ClusterNetworkPolicy") {
                    kinds.push(ObjectKind::ClusterNetworkPolicy);
                }
                let watches = watch(&session.clients.watch, &self.metrics, &site.hub, &kinds, observations, contact);
                let unlisted =
                    kinds.into_iter().map(Listing::Kind).chain([Listing::Nodes, Listing::Pods, Listing::Policy, Listing::SlurmUsers]).collect();
                let now = Now::read();
                let fingerprint = session.fingerprint;
                let unguarded = session.unguarded.clone();
                let mut policy_test_backoff = Backoff::new(POLICY_TEST_AGAIN.0, POLICY_TEST_AGAIN.1);
                let tested_in = if unguarded.is_some() { policy_test_backoff.failed() } else { POLICY_TEST };
                self.unrecorded_uid = None;
                let active = Active {
                    applier: Applier::new(session.clients.rpc.clone(), &site.hub, REQUESTS),
                    session,
                    _watches: watches,
                    unlisted,
                    policy_test: Turn::At(now.instant + tested_in),
                    policy_test_backoff,
                    unguarded,
                    release: Turn::At(now.instant),
                    release_backoff: Backoff::new(RELEASE.0, RELEASE.1),
                };
                let transition = self.connection.connected(contact, active, Some(fingerprint), now);
                self.moved(transition);
            }
            Event::Contact(contact, Err(NoContact { problem, cluster_uid })) => {
                self.site_dirty |= self.unrecorded_uid != cluster_uid;
                self.unrecorded_uid = cluster_uid;
                let transition = self.connection.failed(contact, problem, Instant::now());
                self.moved(transition);
            }
            Event::Probe(session, result) => {
                let transition = self.connection.probed(session, result, Now::read());
                self.moved(transition);
            }
            Event::Look(look) => {
                let transition = self.connection.looked(look.fingerprint(&self.source), look.read_at, Instant::now());
                self.moved(transition);
            }
            Event::Served(session, found) => self.served(session, found),
            Event::PolicyTest(session, result) => {
                let Some(active) = self.connection.session_of(session) else { return };
                let pause = if result.is_ok() { POLICY_TEST } else { active.policy_test_backoff.failed() };
                if result.is_ok() {
                    active.policy_test_backoff = Backoff::new(POLICY_TEST_AGAIN.0, POLICY_TEST_AGAIN.1);
                }
                active.policy_test = Turn::At(Instant::now() + pause);
                let unguarded = match result {
                    Ok(()) => None,
                    Err(problem) if problem.reason == Reason::SitePoliciesMissing => Some(problem),
                    // A test that could not be made says nothing: what was missing is still missing.
                    Err(_) => return,
                };
                if active.unguarded != unguarded {
                    if unguarded.is_none() && !active.session.claimed {
                        // The claim comes before anything else that is written.
                        self.disconnect(None);
                        return;
                    }
                    active.unguarded = unguarded;
                    self.site_dirty = true;
                    self.visit_everything();
                }
            }
            Event::Released(session, result) => self.claim_released(session, result.is_ok()),
            Event::Panicked(work) => self.panicked(work),
            Event::Executed(session, asked, owner, result) => self.executed(session, asked, owner, result),
        }
    }

    fn synced(&self) -> bool {
        self.connection.session().is_some_and(|active| active.unlisted.is_empty())
    }

    /// Begins the visits that are due, as far as there is room.
    fn dispatch(&mut self) {
        let now = Instant::now();
        while let Some(owner) = self.schedule.next(now) {
            self.visit(owner);
        }
        self.metrics.set_site_queue_depth(&self.label, self.schedule.depth());
    }

    fn visit(&mut self, owner: OwnerRef) {
        self.count(&owner);
        let plan = match std::panic::catch_unwind(AssertUnwindSafe(|| self.plan(&owner))) {
            Ok(plan) => plan,
            Err(_) => {
                tracing::error!(site = %self.key, %owner, "Planning panicked");
                self.metrics.panicked(owner.kind);
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
            self.report(&owner, &plan, settled);
            self.schedule.done(&owner);
            return;
        }
        let Some((id, active)) = self.connection.id().zip(self.connection.session()) else {
            self.schedule.done(&owner);
            return;
        };
        let (applier, steps, asked) = (active.applier.clone(), plan.steps, self.index.moment());
        let panicked = Event::Executed(id, asked, owner.clone(), Err("the operator failed while writing; its log says where".to_owned()));
        self.tasks.spawn(panicked, async move {
            let outcome = applier.execute(&owner, steps).await;
            Event::Executed(id, asked, owner, Ok(outcome))
        });
    }

    /// Takes out of a plan what must not be done now: all but the removal of access where the site has paused us or its policies are not in force, and
    /// what the site has altered a moment ago.
    fn withhold(&mut self, owner: &OwnerRef, plan: &mut Plan) {
        if self.policy.paused || self.connection.session().is_none_or(|active| active.unguarded.is_some()) {
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

    /// A grant that went from the hub while it was being ended has ended here; what is retained acts on its own marks from now on.
    fn ended(&mut self, owner: &OwnerRef) {
        if self.ending.remove(owner).is_some() {
            self.schedule.add(owner.clone());
        }
    }

    /// Says what is wrong without doing anything.
    fn visit_report_only(&mut self, owner: &OwnerRef) {
        if let Ok(Some(plan)) = std::panic::catch_unwind(AssertUnwindSafe(|| self.plan(owner))) {
            self.report(owner, &plan, false);
        }
    }

    /// The plan for an owner; `None` while nothing can be said.
    fn plan(&self, owner: &OwnerRef) -> Option<Plan> {
        let site = self.site.as_ref()?;
        if !self.synced() {
            return None;
        }
        let reconciler = Reconciler {
            site,
            intents: &self.intents,
            index: &self.index,
            policy: &self.policy,
            refusals: &self.refusals,
            lost: &self.lost,
            hours: &self.hours,
            engines: self.connection.session().map(|active| active.session.served.engines.as_slice()).unwrap_or_default(),
            slinky: self.connection.session().map(|active| active.session.served.slinky.as_slice()).unwrap_or_default(),
            now: Timestamp::now(),
        };
        match self.intents.get(owner) {
            Some(intent) => Some(reconciler.intent(intent)),
            None if *owner == site.factory => Some(reconciler.factory()),
            None if self.gone.contains(owner) => match self.ending.get(owner) {
                Some(intent) => Some(reconciler.intent(intent)),
                None => reconciler.gone(owner),
            },
            None => None,
        }
    }

    fn due(&mut self, owners: BTreeSet<OwnerRef>) {
        if self.synced() {
            for owner in owners {
                if !self.intents.contains_key(&owner) && !self.gone.contains(&owner) {
                    self.site_dirty = true;
                }
                // What comes back where access is to be gone does not wait for the end of a back-off.
                let taking = self.gone.contains(&owner) || self.intents.get(&owner).is_some_and(|intent| intent.takes_access(None));
                if taking { self.schedule.add_urgent(owner) } else { self.schedule.add(owner) }
            }
        }
    }

    fn refuse(&mut self) {
        let refusals = self.policy.refusals(self.intents.values().map(AsRef::as_ref));
        for owner in self.refusals.keys().chain(refusals.keys()).cloned().collect::<BTreeSet<_>>() {
            if self.refusals.get(&owner) != refusals.get(&owner) {
                self.schedule.add_urgent(owner);
            }
        }
        self.refusals = refusals;
    }

    /// Brings a grant's account of GPU time up to date.
    fn count(&mut self, owner: &OwnerRef) {
        let Some(site) = self.site.as_ref().filter(|_| owner.kind == Kind::AccessGrant && self.synced()) else { return };
        let namespace = tenant_namespace(&site.hub, owner);
        let grant = self.intents.get(owner).and_then(|intent| match &intent.body {
            Body::Grant(grant) => Some(grant.as_ref()),
            Body::Pool(_) => None,
        });
        let now = Timestamp::now();
        self.hours.count(&namespace, &self.index, grant, now);
        if let Some(wake) = grant.and_then(|grant| self.hours.wake(&namespace, &self.index, grant, now)) {
            self.schedule.add_at(owner.clone(), Now::read().instant_of(wake));
        }
    }

    fn visit_pools(&mut self) {
        let first = OwnerRef::new(Kind::GPUPool, "", "");
        let is_pool = |owner: &&OwnerRef| owner.kind == Kind::GPUPool;
        let wanted = self.intents.range(&first..).map(|(owner, _)| owner).take_while(is_pool);
        for owner in wanted.chain(self.gone.range(&first..).take_while(is_pool)).cloned().collect::<Vec<_>>() {
            self.schedule.add(owner);
        }
    }

    fn visit_everything(&mut self) {
        for owner in self.intents.keys().chain(&self.gone).cloned().collect::<Vec<_>>() {
            let urgent = self.intents.get(&owner).is_some_and(|intent| intent.takes_access(None));
            self.schedule.add_anew(owner, urgent);
        }
        self.schedule.add_anew(self.key.factory.clone(), false);
    }
}

/// Whether this is the end of a grant.
fn is_ending(intent: &Intent) -> bool {
    matches!(&intent.body, Body::Grant(grant) if matches!(grant.desired, Desired::Ended { .. }))
}
