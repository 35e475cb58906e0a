//! What a QOS shall be, and the call that makes it so.

use std::collections::{BTreeMap, BTreeSet};

use super::call::{Call, Stage};
use super::state::{Limit, Limits, Qos, RowKey, Snapshot};
use crate::model::id::{AccountName, QosName};
use crate::model::intent::{GrantPoolIntent, MemberCaps};

/// Flags of every QOS of ours: minutes that are used stay used, and what can never run is refused at once.
const FLAGS: [&str; 2] = ["NO_DECAY", "DENY_LIMIT"];

/// What a QOS shall be.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub name: QosName,
    pub description: String,
    /// Limits of ours; one that is not named here is left as it is.
    pub limits: BTreeMap<Limit, Option<i64>>,
    pub locked: bool,
}

/// The same limits on the accounts above, which ours would override.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ceiling {
    pub gpus: Option<i64>,
    pub gpu_minutes: Option<i64>,
}

impl Ceiling {
    /// Of this account and those above it.
    pub fn read(snapshot: &Snapshot, account: &AccountName) -> Self {
        let mut ceiling = Self::default();
        let mut seen = BTreeSet::new();
        let mut name = account;
        while !name.is_empty() && seen.insert(name) {
            let Some(row) = snapshot.rows.get(&RowKey::account(name)) else { break };
            ceiling.gpus = lower(ceiling.gpus, row.gpus);
            ceiling.gpu_minutes = lower(ceiling.gpu_minutes, row.gpu_minutes);
            name = &row.parent;
        }
        ceiling
    }

    /// Whether it makes a pool's limits smaller than the grant's.
    pub fn lowers(&self, pool: &GrantPoolIntent) -> bool {
        self.gpus.is_some_and(|gpus| gpus < pool.max_gpus) || self.gpu_minutes.is_some_and(|minutes| minutes < pool.budget.device_minutes)
    }
}

fn lower(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The limits of one pool's QOS.
pub(super) fn limits(pool: &GrantPoolIntent, caps: &MemberCaps, ceiling: Ceiling, locked: bool) -> BTreeMap<Limit, Option<i64>> {
    let gpus = lower(Some(pool.max_gpus.max(0)), ceiling.gpus).unwrap_or_default();
    let minutes = lower(Some(pool.budget.device_minutes.max(0)), ceiling.gpu_minutes);
    let cpus = gpus.saturating_mul(i64::from(pool.per_gpu.cpus));
    let memory = gpus.saturating_mul(i64::from(pool.per_gpu.memory_gib)).saturating_mul(1024);
    let lock = locked.then_some(0);
    BTreeMap::from([
        (Limit::GpuMinutes, minutes),
        (Limit::Gpus, Some(gpus)),
        (Limit::Cpus, Some(cpus)),
        (Limit::MemoryMib, Some(memory)),
        (Limit::MinGpusPerJob, Some(1)),
        (Limit::GpusPerUser, caps.max_gpus),
        (Limit::JobsPerUser, caps.max_jobs),
        (Limit::WallMinutes, caps.max_wall_minutes),
        (Limit::SubmittedJobs, lock),
        (Limit::RunningJobs, lock),
    ])
}

/// The limits of a QOS of which no more is known than that it is locked.
pub(super) fn lock(found: &Limits) -> BTreeMap<Limit, Option<i64>> {
    let minutes = found.get(&Limit::GpuMinutes).copied().unwrap_or(0);
    BTreeMap::from([(Limit::GpuMinutes, Some(minutes)), (Limit::SubmittedJobs, Some(0)), (Limit::RunningJobs, Some(0))])
}

impl Target {
    /// Whether a QOS has the flags and limits, whatever it says about itself.
    pub fn holds(&self, qos: &Qos) -> bool {
        qos.flags == flags() && self.differs(qos).is_empty()
    }

    fn differs(&self, qos: &Qos) -> BTreeMap<Limit, Option<i64>> {
        self.limits.iter().filter(|(limit, value)| qos.limits.get(*limit).copied() != **value).map(|(limit, value)| (*limit, *value)).collect()
    }

    /// The call that lowers what is too high and changes nothing else; `None`: nothing is.
    pub fn lowered(&self, found: &Qos) -> Option<Call> {
        let higher = |limit: &Limit, value: &Option<i64>| value.is_some_and(|value| found.limits.get(limit).is_none_or(|found| *found > value));
        let limits: BTreeMap<Limit, Option<i64>> = self.differs(found).into_iter().filter(|(limit, value)| higher(limit, value)).collect();
        let description = found.description.clone();
        (!limits.is_empty()).then(|| Call::Qos { stage: Stage::Lock, name: self.name.clone(), description, flags: flags(), limits })
    }

    /// The call that makes it so; `None`: it is.
    pub fn call(&self, found: Option<&Qos>) -> Option<Call> {
        let limits = match found {
            Some(qos) if self.holds(qos) && qos.description == self.description => return None,
            Some(qos) => self.differs(qos),
            None => self.limits.iter().filter(|(_, value)| value.is_some()).map(|(limit, value)| (*limit, *value)).collect(),
        };
        let stage = if self.locked && found.is_some_and(|qos| !qos.locked()) { Stage::Lock } else { Stage::Qos };
        Some(Call::Qos { stage, name: self.name.clone(), description: self.description.clone(), flags: flags(), limits })
    }
}

/// Whether a QOS carries what every QOS of ours does, whatever it says about itself.
pub(super) fn is_like_ours(qos: &Qos) -> bool {
    qos.limits.contains_key(&Limit::GpuMinutes) || flags().is_subset(&qos.flags)
}

fn flags() -> BTreeSet<String> {
    FLAGS.map(str::to_owned).into()
}
