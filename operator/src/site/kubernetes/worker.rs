//! The worker of one site: an actor that owns the index, the intents and the schedule, decides in one place, and leaves waiting to tasks.

mod observations;
mod reports;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use aifactory_api::name::tenant_namespace;
use aifactory_api::{Kind, OwnerRef, Reason};
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::intent::{Body, Intent, Refusal, SiteIntent, SiteWord};
use aifactory_plan::model::object::{ObjectKey, ObjectKind};
use aifactory_plan::model::plan::Plan;
use aifactory_plan::model::report::{Finding, Held, Report, SitePhase, SiteReport};
use aifactory_plan::model::site_key::SiteKey;
use aifactory_plan::site::index::{Extra, Index};
use aifactory_plan::site::policy::SitePolicy;
use aifactory_plan::site::reconcile::Reconciler;
use aifactory_plan::site::usage::Accounts;
use futures::FutureExt;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::apply::{Applier, Outcome};
use super::contact::{self, Served, Session, check_policies};
use super::watch::{Observation, watch};
use crate::credential::Fingerprint;
use crate::credential::reader::CredentialReader;
use crate::telemetry::metrics::Metrics;
use crate::transport::{DesiredSet, FromSite, ToSite, WorkerSender};
use crate::workqueue::WorkQueue;

/// Resources in work at a time at one site.
const VISITS: usize = 16;
/// How many of them are kept for resources that lose access.
const RESERVED: usize = 4;
/// Requests at a time to one site.
const REQUESTS: usize = 16;
/// How often a site is asked whether it answers.
const PROBE: Duration = Duration::from_secs(3);
/// How often a Secret is looked at for a new credential.
const ROTATION: Duration = Duration::from_secs(2);
/// How often the site's policies are tested.
const POLICY_TEST: Duration = Duration::from_secs(60);
/// Pause before a site that did not answer is contacted again, at first and at most.
const CONTACT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
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
    tokio::spawn(Worker::new(key, source, reader, hub, metrics).run(inbox));
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
    gone: BTreeSet<OwnerRef>,
    refusals: BTreeMap<OwnerRef, Refusal>,
    index: Index,
    /// GPU time of Pods.
    hours: Accounts,
    policy: SitePolicy,
    /// What the site says itself, for its Slurm as well.
    word: SiteWord,
    schedule: WorkQueue<OwnerRef>,
    active: Option<Active>,
    sessions: u64,
    /// The contact that is being made.
    contacting: Option<AbortHandle>,
    contact_pause: Duration,
    contact_at: Option<Instant>,
    problem: Option<Finding>,
    last_contact: Option<Timestamp>,
    /// What the last look at the credential showed.
    credential: Option<Result<Fingerprint, Reason>>,
    looking: bool,
    look_at: Instant,
    findings: BTreeMap<OwnerRef, Vec<Finding>>,
    rounds: BTreeMap<OwnerRef, u32>,
    lost: BTreeSet<OwnerRef>,
    reported: BTreeMap<OwnerRef, Report>,
    site_reported: Option<SiteReport>,
    site_dirty: bool,
    site_report_at: Option<Instant>,
    released: bool,
    tasks: JoinSet<Event>,
}

/// A site that answers.
struct Active {
    id: u64,
    session: Session,
    applier: Applier,
    _watches: JoinSet<()>,
    unlisted: BTreeSet<Listing>,
    failed_probes: u32,
    probing: bool,
    probe_at: Instant,
    policy_test_at: Instant,
    /// The site's policies are not in force: nothing is written.
    unguarded: Option<Finding>,
    releasing: bool,
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
    Contact(Result<Session, Finding>),
    Probe(u64, Result<(), Finding>),
    Look(Result<Option<Fingerprint>, Finding>),
    PolicyTest(u64, Result<(), Finding>),
    Served(u64, Result<Served, Finding>),
    Executed(u64, OwnerRef, Result<Outcome, String>),
    Released(u64, Result<(), Finding>),
}

impl Worker {
    fn new(key: SiteKey, source: CredentialSource, reader: CredentialReader, hub: WorkerSender, metrics: Arc<Metrics>) -> Self {
        let mut schedule = WorkQueue::new(VISITS, RESERVED);
        schedule.start();
        Self {
            label: key.to_string(),
            key,
            source,
            reader,
            hub,
            metrics,
            site: None,
            intents: BTreeMap::new(),
            gone: BTreeSet::new(),
            refusals: BTreeMap::new(),
            index: Index::default(),
            hours: Accounts::default(),
            policy: SitePolicy::default(),
            word: SiteWord::default(),
            schedule,
            active: None,
            sessions: 0,
            contacting: None,
            contact_pause: CONTACT.0,
            contact_at: None,
            problem: None,
            last_contact: None,
            credential: None,
            looking: false,
            look_at: Instant::now() + ROTATION,
            findings: BTreeMap::new(),
            rounds: BTreeMap::new(),
            lost: BTreeSet::new(),
            reported: BTreeMap::new(),
            site_reported: None,
            site_dirty: false,
            site_report_at: None,
            released: false,
            tasks: JoinSet::new(),
        }
    }

    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<ToSite>) {
        let (to, mut observations) = mpsc::channel(1024);
        loop {
            self.contact();
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
                Some(done) = self.tasks.join_next() => {
                    if let Ok(event) = done {
                        self.happened(event, &to);
                    }
                }
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    fn deadline(&mut self) -> Instant {
        let now = Instant::now();
        let mut at = now + Duration::from_secs(3600);
        let mut sooner = |other: Option<Instant>| at = other.map_or(at, |other| at.min(other));
        sooner(self.schedule.next_wake(now));
        sooner(self.contact_at.filter(|_| self.active.is_none() && self.contacting.is_none()));
        sooner(Some(self.look_at).filter(|_| self.site.is_some() && !self.looking));
        sooner(self.site_report_at.filter(|_| self.site_dirty));
        if let Some(active) = &self.active {
            sooner(Some(active.probe_at).filter(|_| !active.probing));
            sooner(Some(active.policy_test_at));
        }
        at
    }

    fn told(&mut self, message: ToSite) {
        match message {
            ToSite::Site(site) => {
                let identity = self.site.as_ref().map(|site| (site.expected_uid.clone(), site.accepted_uid.clone()));
                if identity != Some((site.expected_uid.clone(), site.accepted_uid.clone())) && self.active.is_none() {
                    self.contact_at = Some(Instant::now());
                }
                if self.site.as_ref() != Some(&site) {
                    let kept = self.site.as_ref().is_some_and(|before| before.release) && !site.release;
                    let slurm = self.site.as_ref().is_some_and(|before| before.slurm.is_some() != site.slurm.is_some());
                    self.site = Some(*site);
                    if kept {
                        // The claim may be given up already: contact writes it anew, or finds that it is somebody else's by now.
                        self.released = false;
                    }
                    // With a Slurm more is watched.
                    if kept || slurm {
                        self.disconnect(None);
                    }
                    self.visit_everything();
                }
            }
            ToSite::Put(intent) => {
                let owner = intent.owner.clone();
                self.gone.remove(&owner);
                let urgent = intent.takes_access(self.intents.get(&owner).map(AsRef::as_ref));
                let pool = owner.kind == Kind::GPUPool;
                self.intents.insert(owner.clone(), intent);
                self.refuse();
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
                let withdrawn: Vec<OwnerRef> = self.intents.keys().filter(|owner| !intents.contains_key(*owner)).cloned().collect();
                withdrawn.into_iter().for_each(|owner| self.told(ToSite::Withdraw(owner)));
                for (owner, intent) in intents {
                    if self.intents.get(&owner) != Some(&intent) {
                        self.told(ToSite::Put(intent));
                    }
                }
                tombstones.into_iter().for_each(|owner| self.told(ToSite::Gone(owner)));
            }
            ToSite::Gone(owner) => {
                self.intents.remove(&owner);
                self.reported.remove(&owner);
                self.findings.remove(&owner);
                self.schedule.forget(&owner);
                if self.index.owners(&self.key.factory).contains(&owner) {
                    self.gone.insert(owner.clone());
                    self.schedule.add_anew(owner, true);
                }
                self.refuse();
                self.site_dirty = true;
            }
        }
    }

    fn happened(&mut self, event: Event, observations: &mpsc::Sender<(u64, Observation)>) {
        match event {
            Event::Contact(Ok(session)) => {
                self.contacting = None;
                self.contact_pause = CONTACT.0;
                self.sessions += 1;
                let Some(site) = &self.site else { return };
                let mut kinds = vec![
                    ObjectKind::Namespace,
                    ObjectKind::NetworkPolicy,
                    ObjectKind::ResourceQuota,
                    ObjectKind::LimitRange,
                    ObjectKind::ServiceAccount,
                    ObjectKind::RoleBinding,
                    ObjectKind::ConfigMap,
                ];
                if site.slurm.is_some() {
                    // Keys are never watched, since nobody but Slurm reads them.
                    kinds.extend(&session.served.slinky);
                }
                if session.served.engines.iter().any(|engine| engine.name == "ClusterNetworkPolicy") {
                    kinds.push(ObjectKind::ClusterNetworkPolicy);
                }
                let watches = watch(&session.clients.watch, &site.hub, &kinds, observations, self.sessions);
                let unlisted =
                    kinds.into_iter().map(Listing::Kind).chain([Listing::Nodes, Listing::Pods, Listing::Policy, Listing::SlurmUsers]).collect();
                let now = Instant::now();
                self.active = Some(Active {
                    id: self.sessions,
                    applier: Applier::new(session.clients.rpc.clone(), &site.hub, REQUESTS),
                    session,
                    _watches: watches,
                    unlisted,
                    failed_probes: 0,
                    probing: false,
                    probe_at: now + PROBE,
                    policy_test_at: now + POLICY_TEST,
                    unguarded: None,
                    releasing: false,
                });
                self.problem = None;
                self.last_contact = Some(Timestamp::now());
                self.site_dirty = true;
                tracing::info!(site = %self.key, "Connected");
            }
            Event::Contact(Err(problem)) => {
                self.contacting = None;
                if self.problem.as_ref() != Some(&problem) {
                    tracing::warn!(site = %self.key, reason = %problem.reason, "No contact: {}", problem.message);
                }
                self.contact_at = Some(Instant::now() + self.contact_pause);
                self.contact_pause = (self.contact_pause * 2).min(CONTACT.1);
                self.problem = Some(problem);
                self.site_dirty = true;
            }
            Event::Probe(session, result) => self.probed(session, result),
            Event::Look(result) => self.looked(result),
            Event::Served(session, found) => self.served(session, found),
            Event::PolicyTest(session, result) => {
                let Some(active) = self.active.as_mut().filter(|active| active.id == session) else { return };
                let pause = if result.is_ok() { POLICY_TEST } else { CONTACT.1 };
                active.policy_test_at = Instant::now() + pause;
                let unguarded = match result {
                    Ok(()) => None,
                    Err(problem) if problem.reason == Reason::SitePoliciesMissing => Some(problem),
                    // A test that could not be made says nothing: what was missing is still missing.
                    Err(_) => return,
                };
                if active.unguarded != unguarded {
                    active.unguarded = unguarded;
                    self.site_dirty = true;
                    self.visit_everything();
                }
            }
            Event::Released(session, result) => {
                if let Some(active) = self.active.as_mut().filter(|active| active.id == session) {
                    active.releasing = false;
                    self.released = result.is_ok();
                    self.site_dirty = true;
                }
            }
            Event::Executed(session, owner, result) => self.executed(session, owner, result),
        }
    }

    fn synced(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.unlisted.is_empty())
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
        let Some(plan) = plan else {
            self.schedule.done(&owner);
            return;
        };
        if let Some(wake) = plan.wake {
            self.schedule.add_at(owner.clone(), instant(wake));
        }
        let settled = plan.steps.is_empty();
        let blocked = self.active.as_ref().is_none_or(|active| active.unguarded.is_some());
        if settled || blocked {
            if settled {
                self.rounds.remove(&owner);
                self.findings.remove(&owner);
            }
            self.report(&owner, &plan, settled);
            self.schedule.done(&owner);
            return;
        }
        let Some(active) = &self.active else { return };
        let (id, applier, steps) = (active.id, active.applier.clone(), plan.steps);
        self.tasks.spawn(async move {
            let result = AssertUnwindSafe(applier.execute(&owner, steps)).catch_unwind().await;
            Event::Executed(id, owner, result.map_err(|_| "the operator failed while writing; its log says where".to_owned()))
        });
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
            engines: self.active.as_ref().map(|active| active.session.served.engines.as_slice()).unwrap_or_default(),
            slinky: self.active.as_ref().map(|active| active.session.served.slinky.as_slice()).unwrap_or_default(),
            now: Timestamp::now(),
        };
        match self.intents.get(owner) {
            Some(intent) => Some(reconciler.intent(intent)),
            None if *owner == site.factory => Some(reconciler.factory()),
            None if self.gone.contains(owner) => reconciler.gone(owner),
            None => None,
        }
    }

    fn due(&mut self, owners: BTreeSet<OwnerRef>) {
        if self.synced() {
            for owner in owners {
                if !self.intents.contains_key(&owner) && !self.gone.contains(&owner) {
                    self.site_dirty = true;
                }
                self.schedule.add(owner);
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
            self.schedule.add_at(owner.clone(), instant(wake));
        }
    }

    fn visit_pools(&mut self) {
        for owner in self.intents.keys().chain(&self.gone).filter(|owner| owner.kind == Kind::GPUPool).cloned().collect::<Vec<_>>() {
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

/// The monotonic time of a moment of the clock.
fn instant(at: Timestamp) -> Instant {
    let wait = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
    Instant::now() + wait.min(Duration::from_secs(24 * 3600))
}
