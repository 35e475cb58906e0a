//! The worker of a Kubernetes site around the pure core, as the operator drives it: index, intents, schedule, reports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::{Kind, OwnerRef, Reason, labels};
use aifactory_plan::model::freshness::Moment;
use aifactory_plan::model::id::TenantNamespace;
use aifactory_plan::model::intent::{Body, GrantIntent, Intent, SiteConfig, SiteIntent};
use aifactory_plan::model::object::{ObjectKey, ObjectKind};
use aifactory_plan::model::plan::{Plan, Purpose, Step};
use aifactory_plan::model::report::{Finding, Held, Report, SiteReport};
use aifactory_plan::model::site_key::SiteKey;
use aifactory_plan::site::held::held;
use aifactory_plan::site::index::{Change, Index, IndexedObject};
use aifactory_plan::site::policy::SitePolicy;
use aifactory_plan::site::pools::Pools;
use aifactory_plan::site::reconcile::Reconciler;
use aifactory_plan::site::refusals::Refusals;
use aifactory_plan::site::usage::Accounts;

use super::clock::{Ms, Queue, SECOND, ms, time};
use super::site_store::{Observation, STREAMS, Stream};

/// From the hub to a site.
#[derive(Clone, Debug)]
pub enum ToSite {
    Site(Box<SiteIntent>),
    Put(Arc<Intent>),
    Withdraw(OwnerRef),
    Gone(OwnerRef),
    Everything(BTreeMap<OwnerRef, Arc<Intent>>, BTreeSet<OwnerRef>),
}

/// From a site to the hub.
#[derive(Clone, Debug)]
pub enum FromSite {
    About(Box<Report>),
    Site(Box<SiteReport>),
}

/// What the worker wants done.
#[derive(Debug)]
pub enum Out {
    Send(FromSite),
    Execute(OwnerRef, Vec<Step>, Moment),
    Contact,
    Release,
    Wake(Ms),
}

/// What became of a plan's steps.
#[derive(Debug, Default)]
pub struct Outcome {
    pub applied: Vec<IndexedObject>,
    pub deleted: Vec<ObjectKey>,
    pub ordered: Vec<ObjectKey>,
    pub nodes: Vec<(aifactory_plan::engine::nodes::NodeView, u64)>,
    pub failures: Vec<Failure>,
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub finding: Finding,
    pub refused: bool,
}

struct Active {
    session: u64,
    cluster_uid: String,
    unlisted: BTreeSet<Stream>,
    releasing: bool,
}

pub struct Worker {
    pub key: SiteKey,
    pub site: Option<SiteIntent>,
    pub intents: BTreeMap<OwnerRef, Arc<Intent>>,
    gone: BTreeSet<OwnerRef>,
    /// Grants that went from the hub while they were being ended here.
    ending: BTreeMap<OwnerRef, Arc<Intent>>,
    refusals: Refusals,
    index: Index,
    pools: Pools,
    hours: Accounts,
    policy: SitePolicy,
    site_config: SiteConfig,
    schedule: Queue<OwnerRef>,
    active: Option<Active>,
    sessions: u64,
    contacting: bool,
    /// There was contact, and nothing is written before the hub has stored that this part may hold something.
    pub waiting: bool,
    problem: Option<Finding>,
    last_contact: Option<Ms>,
    findings: BTreeMap<OwnerRef, Vec<Finding>>,
    rounds: BTreeMap<OwnerRef, u32>,
    lost: BTreeSet<OwnerRef>,
    reported: BTreeMap<OwnerRef, Report>,
    site_reported: Option<SiteReport>,
    site_dirty: bool,
    site_report_at: Ms,
    released: bool,
    pub out: Vec<Out>,
}

impl Worker {
    pub fn new(key: SiteKey) -> Self {
        Self {
            key,
            site: None,
            intents: BTreeMap::new(),
            gone: BTreeSet::new(),
            ending: BTreeMap::new(),
            refusals: Refusals::default(),
            index: Index::default(),
            pools: Pools::default(),
            hours: Accounts::default(),
            policy: SitePolicy::default(),
            site_config: SiteConfig::default(),
            schedule: Queue::default(),
            active: None,
            sessions: 0,
            contacting: false,
            waiting: false,
            problem: None,
            last_contact: None,
            findings: BTreeMap::new(),
            rounds: BTreeMap::new(),
            lost: BTreeSet::new(),
            reported: BTreeMap::new(),
            site_reported: None,
            site_dirty: false,
            site_report_at: 0,
            released: false,
            out: Vec::new(),
        }
    }

    pub fn session(&self) -> Option<u64> {
        self.active.as_ref().map(|active| active.session)
    }

    pub fn synced(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.unlisted.is_empty())
    }

    /// Does what is due, and says when to be woken.
    pub fn work(&mut self, now: Ms) {
        if self.site.is_some() && self.active.is_none() && !self.contacting {
            self.contacting = true;
            self.out.push(Out::Contact);
        }
        self.release();
        self.assign_nodes();
        while self.schedule.busy() < 16 {
            let Some(owner) = self.schedule.next(now) else { break };
            self.reconcile(owner, now);
        }
        self.report_site(now);
        let report = self.site_dirty.then_some(self.site_report_at);
        if let Some(wake) = self.schedule.wake(now).into_iter().chain(report).min() {
            self.out.push(Out::Wake(wake.max(now + 1)));
        }
    }

    pub fn receive(&mut self, message: ToSite, now: Ms) {
        match message {
            ToSite::Site(site) => self.receive_site(*site, now),
            ToSite::Put(intent) => {
                let owner = intent.owner.clone();
                self.gone.remove(&owner);
                self.ending.remove(&owner);
                let urgent = intent.takes_access(self.intents.get(&owner).map(AsRef::as_ref));
                self.pools.set(&owner, Some(&intent));
                let changed = self.refusals.set(&owner, Some(&intent));
                self.refused(changed);
                self.intents.insert(owner.clone(), intent);
                if urgent { self.schedule.add_urgent(owner) } else { self.schedule.add(owner) }
            }
            ToSite::Withdraw(owner) => {
                self.intents.remove(&owner);
                self.pools.set(&owner, None);
                self.reported.remove(&owner);
                self.findings.remove(&owner);
                self.schedule.forget(&owner);
                let changed = self.refusals.set(&owner, None);
                self.refused(changed);
                self.site_dirty = true;
            }
            ToSite::Everything(intents, tombstones) => self.receive_desired_set(intents, tombstones, now),
            ToSite::Gone(owner) => {
                if let Some(intent) = self.intents.remove(&owner).filter(|intent| intent.ended_grant().is_some()) {
                    self.ending.insert(owner.clone(), intent);
                }
                self.pools.set(&owner, None);
                self.reported.remove(&owner);
                self.findings.remove(&owner);
                self.schedule.forget(&owner);
                self.gone.insert(owner.clone());
                let changed = self.refusals.set(&owner, None);
                self.refused(changed);
                self.schedule.add_urgent(owner);
                self.site_dirty = true;
            }
        }
    }

    fn receive_desired_set(&mut self, intents: BTreeMap<OwnerRef, Arc<Intent>>, tombstones: BTreeSet<OwnerRef>, now: Ms) {
        let named = |owner: &&OwnerRef| intents.contains_key(*owner) || tombstones.contains(*owner);
        let withdrawn: Vec<OwnerRef> = self.intents.keys().filter(|owner| !named(owner)).cloned().collect();
        withdrawn.into_iter().for_each(|owner| self.receive(ToSite::Withdraw(owner), now));
        for (owner, intent) in intents {
            if self.intents.get(&owner) != Some(&intent) {
                self.receive(ToSite::Put(intent), now);
            }
        }
        self.gone.retain(|owner| tombstones.contains(owner));
        let added: Vec<OwnerRef> = tombstones.iter().filter(|owner| !self.gone.contains(*owner)).cloned().collect();
        added.into_iter().for_each(|owner| self.receive(ToSite::Gone(owner), now));
    }

    fn receive_site(&mut self, site: SiteIntent, now: Ms) {
        if self.site.as_ref() == Some(&site) {
            return;
        }
        let kept = self.site.as_ref().is_some_and(|before| (before.release && !site.release) || (before.left && !site.left));
        let unrecorded = self.site.as_ref().is_some_and(|before| before.recorded) && !site.recorded;
        if site.recorded && self.waiting {
            // Contact stood, and waited for this before the first write.
            (self.waiting, self.contacting) = (false, false);
        }
        self.site = Some(site);
        if kept {
            self.released = false;
        }
        if kept || unrecorded {
            self.disconnect(None, now);
        }
        self.queue_all();
    }

    /// Contact was made, or why not.
    pub fn contacted(&mut self, result: Result<String, Finding>, now: Ms) -> Option<u64> {
        self.site_dirty = true;
        match result {
            Ok(cluster_uid) => {
                self.contacting = false;
                self.sessions += 1;
                self.active = Some(Active { session: self.sessions, cluster_uid, unlisted: STREAMS.into(), releasing: false });
                self.problem = None;
                self.last_contact = Some(now);
                Some(self.sessions)
            }
            Err(problem) => {
                self.problem = Some(problem);
                None
            }
        }
    }

    pub fn disconnect(&mut self, problem: Option<Finding>, now: Ms) {
        if self.active.is_some() {
            self.hours.unwatched(time(now));
        }
        self.active = None;
        self.contacting = false;
        self.problem = problem;
        self.site_dirty = true;
    }

    /// A watch begins to list anew.
    pub fn listing(&mut self, session: u64, stream: Stream) {
        if self.session() == Some(session) {
            match stream {
                Stream::Kind(kind) => self.index.relist(kind),
                Stream::Nodes => self.index.relist_nodes(),
                Stream::Policy => {}
            }
        }
    }

    /// A watch listed everything anew: just these exist.
    pub fn listed(&mut self, session: u64, stream: Stream, seen: Vec<Observation>, now: Ms) {
        if self.session() != Some(session) {
            return;
        }
        let (mut keys, mut names) = (BTreeSet::new(), BTreeSet::new());
        for observation in seen {
            match &observation {
                Observation::Put(seen) => {
                    keys.insert(seen.key.clone());
                }
                Observation::Node(node, _) => {
                    names.insert(node.name.clone());
                }
                _ => {}
            }
            self.observe(observation);
        }
        match stream {
            Stream::Kind(kind) => {
                let change = self.index.retain(kind, &keys);
                self.changed(change);
            }
            Stream::Nodes => {
                self.index.retain_nodes(&names);
                self.pools.invalidate();
            }
            Stream::Policy => {}
        }
        if let Some(active) = &mut self.active
            && active.unlisted.remove(&stream)
            && active.unlisted.is_empty()
        {
            self.hours.synced(&self.index, None, time(now));
            self.site_dirty = true;
            self.queue_all();
        }
    }

    pub fn observed(&mut self, session: u64, observation: Observation) {
        if self.session() == Some(session) {
            self.observe(observation);
        }
    }

    fn observe(&mut self, observation: Observation) {
        match observation {
            Observation::Put(seen) => {
                if seen.owner.is_none() {
                    self.try_again_where_something_was_in_the_way();
                }
                let change = self.index.put(*seen);
                self.changed(change);
            }
            Observation::Removed(key, uid, version) => {
                if key.kind == ObjectKind::NAMESPACE
                    && self.index.namespace(&TenantNamespace::new(&key.name)).is_none_or(|view| view.state == labels::STATE_LOCKED)
                {
                    self.hours.forget(&TenantNamespace::new(&key.name));
                }
                let change = self.index.remove(&key, &uid, version);
                self.changed(change);
            }
            Observation::Node(node, version) => {
                if self.index.put_node(*node, version) {
                    self.pools.invalidate();
                }
            }
            Observation::NodeRemoved(name, uid, version) => {
                if self.index.remove_node(&name, &uid, version) {
                    self.pools.invalidate();
                }
            }
            Observation::Policy(data) => {
                let policy = SitePolicy::parse(&data);
                self.site_config.policy = data;
                if policy != self.policy {
                    let changed = self.refusals.set_policy(&policy, &self.intents);
                    self.policy = policy;
                    self.site_dirty = true;
                    self.refused(changed);
                    self.queue_all();
                }
            }
        }
    }

    /// Takes note of what an observation means for owners.
    fn changed(&mut self, change: Change) {
        self.lost.extend(change.lost.into_iter().filter(|owner| self.intents.contains_key(owner)));
        self.due(change.due);
    }

    /// Takes in what requests that were begun at this moment, or later, were answered with.
    fn answered(&mut self, asked: Moment, outcome: &mut Outcome) {
        for seen in std::mem::take(&mut outcome.applied) {
            let lost = self.index.answered(seen, asked).lost;
            self.lost.extend(lost.into_iter().filter(|owner| self.intents.contains_key(owner)));
        }
        for key in &outcome.deleted {
            self.index.deleted(key, asked);
        }
        for key in &outcome.ordered {
            self.index.ordered_deletion(key);
        }
        let mut moved = false;
        for (node, version) in std::mem::take(&mut outcome.nodes) {
            moved |= self.index.answered_node(node, version, asked);
        }
        if moved {
            self.pools.invalidate();
        }
    }

    fn try_again_where_something_was_in_the_way(&mut self) {
        let foreign = |finding: &Finding| finding.reason == Reason::ForeignObject;
        for (owner, _) in self.findings.iter().filter(|(_, findings)| findings.iter().any(foreign)) {
            self.schedule.add(owner.clone());
        }
    }

    /// The steps of a plan were carried out, or not all of them.
    pub fn executed(&mut self, session: u64, asked: Moment, owner: OwnerRef, mut outcome: Outcome, now: Ms) {
        if self.session() == Some(session) {
            self.answered(asked, &mut outcome);
        }
        self.site_dirty = true;
        if outcome.failures.is_empty() {
            self.findings.remove(&owner);
            let rounds = self.rounds.entry(owner.clone()).or_insert(0);
            *rounds += 1;
            if *rounds > 4 {
                self.schedule.failed(&owner, now);
            } else {
                self.schedule.done(&owner);
                self.schedule.add_urgent(owner);
            }
            return;
        }
        let refused = outcome.failures.iter().all(|failure| failure.refused);
        self.findings.insert(owner.clone(), outcome.failures.into_iter().map(|failure| failure.finding).collect());
        if refused {
            self.schedule.done(&owner);
            self.schedule.add_at(owner.clone(), now + 60 * SECOND);
        } else {
            self.schedule.failed(&owner, now);
        }
        if let Some(plan) = self.plan(&owner, now) {
            self.report(&owner, &plan, false, now);
        }
    }

    fn reconcile(&mut self, owner: OwnerRef, now: Ms) {
        self.count(&owner, now);
        let Some(mut plan) = self.plan(&owner, now) else {
            self.schedule.done(&owner);
            return;
        };
        if let Some(wake) = plan.wake {
            self.schedule.add_at(owner.clone(), ms(wake).max(now + 1));
        }
        let settled = plan.steps.is_empty();
        if settled {
            self.rounds.remove(&owner);
            self.findings.remove(&owner);
            if self.ending.remove(&owner).is_some() {
                self.schedule.add(owner.clone());
            }
        }
        if self.policy.paused {
            plan.steps.retain(|step| step.purpose == Purpose::RemoveAccess);
        }
        if plan.steps.is_empty() {
            self.report(&owner, &plan, settled, now);
            self.schedule.done(&owner);
            return;
        }
        self.out.push(Out::Execute(owner, plan.steps, self.index.moment()));
    }

    fn plan(&self, owner: &OwnerRef, now: Ms) -> Option<Plan> {
        let site = self.site.as_ref()?;
        if !self.synced() {
            return None;
        }
        let reconciler = Reconciler {
            site,
            intents: &self.intents,
            index: &self.index,
            policy: &self.policy,
            refusals: self.refusals.all(),
            lost: &self.lost,
            pools: &self.pools,
            hours: &self.hours,
            engines: aifactory_plan::engine::ALL,
            served: &BTreeSet::new(),
            now: time(now),
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

    fn count(&mut self, owner: &OwnerRef, now: Ms) {
        let Some(site) = self.site.as_ref().filter(|_| owner.kind == Kind::AccessGrant && self.synced()) else { return };
        let namespace = TenantNamespace::of(&site.hub, owner);
        let grant = self.intents.get(owner).and_then(|intent| grant_of(intent));
        self.hours.count(&namespace, &self.index, grant, time(now));
        if let Some(wake) = grant.and_then(|grant| self.hours.wake(&namespace, &self.index, grant, time(now))) {
            self.schedule.add_at(owner.clone(), ms(wake).max(now + 1));
        }
    }

    fn due(&mut self, owners: BTreeSet<OwnerRef>) {
        if self.synced() {
            for owner in owners {
                if !self.intents.contains_key(&owner) && !self.gone.contains(&owner) {
                    self.site_dirty = true;
                }
                let taking = self.gone.contains(&owner) || self.intents.get(&owner).is_some_and(|intent| intent.takes_access(None));
                if taking { self.schedule.add_urgent(owner) } else { self.schedule.add(owner) }
            }
        }
    }

    fn refused(&mut self, changed: BTreeSet<OwnerRef>) {
        changed.into_iter().for_each(|owner| self.schedule.add_urgent(owner));
    }

    /// Pools whose nodes are others now are visited, and those that are gone from the hub.
    fn assign_nodes(&mut self) {
        if !self.synced() {
            return;
        }
        if let Some(changed) = self.pools.assign(&self.intents, &self.index) {
            let gone = self.gone.iter().filter(|owner| owner.kind == Kind::GPUPool).cloned();
            changed.into_iter().chain(gone).for_each(|owner| self.schedule.add(owner));
        }
    }

    fn queue_all(&mut self) {
        let all = self.intents.keys().chain(&self.gone).cloned().collect::<Vec<_>>();
        all.into_iter().for_each(|owner| self.schedule.add(owner));
        self.schedule.add(self.key.factory.clone());
    }

    fn release(&mut self) {
        let wanted = self.site.as_ref().is_some_and(|site| site.release) && !self.released && self.synced();
        if wanted && self.schedule.busy() == 0 && self.held().values().all(|held| *held == Held::Retained) {
            let Some(active) = self.active.as_mut().filter(|active| !active.releasing) else { return };
            active.releasing = true;
            self.out.push(Out::Release);
        }
    }

    pub fn released(&mut self, session: u64, done: bool) {
        if let Some(active) = self.active.as_mut().filter(|active| active.session == session) {
            active.releasing = false;
            self.released = done;
            self.site_dirty = true;
        }
    }

    fn report(&mut self, owner: &OwnerRef, plan: &Plan, done: bool, now: Ms) {
        let Some(intent) = self.intents.get(owner) else {
            self.site_dirty = true;
            return;
        };
        let mut findings = self.findings.get(owner).cloned().unwrap_or_default();
        findings.extend(plan.findings.iter().cloned());
        let report = Report::planned(intent, plan.phase, done, findings, plan.detail.clone());
        if self.reported.get(owner) != Some(&report) {
            self.reported.insert(owner.clone(), report.clone());
            self.site_dirty = true;
            if self.lost.remove(owner) {
                self.schedule.add_at(owner.clone(), now + 30 * SECOND);
            }
            self.out.push(Out::Send(FromSite::About(Box::new(report))));
        }
    }

    fn held(&self) -> BTreeMap<OwnerRef, Held> {
        let owners = self.index.owners(&self.key.factory).into_iter();
        owners.map(|owner| (owner.clone(), held(&self.index, &owner, self.reported.get(&owner)))).collect()
    }

    fn report_site(&mut self, now: Ms) {
        if !self.site_dirty || self.site_report_at > now {
            return;
        }
        self.site_dirty = false;
        self.site_report_at = now + 200;
        let held = self.held();
        let orphans = held.iter().filter(|(owner, held)| **held == Held::Live && self.gone.contains(owner)).map(|(owner, _)| owner.clone()).collect();
        let paused = self.policy.paused && self.active.is_some();
        let report = SiteReport {
            reachable: self.active.is_some(),
            synced: self.synced(),
            problem: self.problem.clone().or_else(|| paused.then(|| Finding::note(Reason::PausedBySite, "paused"))),
            last_contact: self.last_contact.filter(|_| self.active.is_none()).map(time),
            cluster_uid: self.active.as_ref().map(|active| active.cluster_uid.clone()),
            held,
            orphans,
            policy_problems: self.policy.problems.clone(),
            config: self.synced().then(|| self.site_config.clone()),
            released: self.released,
            ..SiteReport::default()
        };
        if self.active.is_none() && self.problem.is_none() {
            return;
        }
        if self.site_reported.as_ref() != Some(&report) {
            self.site_reported = Some(report.clone());
            self.out.push(Out::Send(FromSite::Site(Box::new(report))));
        }
    }
}

pub fn grant_of(intent: &Intent) -> Option<&GrantIntent> {
    match &intent.body {
        Body::Grant(grant) => Some(grant),
        Body::Pool(_) => None,
    }
}
