//! What a grant shall be in a Slurm cluster now.

use std::collections::BTreeMap;

use aifactory_api::factory::OrphanPolicy;
use aifactory_api::name::SlurmScope;
use aifactory_api::{OwnerRef, Reason, labels};
use jiff::{SignedDuration, Timestamp};

use super::call::Call;
use super::found::{Found, HeldAccount, Place};
use super::record::{Record, State};
use super::state::Limit;
use super::view::{AccountPlan, AccountView};
use crate::model::digest::digest_of;
use crate::model::intent::{Desired, End, GrantIntent, Intent, SiteIntent};
use crate::model::report::{Finding, GrantDetail, SitePhase, SlurmDetail, SlurmEntry};

/// Plans a grant in a Slurm cluster.
pub fn plan_grant(site: &SiteIntent, intent: &Intent, grant: &GrantIntent, view: &AccountView<'_>, now: Timestamp) -> AccountPlan {
    let mut planner = Planner::new(site, &intent.owner, *view, now, &grant.code);
    planner.end = Some(grant.end.clone());
    planner.decide(intent, grant);
    planner.finish(intent, Some(grant))
}

/// Plans for what is left of a grant that is gone from the hub: what is retained acts by its record alone, and the rest is an orphan.
pub fn plan_gone(site: &SiteIntent, owner: &OwnerRef, held: &HeldAccount, view: &AccountView<'_>, now: Timestamp) -> AccountPlan {
    let mut planner = Planner::new(site, owner, *view, now, &held.record.code);
    match planner.found.record.clone() {
        None => planner.phase = SitePhase::Gone,
        Some(record) if record.retained() => planner.keep(&record),
        Some(record) => match site.policy.orphans {
            OrphanPolicy::Report => planner.phase = SitePhase::Locked,
            OrphanPolicy::Lock => {
                planner.lock(&record);
                planner.phase = SitePhase::Locked;
            }
            OrphanPolicy::Delete if view.policy.keep_namespaces => {
                planner.lock(&record);
                planner.kept_by_site();
                planner.phase = SitePhase::Locked;
            }
            OrphanPolicy::Delete => {
                planner.delete(&record);
                planner.phase = SitePhase::Gone;
            }
        },
    }
    planner.finish(owner, None)
}

/// A plan in the making.
pub(super) struct Planner<'a> {
    pub site: &'a SiteIntent,
    pub scope: SlurmScope,
    pub owner: &'a OwnerRef,
    pub view: AccountView<'a>,
    pub now: Timestamp,
    pub found: Found<'a>,
    pub end: Option<End>,
    pub phase: SitePhase,
    pub findings: Vec<Finding>,
    pub wake: Option<Timestamp>,
    pub members_bound: usize,
    /// Calls, and whether each is part of taking access away.
    calls: Vec<(Call, bool)>,
}

impl<'a> Planner<'a> {
    fn new(site: &'a SiteIntent, owner: &'a OwnerRef, view: AccountView<'a>, now: Timestamp, code: &str) -> Self {
        let scope = scope(site);
        let found = Found::read(view.snapshot, &scope, owner, Some(code));
        Self {
            site,
            scope,
            owner,
            view,
            now,
            found,
            end: None,
            phase: SitePhase::Gone,
            findings: Vec::new(),
            wake: None,
            members_bound: 0,
            calls: Vec::new(),
        }
    }

    fn decide(&mut self, intent: &Intent, grant: &GrantIntent) {
        let record = self.found.record.clone();
        if let Some(record) = &record
            && record.uid != intent.uid
            && record.code != grant.code
            && !grant.adopt_previous
        {
            return self.previous_incarnation(record, grant);
        }
        let alive = record.as_ref().is_some_and(|record| record.state != State::Locked);
        let living = matches!(grant.desired, Desired::Bound | Desired::Paused | Desired::Scheduled);
        if let Some(refusal) = self.view.refused.filter(|_| living) {
            return self.refuse(intent, grant, refusal.reason, &refusal.message);
        }
        match (&grant.desired, &grant.only_if_held) {
            (Desired::Ended { because, message, at }, _) => self.ended(intent, grant, (*because, message), *at, SitePhase::Locked),
            (Desired::Bound, _) if grant.keep || self.site.left => self.hold(grant, true),
            (Desired::Paused | Desired::Scheduled, _) if grant.keep || self.site.left => self.hold(grant, false),
            (Desired::Bound | Desired::Paused, Some(refusal)) if !alive => self.refuse(intent, grant, refusal.reason, &refusal.message),
            (Desired::Bound, _) => self.establish(intent, grant, true),
            (Desired::Paused, _) => self.establish(intent, grant, false),
            (Desired::Scheduled, _) if alive => self.establish(intent, grant, false),
            (Desired::Scheduled, _) => self.phase = if record.is_some() { SitePhase::Locked } else { SitePhase::Gone },
        }
    }

    fn previous_incarnation(&mut self, record: &Record, grant: &GrantIntent) {
        self.lock(record);
        self.phase = SitePhase::Refused;
        let message = format!(
            "account {} holds what an earlier grant of this name with code {:?} has used, this one has {:?}. Wait until it is gone, or take it \
             over: kubectl annotate accessgrant {} -n {} {}=true",
            self.found.account,
            record.code,
            grant.code,
            self.owner.name,
            self.owner.namespace,
            labels::ADOPT_PREVIOUS,
        );
        self.findings.push(Finding::stalled(Reason::PreviousIncarnation, message));
    }

    /// Takes access away from what is held, and says why.
    pub fn refuse(&mut self, intent: &Intent, grant: &GrantIntent, reason: Reason, message: &str) {
        self.ended(intent, grant, (reason, message), None, SitePhase::Refused);
        self.findings.insert(0, Finding::stalled(reason, message));
    }

    /// Asks for something.
    pub fn ask(&mut self, call: Call) {
        let removes = call.stage().removes_access();
        self.calls.push((call, removes));
    }

    /// Asks for something that keeps account of access being taken away.
    pub fn note_down(&mut self, call: Call) {
        self.calls.push((call, true));
    }

    /// Forgets what gives access, or deletes.
    pub fn only_removals(&mut self) -> bool {
        let before = self.calls.len();
        self.calls.retain(|(_, removes)| *removes);
        self.calls.len() < before
    }

    /// Plans again at this time, or before.
    pub fn wake_at(&mut self, at: Timestamp) {
        if at > self.now {
            self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
        }
    }

    pub fn kept_by_site(&mut self) {
        self.findings.push(Finding::note(
            Reason::RefusedBySite,
            format!("account {} is kept: the site's {} says allowDeletion: \"false\"", self.found.account, labels::SITE_POLICY),
        ));
    }

    fn finish(mut self, answers: &impl serde::Serialize, grant: Option<&GrantIntent>) -> AccountPlan {
        // What is gone stays gone, whatever has to wait for the site.
        let detail = self.detail(grant);
        if self.view.policy.paused && self.only_removals() {
            self.phase = SitePhase::Pending;
            self.findings
                .push(Finding::note(Reason::PausedBySite, format!("the site's {} says paused: only access is taken away", labels::SITE_POLICY)));
        }
        let mut calls: Vec<Call> = self.calls.into_iter().map(|(call, _)| call).collect();
        calls.sort_by_key(Call::stage);
        AccountPlan { answers: digest_of(answers), calls, phase: self.phase, findings: self.findings, detail, wake: self.wake }
    }

    fn detail(&self, grant: Option<&GrantIntent>) -> GrantDetail {
        let ended = self.phase == SitePhase::Locked || self.phase == SitePhase::Refused || self.phase == SitePhase::Gone;
        let strays = self.found.rows(self.view.snapshot, &self.scope, self.owner).any(|(_, row)| self.found.strays(row) && !row.locked());
        // What the grant does not say now, associations show.
        let shown = |qos: &str| {
            let mut rows = self.view.snapshot.rows_of(&self.found.account).filter(|(_, row)| row.qos.contains(qos));
            rows.find_map(|(key, _)| Some(key.partition.clone()).filter(|partition| !partition.is_empty()))
        };
        let partition = |entry: &str, qos: &str| {
            let pool = grant.and_then(|grant| grant.pools.iter().find(|pool| pool.entry == entry));
            pool.and_then(|pool| pool.partition.clone()).or_else(|| shown(qos)).unwrap_or_default()
        };
        let entries = self.found.qos.iter().filter_map(|(name, (qos, record))| {
            let entry = record.entry.clone()?;
            let limit = qos.limits.get(&Limit::GpuMinutes).copied();
            Some((entry.clone(), SlurmEntry { qos: (*name).to_owned(), partition: partition(&entry, name), limit }))
        });
        let held = self.found.record.is_some();
        GrantDetail {
            namespace: String::new(),
            members_wanted: grant.map_or(0, |grant| i32::try_from(grant.members.len()).unwrap_or(i32::MAX)),
            members_bound: i32::try_from(self.members_bound).unwrap_or(i32::MAX),
            access_removed: ended && self.found.locked() && !strays,
            isolated: self.found.place != Place::Foreign,
            retained_until: self.found.record.as_ref().filter(|record| record.state == State::Locked).and_then(|record| record.retained_until),
            slurm: held.then(|| SlurmDetail { cluster: self.scope.cluster.clone(), account: self.found.account.clone(), entries: entries.collect() }),
            usage: BTreeMap::new(),
        }
    }
}

/// What a site's names in Slurm are made from.
pub fn scope(site: &SiteIntent) -> SlurmScope {
    SlurmScope {
        hub: site.hub.clone(),
        factory: site.factory.clone(),
        site: site.site.clone(),
        cluster: site.slurm.as_ref().map(|slurm| slurm.cluster_name.clone()).unwrap_or_default(),
    }
}

pub(super) fn after(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}
