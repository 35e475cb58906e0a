//! The hub's controller around the pure core, as the operator drives it: caches, schedule, what sites were sent and what they report.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::{AIFactory, Kind, OwnerRef, labels};
use aifactory_plan::hub::aggregate::Reports;
use aifactory_plan::hub::cache::{Cache, pools_of_grant};
use aifactory_plan::hub::dependents::dependents;
use aifactory_plan::hub::holders::Holders;
use aifactory_plan::hub::known_sites::{KnownSite, KnownSites, Membership};
use aifactory_plan::hub::ledger::Ledger;
use aifactory_plan::hub::reports::ReportIndex;
use aifactory_plan::hub::sent::SentSet;
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::freshness::{Freshness, Incarnation, Moment};
use aifactory_plan::model::intent::{SiteConfig, SiteIntent};
use aifactory_plan::model::report::SiteReport;
use aifactory_plan::model::site_key::{Part, SiteKey};

use super::clock::{Ms, Queue, SECOND, ms, time};
use super::hub_store::{HubEvent, Resource, Write};
use super::worker::{FromSite, ToSite};

/// How soon pools and factories count again after a change of a grant.
const RECOUNT: Ms = SECOND;
/// After a restart: how long a stored status is kept while sites have not reported again.
pub const REPORT_GRACE: Ms = 15 * SECOND;

pub type WorkerId = u64;

/// What the controller wants done.
#[derive(Debug)]
pub enum Out {
    Start(SiteKey, WorkerId),
    Stop(WorkerId),
    Tell(WorkerId, ToSite),
    Write(OwnerRef, String, Write, Moment),
    Store(KnownSites),
    Wake(Ms),
}

pub struct Worked {
    pub worker: WorkerId,
    pub source: CredentialSource,
    pub site: Option<SiteIntent>,
    pub sent: SentSet,
}

/// Since when a resource is in progress, and when its status was written last.
#[derive(Default)]
pub struct Pace {
    pub generation: i64,
    pub moving: Option<Ms>,
    pub written: Option<Ms>,
}

pub struct Controller {
    /// Which start of the operator this is.
    pub incarnation: u64,
    workers: u64,
    pub cache: Cache,
    fresh: BTreeMap<Kind, Freshness<OwnerRef>>,
    /// Orders listings and writes.
    moment: Moment,
    /// The parts of sites that have been synced since this process leads.
    pub synced: BTreeSet<SiteKey>,
    started: bool,
    unlisted: BTreeSet<Kind>,
    pub undecodable: BTreeSet<OwnerRef>,
    pub sites: BTreeMap<SiteKey, Worked>,
    /// The parts of sites that may hold something, as they shall be stored; `cache.known` is what is stored.
    pub known: KnownSites,
    storing_known: bool,
    pub site_reports: BTreeMap<SiteKey, SiteReport>,
    pub site_configs: BTreeMap<SiteKey, SiteConfig>,
    pub reports: ReportIndex,
    pub holders: Holders,
    pub ledgers: BTreeMap<OwnerRef, Ledger>,
    pub abandoned: BTreeSet<SiteKey>,
    pub schedule: Queue<OwnerRef>,
    pub pace: BTreeMap<OwnerRef, Pace>,
    pub begun: Ms,
    pub out: Vec<Out>,
}

impl Controller {
    /// `known`: what an earlier process has stored.
    pub fn new(incarnation: u64, known: KnownSites, now: Ms) -> Self {
        let mut schedule = Queue::default();
        for factory in known.iter().map(|known| known.key.factory.clone()).collect::<BTreeSet<_>>() {
            schedule.add(factory);
        }
        let mut cache = Cache::default();
        cache.known.clone_from(&known);
        Self {
            incarnation,
            workers: 0,
            cache,
            known,
            storing_known: false,
            fresh: BTreeMap::new(),
            moment: Moment::default(),
            synced: BTreeSet::new(),
            started: false,
            unlisted: [Kind::AIFactory, Kind::GPUPool, Kind::AccessGrant].into(),
            undecodable: BTreeSet::new(),
            sites: BTreeMap::new(),
            site_reports: BTreeMap::new(),
            site_configs: BTreeMap::new(),
            reports: ReportIndex::default(),
            holders: Holders::default(),
            ledgers: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            schedule,
            pace: BTreeMap::new(),
            begun: now,
            out: Vec::new(),
        }
    }

    /// Does what is due; returns when to be woken.
    pub fn work(&mut self, now: Ms) {
        if !self.unlisted.is_empty() {
            return;
        }
        self.begin(now);
        let changed = self.cache.advance(time(now));
        changed.into_iter().for_each(|owner| self.schedule.add(owner));
        while self.schedule.busy() < 16 {
            let Some(owner) = self.schedule.next(now) else { break };
            match self.reconcile(&owner, now) {
                Some(write) => {
                    let uid = self.resource(&owner).and_then(|found| found.meta().uid.clone()).unwrap_or_default();
                    self.moment = self.moment.next();
                    self.out.push(Out::Write(owner, uid, write, self.moment));
                }
                None => self.schedule.done(&owner),
            }
        }
        if !self.storing_known && self.known != self.cache.known {
            self.storing_known = true;
            self.out.push(Out::Store(self.known.clone()));
        }
        let end = self.cache.next_end().map(|end| ms(end).max(now) + 1);
        if let Some(wake) = self.schedule.wake(now).into_iter().chain(end).min() {
            self.out.push(Out::Wake(wake.max(now + 1)));
        }
    }

    /// First of all the parts of sites that may hold something are known.
    fn begin(&mut self, now: Ms) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let held = |factory: &AIFactory| factory.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == labels::FINALIZER);
        let factories: Vec<OwnerRef> = self.cache.factories().filter(|(_, factory)| held(factory)).map(|(owner, _)| owner.clone()).collect();
        factories.iter().for_each(|owner| {
            self.ensure_workers(owner, now);
        });
    }

    /// A watch listed everything of a kind: just these exist.
    pub fn listed(&mut self, kind: Kind, events: Vec<HubEvent>, now: Ms) {
        let mut names = BTreeSet::new();
        self.moment = self.moment.next();
        self.fresh.entry(kind).or_default().relist(self.moment);
        for event in events {
            if let HubEvent::Put(owner, _) | HubEvent::Undecodable(owner, _, _) = &event {
                names.insert(owner.clone());
            }
            self.observe(event, now);
        }
        let known: Vec<OwnerRef> = match kind {
            Kind::AIFactory => self.cache.factories().map(|(owner, _)| owner.clone()).collect(),
            Kind::GPUPool => self.cache.pools().map(|(owner, _)| owner.clone()).collect(),
            Kind::AccessGrant => self.cache.grants().map(|(owner, _)| owner.clone()).collect(),
        };
        let known = known.iter().chain(self.undecodable.iter().filter(|owner| owner.kind == kind));
        let fresh = self.fresh.entry(kind).or_default();
        let gone: BTreeSet<OwnerRef> = known.filter(|owner| !names.contains(*owner) && !fresh.outlives_listing(owner)).cloned().collect();
        gone.iter().for_each(|owner| self.removed(owner, now));
        self.unlisted.remove(&kind);
    }

    pub fn observe(&mut self, event: HubEvent, now: Ms) {
        match event {
            HubEvent::Put(owner, resource) => {
                if self.fresh.entry(owner.kind).or_default().shown(&owner, incarnation(&resource)) {
                    self.put(owner, resource, now);
                }
            }
            HubEvent::Removed(owner, uid, version) => {
                if self.fresh.entry(owner.kind).or_default().went(&owner, Incarnation::new(&uid, version)) {
                    self.removed(&owner, now);
                }
            }
            HubEvent::Undecodable(owner, uid, version) => {
                if self.fresh.entry(owner.kind).or_default().shown(&owner, Incarnation::new(&uid, version)) {
                    self.undecodable.insert(owner.clone());
                    self.cache.put_undecodable(owner.clone());
                    self.schedule.add(owner);
                }
            }
        }
    }

    fn put(&mut self, owner: OwnerRef, resource: Resource, now: Ms) {
        self.undecodable.remove(&owner);
        let before = self.resource(&owner);
        let deleting = |resource: &Resource| resource.meta().deletion_timestamp.clone();
        let changed = before.as_ref().is_none_or(|before| {
            deleting(before) != deleting(&resource)
                || match (before, &resource) {
                    (Resource::Factory(before), Resource::Factory(after)) => {
                        before.spec != after.spec || before.metadata.annotations != after.metadata.annotations
                    }
                    (Resource::Pool(before), Resource::Pool(after)) => before.spec != after.spec,
                    (Resource::Grant(before), Resource::Grant(after)) => {
                        before.spec != after.spec || before.may_give_access() != after.may_give_access()
                    }
                    _ => true,
                }
        });
        let urgent = deleting(&resource).is_some();
        match resource {
            Resource::Factory(factory) => self.cache.put_factory(owner.clone(), factory),
            Resource::Pool(pool) => self.cache.put_pool(owner.clone(), pool),
            Resource::Grant(grant) => {
                let others = self.cache.put_grant(owner.clone(), grant);
                others.into_iter().for_each(|other| self.schedule.add(other));
            }
        }
        self.reports.recount(&self.cache, &owner);
        if changed {
            self.dependents(&owner, now);
        }
        if urgent { self.schedule.add_urgent(owner) } else { self.schedule.add(owner) }
    }

    fn removed(&mut self, owner: &OwnerRef, now: Ms) {
        self.dependents(owner, now);
        self.undecodable.remove(owner);
        let others = self.cache.remove(owner);
        others.into_iter().for_each(|other| self.schedule.add(other));
        self.pace.remove(owner);
        self.ledgers.remove(owner);
        self.reports.remove(owner);
        let recipients: Vec<SiteKey> = self.sites.iter().filter(|(_, worked)| worked.sent.contains(owner)).map(|(key, _)| key.clone()).collect();
        recipients.iter().for_each(|key| self.send_tombstone(key, owner));
        self.schedule.add(owner.clone());
    }

    /// Schedules those whose projection or status depends on this resource.
    pub fn dependents(&mut self, owner: &OwnerRef, now: Ms) {
        let dependents = dependents(&self.cache, owner);
        dependents.now.into_iter().for_each(|other| self.schedule.add(other));
        dependents.soon.into_iter().for_each(|other| self.schedule.add_at(other, now + RECOUNT));
    }

    pub fn receive(&mut self, key: SiteKey, worker: WorkerId, message: FromSite, now: Ms) {
        if self.sites.get(&key).is_none_or(|worked| worked.worker != worker) {
            return;
        }
        match message {
            FromSite::About(report) => {
                self.holders.answered(&key, &report);
                let owner = report.owner.clone();
                if self.cache.contains(&owner) {
                    self.reports.put(&self.cache, &key, *report);
                    for pool in self.cache.grant(&owner).map(|grant| pools_of_grant(&owner, grant)).unwrap_or_default() {
                        self.schedule.add_at(pool, now + RECOUNT);
                    }
                    self.schedule.add(owner);
                    self.schedule.add_at(key.factory, now + RECOUNT);
                }
            }
            FromSite::Site(report) => self.site_reported(key, *report),
        }
    }

    fn site_reported(&mut self, key: SiteKey, report: SiteReport) {
        if let Some(config) = &report.config {
            self.site_configs.insert(key.clone(), config.clone());
        }
        let state = |report: &SiteReport| (report.reachable, report.synced, report.problem.as_ref().map(|problem| problem.reason));
        let before = self.site_reports.insert(key.clone(), report.clone());
        let moved = before.as_ref().map(state) != Some(state(&report));
        let newly_synced = report.synced && !before.as_ref().is_some_and(|before| before.synced);
        for owner in self.holders.reported(&key, &report) {
            self.schedule.add(owner);
        }
        if report.synced {
            if self.synced.insert(key.clone()) {
                self.cache.grants().for_each(|(owner, _)| self.schedule.add(owner.clone()));
            }
            self.send_tombstones(&key, &report);
        }
        if newly_synced {
            let concerned: Vec<OwnerRef> = self.holders.unanswered_at(&key).cloned().collect();
            concerned.into_iter().for_each(|owner| self.schedule.add(owner));
            let sent = self.sites.get(&key).map(|worked| &worked.sent);
            self.holders.resynced(&key, |owner| sent.is_some_and(|sent| sent.contains(owner)));
            self.resend(&key);
        }
        self.learn_of(&key, &report);
        if moved {
            let owners: Vec<OwnerRef> = self.sites.get(&key).map(|worked| worked.sent.owners().cloned().collect()).unwrap_or_default();
            owners.into_iter().for_each(|owner| self.schedule.add(owner));
        }
        self.schedule.add(key.factory);
    }

    /// Sends tombstones for what the part holds of resources that are gone, and forgets those that it has answered.
    fn send_tombstones(&mut self, key: &SiteKey, report: &SiteReport) {
        for owner in report.held.keys().filter(|owner| owner.kind != Kind::AIFactory) {
            if !self.cache.contains(owner) && self.unlisted.is_empty() && !self.undecodable.contains(owner) {
                self.send_tombstone(key, owner);
            }
        }
        if let Some(worked) = self.sites.get_mut(key) {
            worked.sent.retain_tombstones(|owner| report.held.contains_key(owner));
        }
    }

    /// Takes in what a report of a part about itself means for the set of known sites.
    fn learn_of(&mut self, key: &SiteKey, report: &SiteReport) {
        match self.known.membership(key, report, || self.reports.any_access(key)) {
            Membership::Leaves => self.known.remove(key),
            Membership::Joins { entered } => self.join(key, report.cluster_uid.clone(), entered),
            Membership::Stays => {}
        }
    }

    /// Adds a part to the set, or brings up to date what is remembered of it.
    pub fn join(&mut self, key: &SiteKey, identity: Option<String>, entered: bool) {
        let Some(credential) = self.sites.get(key).map(|worked| worked.source.clone()) else { return };
        let slurm = self.cache.site(key).and_then(|site| site.slurm.clone()).filter(|_| key.part == Part::Slurm);
        self.known.join(KnownSite { key: key.clone(), credential, slurm, identity, entered });
    }

    /// The set of known sites was stored.
    pub fn known_stored(&mut self, known: KnownSites, now: Ms) {
        self.storing_known = false;
        let before = std::mem::replace(&mut self.cache.known, known);
        let changed = |one: &KnownSites, other: &KnownSites| -> Vec<OwnerRef> {
            one.iter().filter(|known| other.get(&known.key) != Some(*known)).map(|known| known.key.factory.clone()).collect()
        };
        let factories: BTreeSet<OwnerRef> = changed(&before, &self.cache.known).into_iter().chain(changed(&self.cache.known, &before)).collect();
        for factory in factories {
            self.dependents(&factory, now);
            self.schedule.add(factory);
        }
    }

    /// A write was carried out; gives what is stored then, if it is still there.
    pub fn written(&mut self, owner: OwnerRef, asked: Moment, result: Option<Resource>, status: bool, now: Ms) {
        self.schedule.done(&owner);
        let Some(resource) = result else { return };
        if status && let Some(pace) = self.pace.get_mut(&owner) {
            pace.written = Some(now);
        }
        if self.fresh.entry(owner.kind).or_default().answered(&owner, incarnation(&resource), asked) {
            self.put(owner.clone(), resource, now);
        }
        self.schedule.add(owner);
    }

    /// Starts a worker for a part of a site, and gives its id.
    pub fn start(&mut self, key: &SiteKey) -> WorkerId {
        self.workers += 1;
        let worker = self.incarnation * 1_000_000 + self.workers;
        self.out.push(Out::Start(key.clone(), worker));
        worker
    }

    pub fn resource(&self, owner: &OwnerRef) -> Option<Resource> {
        match owner.kind {
            Kind::AIFactory => self.cache.factory(owner).cloned().map(Resource::Factory),
            Kind::GPUPool => self.cache.pool(owner).cloned().map(Resource::Pool),
            Kind::AccessGrant => self.cache.grant(owner).cloned().map(Resource::Grant),
        }
    }

    pub fn about(&self, owner: &OwnerRef) -> Reports<'_> {
        Reports {
            about: self.reports.about(owner).map(|(key, report)| (key.clone(), report)).collect(),
            sites: &self.site_reports,
            abandoned: &self.abandoned,
        }
    }
}

fn incarnation(resource: &Resource) -> Incarnation {
    Incarnation::new(resource.meta().uid.as_deref().unwrap_or_default(), resource.version())
}
