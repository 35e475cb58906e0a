//! The worker of a site's Slurm around the pure core, as the operator drives it: passes of reading, planning and asking, and reports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::{Kind, OwnerRef, Reason};
use aifactory_plan::engine::slurm_accounts::{self, AccountPlan, AccountView, Call, Claim, HeldAccount, RemovalProgress, Snapshot, Standing};
use aifactory_plan::model::digest::digest_of;
use aifactory_plan::model::id::AccountName;
use aifactory_plan::model::intent::{Body, Intent, PoolEngine, Presence, SiteIntent};
use aifactory_plan::model::report::{Detail, EntryUsage, Finding, Held, PoolDetail, Report, SitePhase, SiteReport};
use aifactory_plan::site::policy::SitePolicy;

use super::clock::{Ms, SECOND, ms, time};
use super::worker::{FromSite, ToSite};

/// How often everything is read anew.
const RESYNC: Ms = 30 * SECOND;
/// Rounds of asking and reading again.
pub const ROUNDS: usize = 8;

/// What the worker wants done.
#[derive(Debug)]
pub enum Out {
    Send(FromSite),
    Contact,
    Pass,
    Wake(Ms),
}

/// What contact came to.
pub enum Contact {
    /// With the claim; `None`: the site is to be let go, and nothing of it is there.
    Made(Option<String>),
    /// There is contact, and nothing is written before the hub has stored that this part may hold something.
    Waits,
    Failed(Finding),
}

#[derive(Default)]
pub struct SlurmWorker {
    pub site: Option<SiteIntent>,
    pub intents: BTreeMap<OwnerRef, Arc<Intent>>,
    /// The intents as they were when the pass began.
    passed: BTreeMap<OwnerRef, Arc<Intent>>,
    gone: BTreeSet<OwnerRef>,
    /// The last intents of grants that were deleted from the hub while they were being ended here.
    ending: BTreeMap<OwnerRef, Arc<Intent>>,
    session: Option<u64>,
    sessions: u64,
    claim: Option<String>,
    given_up: Option<String>,
    contacting: bool,
    problem: Option<Finding>,
    plans: BTreeMap<OwnerRef, AccountPlan>,
    failures: BTreeMap<OwnerRef, Vec<Finding>>,
    held: Option<BTreeMap<OwnerRef, HeldAccount>>,
    removals: RemovalProgress,
    dirty: bool,
    resync_at: Ms,
    passing: bool,
    wake: BTreeMap<OwnerRef, Ms>,
    reported: BTreeMap<OwnerRef, Report>,
    site_reported: Option<SiteReport>,
    released: bool,
    pub out: Vec<Out>,
}

impl SlurmWorker {
    pub fn session(&self) -> Option<u64> {
        self.session
    }

    /// Does what is due, and says when to be woken.
    pub fn work(&mut self, now: Ms) {
        if self.site.is_some() && self.session.is_none() && !self.contacting {
            self.contacting = true;
            self.out.push(Out::Contact);
        }
        let woken: Vec<OwnerRef> = self.wake.iter().filter(|(_, at)| **at <= now).map(|(owner, _)| owner.clone()).collect();
        for owner in woken {
            self.wake.remove(&owner);
            self.dirty = true;
        }
        if self.session.is_some() && !self.passing && (self.dirty || self.resync_at <= now || self.held.is_none()) {
            (self.dirty, self.passing, self.resync_at) = (false, true, now + RESYNC);
            self.passed.clone_from(&self.intents);
            self.out.push(Out::Pass);
        }
        self.report_site();
        if self.session.is_some() && !self.passing {
            let wake = self.wake.values().copied().chain([self.resync_at]).min().unwrap_or(now);
            self.out.push(Out::Wake(wake.max(now + 1)));
        }
    }

    pub fn receive(&mut self, message: ToSite) {
        match message {
            ToSite::Site(site) => self.receive_site(*site),
            ToSite::Put(intent) => {
                self.gone.remove(&intent.owner);
                self.ending.remove(&intent.owner);
                let owner = intent.owner.clone();
                self.intents.insert(owner.clone(), intent);
                if owner.kind == Kind::AccessGrant { self.dirty = true } else { self.report_pool(&owner) }
            }
            ToSite::Withdraw(owner) => self.forget(&owner),
            ToSite::Gone(owner) => {
                if let Some(intent) = self.intents.get(&owner).filter(|intent| intent.ended_grant().is_some()) {
                    self.ending.insert(owner.clone(), Arc::clone(intent));
                }
                self.forget(&owner);
                if self.held.as_ref().is_none_or(|held| held.contains_key(&owner)) {
                    self.gone.insert(owner);
                    self.dirty = true;
                }
            }
            ToSite::Everything(intents, tombstones) => {
                let withdrawn: Vec<OwnerRef> = self.intents.keys().filter(|owner| !intents.contains_key(*owner)).cloned().collect();
                withdrawn.into_iter().for_each(|owner| self.receive(ToSite::Withdraw(owner)));
                for (owner, intent) in intents {
                    if self.intents.get(&owner) != Some(&intent) {
                        self.receive(ToSite::Put(intent));
                    }
                }
                self.gone.retain(|owner| tombstones.contains(owner));
                let added: Vec<OwnerRef> = tombstones.iter().filter(|owner| !self.gone.contains(*owner)).cloned().collect();
                added.into_iter().for_each(|owner| self.receive(ToSite::Gone(owner)));
            }
        }
    }

    fn forget(&mut self, owner: &OwnerRef) {
        self.intents.remove(owner);
        self.reported.remove(owner);
        self.plans.remove(owner);
        self.failures.remove(owner);
        self.wake.remove(owner);
    }

    fn receive_site(&mut self, mut site: SiteIntent) {
        site.expected_uid = site.expected_uid.filter(|id| self.given_up.as_ref() != Some(id));
        if self.site.as_ref() == Some(&site) {
            return;
        }
        let decisive = |site: &SiteIntent| (site.recorded, site.release, site.expected_uid.clone(), site.accepted_uid.clone());
        let known = |id: &String| site.expected_uid.as_ref().is_none_or(|expected| expected == id) || site.accepted_uid.as_ref() == Some(id);
        let again = match (self.session, &self.claim) {
            (None, _) => self.site.as_ref().is_some_and(|before| decisive(before) != decisive(&site)),
            (Some(_), Some(claim)) => !site.recorded || !known(claim),
            (Some(_), None) => !site.release,
        };
        if again {
            self.disconnect(None);
        }
        self.released &= site.release;
        self.site = Some(site);
        self.dirty = true;
    }

    pub fn disconnect(&mut self, problem: Option<Finding>) {
        (self.session, self.held, self.passing, self.contacting) = (None, None, false, false);
        self.problem = problem;
    }

    /// Looks where this site stands in the cluster; with a claim to be made where there is none.
    pub fn look(&self, snapshot: &Snapshot, id: &str) -> Result<(Contact, Option<Claim>), Finding> {
        let Some(site) = &self.site else { return Ok((Contact::Waits, None)) };
        let held = slurm_accounts::held(snapshot, &slurm_accounts::scope(site));
        let lives = held.values().any(|held| !held.record.retained());
        let found = slurm_accounts::standing(site, &snapshot.accounts, !held.is_empty());
        if site.release && !matches!(found, Standing::Ours(_)) && !lives {
            return match found {
                Standing::Refused(finding) if finding.reason != Reason::SiteClaimed => Err(finding),
                _ => Ok((Contact::Made(None), None)),
            };
        }
        match found {
            Standing::Refused(finding) => Err(finding),
            Standing::Ours(_) | Standing::Free(_) if !site.recorded => Ok((Contact::Waits, None)),
            Standing::Ours(id) => Ok((Contact::Made(Some(id)), None)),
            Standing::Free(former) => {
                let claim = Claim::of(site, former.unwrap_or_else(|| id.to_owned()));
                Ok((Contact::Made(Some(claim.id.clone())), Some(claim)))
            }
        }
    }

    pub fn contacted(&mut self, result: Contact) {
        match result {
            Contact::Made(claim) => {
                self.sessions += 1;
                self.session = Some(self.sessions);
                (self.claim, self.contacting, self.problem, self.held, self.passing) = (claim, false, None, None, false);
            }
            Contact::Waits => {
                self.problem = Some(Finding::note(Reason::Pending, "there is contact; the hub has not stored yet that it may hold something"))
            }
            Contact::Failed(problem) => self.problem = Some(problem),
        }
    }

    /// What is to be asked now, by stage; `Err`: the claim is not ours any more.
    pub fn round(&mut self, snapshot: &Snapshot, round: usize, now: Ms) -> Result<Vec<(OwnerRef, Call)>, Finding> {
        let Some(site) = self.site.clone() else { return Ok(Vec::new()) };
        let scope = slurm_accounts::scope(&site);
        let held = slurm_accounts::held(snapshot, &scope);
        self.check_claim(&site, snapshot, &held)?;
        let config = site.config.clone();
        let mut policy = config.as_ref().map(|config| SitePolicy::parse(&config.policy)).unwrap_or_default();
        policy.paused |= config.is_none();
        let refusals = policy.refusals(self.passed.values().map(AsRef::as_ref));
        let owners: BTreeSet<OwnerRef> =
            self.passed.keys().chain(&self.gone).chain(held.keys()).filter(|owner| owner.kind == Kind::AccessGrant).cloned().collect();
        let (nobody, mut calls) = (BTreeSet::new(), Vec::new());
        for owner in owners {
            let view = AccountView {
                snapshot,
                policy: &policy,
                users: config.as_ref().map(|config| &config.users),
                refused: refusals.get(&owner),
                busy: &nobody,
                removals: &self.removals,
            };
            let plan = match self.passed.get(&owner).map(|intent| (intent, &intent.body)) {
                Some((intent, Body::Grant(grant))) => slurm_accounts::plan_grant(&site, intent, grant, &view, time(now)),
                _ if self.gone.contains(&owner) => match held.get(&owner) {
                    Some(held) => {
                        let ending = self.ending.get(&owner).map(AsRef::as_ref);
                        slurm_accounts::plan_gone(&site, &owner, held, ending, &view, time(now))
                    }
                    None => {
                        self.gone.remove(&owner);
                        continue;
                    }
                },
                _ => continue,
            };
            if self.claim.is_some() && round < ROUNDS {
                calls.extend(plan.calls.iter().cloned().map(|call| (owner.clone(), call)));
            } else if self.claim.is_some() && !plan.calls.is_empty() {
                self.failures.insert(owner.clone(), vec![Finding::note(Reason::NotWritten, "Slurm did not keep what it was asked for")]);
            }
            match plan.wake {
                Some(at) => self.wake.insert(owner.clone(), ms(at)),
                None => self.wake.remove(&owner),
            };
            self.plans.insert(owner, plan);
        }
        self.held = Some(held);
        calls.sort_by_key(|(_, call)| call.stage());
        Ok(calls)
    }

    fn check_claim(&self, site: &SiteIntent, snapshot: &Snapshot, held: &BTreeMap<OwnerRef, HeldAccount>) -> Result<(), Finding> {
        let lives = held.values().any(|held| !held.record.retained());
        match (slurm_accounts::standing(site, &snapshot.accounts, !held.is_empty()), &self.claim) {
            (Standing::Ours(id), Some(claim)) if id == *claim => Ok(()),
            (Standing::Refused(finding), Some(_)) => Err(finding),
            (_, Some(_)) => Err(Finding::note(Reason::Pending, "this site's claim on the cluster is not there any more")),
            (_, None) if lives => Err(Finding::note(Reason::Pending, "something of this site is in the cluster again")),
            (_, None) => Ok(()),
        }
    }

    pub fn made(&mut self, call: &Call) {
        self.removals.record(call);
    }

    pub fn refused(&mut self, owner: &OwnerRef, number: i32) {
        self.failures.entry(owner.clone()).or_default().push(Finding::note(Reason::SiteError, format!("Slurm says {number}")));
    }

    /// The pass is over. Gives the account of the claim where it is to be given up.
    pub fn pass_ended(&mut self, now: Ms) -> Option<AccountName> {
        self.passing = false;
        let failed: Vec<OwnerRef> = self.failures.keys().cloned().collect();
        failed.into_iter().for_each(|owner| {
            self.wake.insert(owner, now + 5 * SECOND);
        });
        let mut given_up = None;
        let held = self.held.clone().unwrap_or_default();
        let done = held.values().all(|held| held.record.retained()) && slurm_accounts::all_closed(&held, &self.plans);
        if let Some(site) = self.site.as_ref().filter(|site| site.release && done) {
            if self.claim.is_some() {
                given_up = Some(Claim::of(site, "").account());
                self.given_up = self.claim.take();
            }
            self.released = true;
        }
        let done = |owner: &OwnerRef, intent: &Intent| {
            self.plans.get(owner).is_some_and(|plan| plan.calls.is_empty() && plan.answers == digest_of(intent)) && !self.failures.contains_key(owner)
        };
        self.ending.retain(|owner, intent| held.contains_key(owner) && !done(owner, intent));
        self.report_all(now);
        self.failures.clear();
        given_up
    }

    pub fn pass_failed(&mut self, problem: Finding) {
        self.released = false;
        self.disconnect(Some(problem));
    }

    fn report_all(&mut self, now: Ms) {
        for owner in self.intents.keys().cloned().collect::<Vec<_>>() {
            if owner.kind == Kind::AccessGrant { self.report_grant(&owner, now) } else { self.report_pool(&owner) }
        }
    }

    fn report_grant(&mut self, owner: &OwnerRef, now: Ms) {
        let Some((intent, plan)) = self.intents.get(owner).cloned().zip(self.plans.get(owner).cloned()) else { return };
        if plan.answers != digest_of(intent.as_ref()) {
            return;
        }
        let mut findings = self.failures.get(owner).cloned().unwrap_or_default();
        findings.extend(plan.findings.iter().cloned());
        let done = plan.calls.is_empty() && !self.failures.contains_key(owner);
        let mut detail = plan.detail.clone();
        let before = self.reported.get(owner).and_then(|report| match &report.detail {
            Detail::Grant(detail) => Some(detail.usage.clone()),
            _ => None,
        });
        let entries = detail.slurm.iter().flat_map(|slurm| slurm.entries.keys());
        let usage = |entry: &String| before.as_ref().and_then(|before| before.get(entry).cloned());
        let none = || EntryUsage { complete_through: Some(time(now)), ..EntryUsage::default() };
        detail.usage = entries.map(|entry| (entry.clone(), usage(entry).unwrap_or_else(none))).collect();
        self.send_report(Report::planned(&intent, plan.phase, done, findings, Detail::Grant(detail)));
    }

    fn report_pool(&mut self, owner: &OwnerRef) {
        let Some(intent) = self.intents.get(owner).cloned().filter(|_| self.held.is_some()) else { return };
        let Body::Pool(pool) = &intent.body else { return };
        let PoolEngine::Slurm { partition, .. } = &pool.engine else {
            return self.send_report(Report::answering(&intent, SitePhase::Gone, Detail::None));
        };
        let phase = match pool.presence {
            Presence::Active => SitePhase::Bound,
            Presence::Draining => SitePhase::Draining,
            Presence::Absent => SitePhase::Gone,
        };
        let detail = PoolDetail { wanted: 2, ready: 2, gpus: 8, partition: Some((partition.clone(), "Up".to_owned())), ..PoolDetail::default() };
        self.send_report(Report::answering(&intent, phase, Detail::Pool(detail)));
    }

    fn send_report(&mut self, report: Report) {
        let owner = report.owner.clone();
        if self.reported.get(&owner) != Some(&report) {
            self.reported.insert(owner, report.clone());
            self.out.push(Out::Send(FromSite::About(Box::new(report))));
        }
    }

    fn report_site(&mut self) {
        if self.site.is_none() || (self.session.is_none() && self.problem.is_none()) {
            return;
        }
        let held = self.held.iter().flatten();
        let kept: BTreeMap<OwnerRef, Held> =
            held.map(|(owner, held)| (owner.clone(), if held.record.retained() { Held::Retained } else { Held::Live })).collect();
        let orphans =
            kept.iter().filter(|(owner, held)| **held == Held::Live && self.gone.contains(*owner)).map(|(owner, _)| owner.clone()).collect();
        let report = SiteReport {
            reachable: self.session.is_some(),
            synced: self.session.is_some() && self.held.is_some(),
            problem: self.problem.clone(),
            cluster_uid: self.session.and_then(|_| self.claim.clone().or_else(|| self.given_up.clone())),
            held: kept,
            orphans,
            released: self.released,
            ..SiteReport::default()
        };
        if self.site_reported.as_ref() != Some(&report) {
            self.site_reported = Some(report.clone());
            self.out.push(Out::Send(FromSite::Site(Box::new(report))));
        }
    }
}
