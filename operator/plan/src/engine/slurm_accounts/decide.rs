//! What a grant shall be in a Slurm cluster now.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::factory::OrphanPolicy;
use aifactory_api::{OwnerRef, Reason, labels};
use jiff::Timestamp;

use super::call::Call;
use super::found::{Found, HeldAccount, Known, Place};
use super::names::SlurmScope;
use super::record::{Record, State};
use super::state::Limit;
use super::view::{AccountPlan, AccountView};
use crate::model::digest::digest_of;
use crate::model::id::{ClusterName, QosName, TenantNamespace};
use crate::model::intent::{Desired, End, GrantIntent, Intent, Refusal, SiteIntent};
use crate::model::lifecycle::{Cause, Ended, Life, Marks, Order};
use crate::model::report::{Finding, GrantDetail, SitePhase, SlurmDetail, SlurmEntry};

/// Plans a grant in a Slurm cluster.
pub fn plan_grant(site: &SiteIntent, intent: &Intent, grant: &GrantIntent, view: &AccountView<'_>, now: Timestamp) -> AccountPlan {
    let mut planner = Planner::new(site, &intent.owner, *view, now, &Known::of(grant));
    planner.found.assume(intent, grant);
    planner.end = Some(grant.end.clone());
    planner.decide(intent, grant);
    planner.finish(intent, Some(grant))
}

/// Plans for what is left of a grant that is gone from the hub: what is retained acts by its record alone, and the rest is an orphan. `ending`: the
/// grant's last intent, where it was being ended; the end is carried out by it, until the record says so.
pub fn plan_gone(
    site: &SiteIntent,
    owner: &OwnerRef,
    held: &HeldAccount,
    ending: Option<&Intent>,
    view: &AccountView<'_>,
    now: Timestamp,
) -> AccountPlan {
    if let Some((intent, grant)) = ending.and_then(|intent| Some((intent, intent.ended_grant()?))) {
        return plan_grant(site, intent, grant, view, now);
    }
    let mut planner = Planner::new(site, owner, *view, now, &Known::code(&held.record.code));
    let retained = planner.marks().and_then(|marks| Ended::retained(&marks, now));
    match (planner.found.record.clone(), retained) {
        (None, _) => planner.phase = SitePhase::Gone,
        (Some(record), Some(ended)) => {
            planner.phase = SitePhase::Locked;
            planner.keep(&record.ended(&ended), &ended);
        }
        (Some(record), None) => match site.policy.orphans {
            OrphanPolicy::Report => planner.phase = SitePhase::Locked,
            OrphanPolicy::Lock => {
                planner.lock(&record);
                planner.phase = SitePhase::Locked;
            }
            // What does not say until when it is kept is not deleted.
            OrphanPolicy::Delete if record.is_unread() => {
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
    fn new(site: &'a SiteIntent, owner: &'a OwnerRef, view: AccountView<'a>, now: Timestamp, known: &Known<'_>) -> Self {
        let scope = scope(site);
        let found = Found::read(view.snapshot, &scope, owner, known);
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
        let order = Order { uid: &intent.uid, grant, refused: self.view.refused, keeps: grant.keep || self.site.left };
        let life = Life::of(&order, self.marks().as_ref(), self.now);
        self.phase = life.phase();
        match &life {
            Life::Living(work) => self.establish(intent, grant, *work),
            Life::Keeping(work) => self.hold(grant, *work),
            Life::Waiting => self.lock_found(),
            Life::Refused { refusal, ended } => self.refused(intent, grant, refusal, ended.as_ref()),
            Life::Ended(ended) => self.ended(intent, grant, ended),
            Life::FormerIncarnation(ended) => self.previous_incarnation(grant, ended),
            // Associations of ours may be there without a record: they are locked, since nobody bounds what runs through them.
            Life::Gone if matches!(grant.desired, Desired::Ended { .. }) => self.lock_strays(&BTreeSet::new()),
            Life::Gone => {}
        }
    }

    fn marks(&self) -> Option<Marks> {
        self.found.record.as_ref().map(Record::marks)
    }

    /// Locks what is held, as it says itself.
    fn lock_found(&mut self) {
        if let Some(record) = self.found.record.clone() {
            self.lock(&record);
        }
    }

    fn previous_incarnation(&mut self, grant: &GrantIntent, ended: &Ended) {
        let Some(record) = self.found.record.clone() else { return };
        self.lock(&if ended.seen_locked() { record.clone() } else { record.ended(ended) });
        let message = format!(
            "account {} holds what an earlier grant of this name with code {:?} has used, this one has {:?}. It stays locked while a \
             grant of this name exists. Give this grant another name, or take it over: kubectl annotate accessgrant {} -n {} {}=true",
            self.found.account,
            record.code,
            grant.code,
            self.owner.name,
            self.owner.namespace,
            labels::ADOPT_PREVIOUS,
        );
        self.findings.push(Finding::stalled(Reason::PreviousIncarnation, message));
    }

    /// Refuses the grant for what is found in the cluster.
    pub fn refuse(&mut self, intent: &Intent, grant: &GrantIntent, refusal: &Refusal) {
        let cause = Cause { reason: refusal.reason, message: &refusal.message, at: None };
        let ended = self.marks().map(|marks| Ended::new(&cause, &grant.end, &marks, self.now));
        self.refused(intent, grant, refusal, ended.as_ref());
    }

    /// Takes access away from what is held, and says why.
    fn refused(&mut self, intent: &Intent, grant: &GrantIntent, refusal: &Refusal, ended: Option<&Ended>) {
        match ended {
            Some(ended) => self.ended(intent, grant, ended),
            None => self.lock_strays(&BTreeSet::new()),
        }
        self.phase = SitePhase::Refused;
        self.findings.insert(0, Finding::stalled(refusal.reason, refusal.message.clone()));
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
        let let_in = self.let_in_by_others(grant);
        // What is gone stays gone, whatever has to wait for the site.
        let detail = self.detail(grant, let_in.is_empty());
        if self.is_closed() && !let_in.is_empty() {
            self.name_let_in(&let_in);
        }
        if self.view.policy.paused && self.only_removals() {
            self.phase = SitePhase::Pending;
            self.findings
                .push(Finding::note(Reason::PausedBySite, format!("the site's {} says paused: only access is taken away", labels::SITE_POLICY)));
        }
        let mut calls: Vec<Call> = self.calls.into_iter().map(|(call, _)| call).collect();
        calls.sort_by_key(Call::stage);
        AccountPlan { answers: digest_of(answers), calls, phase: self.phase, findings: self.findings, detail, wake: self.wake }
    }

    /// Whether nobody works through what is ours.
    fn is_closed(&self) -> bool {
        let ended = matches!(self.phase, SitePhase::Locked | SitePhase::Refused | SitePhase::Gone);
        let strays = self.found.rows(self.view.snapshot, &self.scope, self.owner).any(|(_, row)| self.found.strays(row) && !row.locked());
        ended && self.found.locked() && !strays
    }

    fn detail(&self, grant: Option<&GrantIntent>, nobody_let_in: bool) -> GrantDetail {
        // What the grant does not say now, associations show.
        let shown = |qos: &QosName| {
            let mut rows = self.view.snapshot.rows_of(&self.found.account).filter(|(_, row)| row.qos.contains(qos));
            rows.find_map(|(key, _)| Some(key.partition.clone()).filter(|partition| !partition.is_empty()))
        };
        let partition = |entry: &str, qos: &QosName| {
            let pool = grant.and_then(|grant| grant.pools.iter().find(|pool| pool.entry == entry));
            pool.and_then(|pool| pool.partition.clone()).or_else(|| shown(qos)).unwrap_or_default()
        };
        let entries = self.found.qos.iter().filter_map(|(name, (qos, record))| {
            let entry = record.entry.clone()?;
            let limit = qos.limits.get(&Limit::GpuMinutes).copied();
            Some((entry.clone(), SlurmEntry { qos: (*name).clone(), partition: partition(&entry, name), limit }))
        });
        let held = self.found.record.is_some();
        GrantDetail {
            namespace: TenantNamespace::default(),
            members_wanted: grant.map_or(0, |grant| i32::try_from(grant.members.len()).unwrap_or(i32::MAX)),
            members_bound: i32::try_from(self.members_bound).unwrap_or(i32::MAX),
            members_reading: 0,
            access_removed: self.is_closed() && nobody_let_in,
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
        cluster: site.slurm.as_ref().map(|slurm| ClusterName::new(&slurm.cluster_name)).unwrap_or_default(),
    }
}
