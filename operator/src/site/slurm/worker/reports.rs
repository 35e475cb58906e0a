//! What became of a pass, and what the hub is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aifactory_api::{Kind, OwnerRef, Reason};
use aifactory_plan::engine::slurm_accounts::AccountPlan;
use aifactory_plan::engine::slurm_accounts::usage::EntryKey;
use aifactory_plan::model::digest::digest_of;
use aifactory_plan::model::id::PartitionName;
use aifactory_plan::model::intent::{Body, Intent, PoolEngine, PoolIntent, Presence};
use aifactory_plan::model::report::{Detail, EntryUsage, Finding, Held, PoolDetail, Report, SitePhase, SiteReport};
use jiff::Timestamp;
use tokio::time::Instant;

use super::sync::{Found, Pass, Scope};
use super::{AGAIN, PartitionView, SlurmDriver, USAGE};
use crate::site::clock::Now;
use crate::site::controller;
use crate::site::slurm::claim::NoClaim;
use crate::site::slurm::usage::{Cycle, Usage};

impl SlurmDriver {
    pub(super) fn passed(&mut self, session: u64, pass: Pass) {
        self.passing = false;
        self.removals = pass.memory.removals;
        let heard = pass.memory.heard;
        if !self.core.connection.is(session) {
            self.heard.removed_from.extend(heard.removed_from);
            self.resync_at = Instant::now();
            return;
        }
        self.heard = heard;
        let now = Instant::now();
        match pass.result {
            Ok(found) => {
                self.pause = AGAIN.0;
                self.learn(&pass.about, found);
            }
            // Contact is made anew, which claims the cluster or says whose it is.
            Err(NoClaim::Finding(problem)) => {
                tracing::warn!(site = %self.core.key, reason = %problem.reason, "Disconnected: {}", problem.message);
                self.released = false;
                controller::disconnect(self, Some(problem));
            }
            Err(NoClaim::Slurm(error)) => {
                let problem = error.finding();
                tracing::debug!(site = %self.core.key, reason = %problem.reason, "A pass failed: {}", problem.message);
                self.resync_at = now + self.pause;
                self.pause = (self.pause * 2).min(AGAIN.1);
                self.core.connection.suspect(now);
                self.trouble = Some(problem);
            }
        }
        self.report_all();
    }

    fn learn(&mut self, scope: &Scope, found: Found) {
        let now = Instant::now();
        self.trouble = None;
        self.core.connection.answered(Timestamp::now());
        if matches!(scope, Scope::Everything) {
            self.plans.retain(|owner, _| found.unfinished.contains(owner));
            self.failures.clear();
        }
        if !found.unfinished.is_empty() {
            self.dirty.extend(found.unfinished.iter().cloned());
            self.dirty_at.get_or_insert(now);
        }
        if found.partitions.is_some() {
            self.partitions = found.partitions;
        }
        if found.budgets_changed {
            self.usage_at = now;
        }
        for (owner, plan) in found.plans.into_iter().filter(|(owner, _)| !found.unfinished.contains(owner)) {
            self.wake.remove(&owner);
            self.lower(&owner, &plan);
            if let Some(at) = plan.wake {
                self.wake.insert(owner.clone(), Now::read().instant_of(at));
            }
            self.failures.remove(&owner);
            if plan.calls.is_empty() && !self.core.intents.contains_key(&owner) && !found.held.contains_key(&owner) {
                self.plans.remove(&owner);
            } else {
                self.plans.insert(owner, plan);
            }
        }
        let done = |owner: &OwnerRef, intent: &Intent| {
            let plan = self.plans.get(owner).filter(|_| !found.unfinished.contains(owner) && !found.failures.contains_key(owner));
            plan.is_some_and(|plan| plan.calls.is_empty() && plan.answers == digest_of(intent))
        };
        // What has ended says itself from now on how long it is kept.
        self.core.ending.retain(|owner, intent| found.held.contains_key(owner) && !done(owner, intent));
        for (owner, findings) in found.failures {
            self.wake.insert(owner.clone(), now + AGAIN.1.min(Duration::from_secs(5)));
            self.failures.insert(owner, findings);
        }
        if found.released {
            self.released = true;
            self.given_up = self.core.connection.session_mut().and_then(|session| session.contact.claim.take()).or(self.given_up.take());
        }
        self.held = Some(found.held);
    }

    /// Where a limit is lower than it was, running jobs may have reserved more: what records say must be read after this.
    fn lower(&mut self, owner: &OwnerRef, plan: &AccountPlan) {
        let before = self.plans.get(owner).and_then(|plan| plan.detail.slurm.as_ref());
        let Some((before, slurm)) = before.zip(plan.detail.slurm.as_ref()) else { return };
        for (entry, known) in &slurm.entries {
            if before.entries.get(entry).is_some_and(|before| before.limit > known.limit) {
                self.lowered.insert((slurm.account.clone(), known.qos.clone()));
                self.usage_at = Instant::now();
            }
        }
    }

    pub(super) fn counted(&mut self, session: u64, usage: Usage, cycle: Cycle) {
        self.busy = usage.busy();
        self.usage = Some(usage);
        self.usage_at = Instant::now() + USAGE;
        if !self.core.connection.is(session) {
            return;
        }
        let known = self.plans.values().filter_map(|plan| plan.detail.slurm.as_ref());
        let keys: BTreeSet<EntryKey> =
            known.flat_map(|slurm| slurm.entries.values().map(|entry| (slurm.account.clone(), entry.qos.clone()))).collect();
        self.used.retain(|key, _| keys.contains(key));
        self.lowered.retain(|key| keys.contains(key));
        for key in keys {
            let Some(new) = cycle.of(&key.0, &key.1) else { continue };
            self.lowered.remove(&key);
            match self.used.get_mut(&key) {
                // At rest nothing moves, the time of the last look neither.
                Some(old) if EntryUsage { complete_through: old.complete_through, ..new.clone() } == *old => {}
                Some(old) => *old = new.clone(),
                None => {
                    self.used.insert(key, new.clone());
                }
            }
        }
        if let Some(problem) = cycle.problem {
            tracing::debug!(site = %self.core.key, "Job records can not be read: {problem}");
            self.used.values_mut().for_each(|usage| usage.stale = true);
        }
        self.report_all();
    }

    fn report_all(&mut self) {
        for owner in self.core.intents.keys().cloned().collect::<Vec<_>>() {
            match owner.kind {
                Kind::AccessGrant => self.report_grant(&owner),
                Kind::GPUPool | Kind::AIFactory => self.report_pool(&owner),
            }
        }
    }

    fn report_grant(&mut self, owner: &OwnerRef) {
        let Some((intent, plan)) = self.core.intents.get(owner).zip(self.plans.get(owner)) else { return };
        // A plan answers the intent that it was made for.
        if plan.answers != digest_of(intent.as_ref()) {
            return;
        }
        let mut findings = self.failures.get(owner).cloned().unwrap_or_default();
        findings.extend(plan.findings.iter().cloned());
        if self.config().is_none() {
            findings.push(Finding::note(Reason::Pending, "the site's own configuration has not been read yet: nothing new is given"));
        }
        let done = plan.calls.is_empty() && !self.failures.contains_key(owner);
        let mut detail = plan.detail.clone();
        if let Some(slurm) = &detail.slurm {
            detail.usage = slurm
                .entries
                .iter()
                .filter_map(|(entry, known)| {
                    let key = (slurm.account.clone(), known.qos.clone());
                    let used = self.used.get(&key)?.clone();
                    Some((entry.clone(), EntryUsage { stale: used.stale || self.lowered.contains(&key), ..used }))
                })
                .collect();
        }
        self.core.send_report(Report::planned(intent, plan.phase, done, findings, Detail::Grant(detail)));
    }

    pub(super) fn report_pool(&mut self, owner: &OwnerRef) {
        let Some((intent, partitions)) = self.core.intents.get(owner).zip(self.partitions.as_ref()) else { return };
        let Body::Pool(pool) = &intent.body else { return };
        let (phase, findings, detail) = observe(pool, partitions);
        let settled = phase != SitePhase::Pending;
        self.core.send_report(Report { settled, findings, ..Report::answering(intent, phase, Detail::Pool(detail)) });
    }

    pub(super) fn report_site(&mut self) {
        let held = self.held.as_ref();
        let synced = self.core.connection.session().is_some() && held.is_some();
        let problem = self.core.connection.problem().or(self.trouble.as_ref()).cloned();
        if self.core.site.is_none() || (self.core.connection.session().is_none() && problem.is_none()) {
            return;
        }
        // Rows of living grants are held; what is retained says itself until when.
        let kept: BTreeMap<OwnerRef, Held> = held
            .into_iter()
            .flatten()
            .map(|(owner, held)| (owner.clone(), if held.record.is_kept() { Held::Retained } else { Held::Live }))
            .collect();
        let orphans =
            kept.iter().filter(|(owner, held)| **held == Held::Live && self.core.gone.contains(*owner)).map(|(owner, _)| owner.clone()).collect();
        let connected = self.core.connection.session();
        let config = self.config();
        let report = SiteReport {
            reachable: connected.is_some() && self.trouble.is_none(),
            synced,
            problem: problem.or_else(|| {
                let paused = config.as_ref().is_some_and(|config| aifactory_plan::site::policy::SitePolicy::parse(&config.policy).paused);
                paused.then(|| Finding::note(Reason::PausedBySite, "the site says paused in aifactory-site-policy"))
            }),
            cluster_uid: connected.and_then(|session| session.contact.claim.clone()),
            last_contact: self.core.connection.last_contact().filter(|_| connected.is_none() || self.trouble.is_some()),
            engines: connected
                .map(|session| aifactory_api::factory::EngineStatus { name: "Slurm".to_owned(), version: session.contact.version.clone() })
                .into_iter()
                .collect(),
            credential_expires: connected.and_then(|session| session.expires),
            held: kept,
            orphans,
            policy_problems: self.own_config.problem().map(str::to_owned).into_iter().collect(),
            released: self.released,
            ..SiteReport::default()
        };
        self.core.send_site_report(report);
    }
}

/// What a partition is, as slurmctld says.
fn observe(pool: &PoolIntent, partitions: &BTreeMap<PartitionName, PartitionView>) -> (SitePhase, Vec<Finding>, PoolDetail) {
    let PoolEngine::Slurm { partition, .. } = &pool.engine else { return (SitePhase::Gone, Vec::new(), PoolDetail::default()) };
    let phase = match pool.presence {
        Presence::Active => SitePhase::Bound,
        Presence::Draining => SitePhase::Draining,
        // Nothing of ours: the partition is the site's.
        Presence::Absent => return (SitePhase::Gone, Vec::new(), PoolDetail::default()),
    };
    let wanted = pool.wanted.and_then(|wanted| i32::try_from(wanted).ok());
    let Some(found) = partitions.get(partition) else {
        let message = format!("Slurm has no partition {partition}; add it to slurm.conf, or correct the pool's slurm.partition");
        let detail =
            PoolDetail { wanted: wanted.unwrap_or_default(), partition: Some((partition.clone(), "Missing".to_owned())), ..PoolDetail::default() };
        return (phase, vec![Finding::note(Reason::PartitionNotReady, message)], detail);
    };
    let detail = PoolDetail {
        wanted: wanted.unwrap_or(found.nodes),
        ready: found.ready,
        unhealthy: found.unhealthy,
        gpus: found.gpus,
        allocated: Some(found.gpus_in_use),
        partition: Some((partition.clone(), found.state().to_owned())),
    };
    let mut findings = Vec::new();
    if pool.presence == Presence::Active {
        if found.state() != "Up" {
            findings.push(Finding::note(Reason::PartitionNotReady, format!("partition {partition}: {}", found.message())));
        } else if found.unhealthy > 0 {
            findings.push(Finding::note(Reason::NodesUnhealthy, format!("partition {partition}: {}", found.message())));
        } else if detail.ready < detail.wanted {
            let message = format!("partition {partition} has {} of {} nodes", detail.ready, detail.wanted);
            findings.push(Finding::note(Reason::NodesMissing, message));
        }
    }
    (phase, findings, detail)
}
