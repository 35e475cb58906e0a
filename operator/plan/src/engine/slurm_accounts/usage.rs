//! GPU time from Slurm's job records, to the second.
//!
//! Time is cut into windows that do not overlap. A record counts with what of it lies in the window, so a job that runs through several of
//! them is counted once whatever the cuts are. A window is settled when nothing in it can change any more; what lies after is read each time.
//! An account is not settled past a run that is suspended: Slurm takes that time out of `elapsed` only when the run goes on or ends.
//! Slurm's own counter charges suspended time, which the records show. It also charges something for components of heterogeneous jobs that
//! wait; the records do not show how much, so nothing is said about that here.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::id::{AccountName, ClusterName, QosName, UserName};
use crate::model::report::EntryUsage;

/// What Slurm takes for a job without a time limit.
const NO_LIMIT: i64 = 365 * 24 * 3600;

/// A span of time, in Unix seconds; the end is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its begin.
    pub from: i64,
    /// Its end.
    pub to: i64,
}

/// Where a run of a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Not begun.
    Pending,
    /// Running.
    Running,
    /// Begun, and halted.
    Suspended,
    /// Over, for whatever reason; requeued as well.
    Over,
}

impl RunState {
    /// What Slurm's words mean. The record of a requeued run says `PENDING` beside `REQUEUED`, and is over.
    pub fn of<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut state = Self::Over;
        for word in words {
            match word {
                "REQUEUED" => return Self::Over,
                "PENDING" => state = Self::Pending,
                "RUNNING" => state = Self::Running,
                "SUSPENDED" => state = Self::Suspended,
                _ => {}
            }
        }
        state
    }

    fn begun(self) -> bool {
        matches!(self, Self::Running | Self::Suspended)
    }
}

/// One run of a job or array task, or of one component of a heterogeneous job. A requeued job has the same number and another submission.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunKey {
    /// The cluster.
    pub cluster: ClusterName,
    /// The job.
    pub job: i64,
    /// When it was submitted.
    pub submission: i64,
}

/// The record of one run as a window shows it: Slurm may have cut its times to the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRecord {
    /// Which run.
    pub key: RunKey,
    /// Its account.
    pub account: AccountName,
    /// Its QOS.
    pub qos: QosName,
    /// Its user.
    pub user: UserName,
    /// Where it stands.
    pub state: RunState,
    /// When it began; 0: not yet.
    pub start: i64,
    /// When it ended; 0: not yet.
    pub end: i64,
    /// Seconds that it ran, suspended time apart.
    pub elapsed: i64,
    /// Seconds that it was suspended.
    pub suspended: i64,
    /// Devices that it holds or held: untyped `gres/gpu`, which counts all types.
    pub gpus: i64,
    /// Its time limit in seconds; `None`: none.
    pub limit: Option<i64>,
}

/// Account and QOS.
pub type EntryKey = (AccountName, QosName);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seconds {
    used: i64,
    surcharge: i64,
}

/// What one window held.
#[derive(Clone, Debug)]
pub struct Part {
    window: Window,
    seen: BTreeSet<RunKey>,
    sums: BTreeMap<EntryKey, Seconds>,
    /// Runs that are not over.
    living: BTreeMap<RunKey, Living>,
}

#[derive(Clone, Debug)]
struct Living {
    entry: EntryKey,
    user: UserName,
    state: RunState,
    gpus: i64,
    limit: i64,
    elapsed: i64,
}

impl Part {
    /// An empty window.
    pub fn new(window: Window) -> Self {
        Self { window, seen: BTreeSet::new(), sums: BTreeMap::new(), living: BTreeMap::new() }
    }

    /// Adds a record; the same run again changes nothing.
    pub fn add(&mut self, record: RunRecord) {
        if !self.seen.insert(record.key.clone()) {
            return;
        }
        let Window { from, to } = self.window;
        let end = if record.end > 0 { record.end.min(to) } else { to };
        let ran = end.saturating_sub(record.start.max(from)).max(0);
        let ran = if record.start > 0 && record.state != RunState::Pending { ran } else { 0 };
        let elapsed = record.elapsed.clamp(0, ran);
        let suspended = record.suspended.clamp(0, ran.saturating_sub(elapsed));
        let entry = (record.account, record.qos);
        let sum = self.sums.entry(entry.clone()).or_default();
        sum.used = sum.used.saturating_add(record.gpus.saturating_mul(elapsed));
        sum.surcharge = sum.surcharge.saturating_add(record.gpus.saturating_mul(suspended));
        if record.state != RunState::Over {
            let limit = record.limit.unwrap_or(NO_LIMIT);
            let living = Living { entry, user: record.user, state: record.state, gpus: record.gpus, limit, elapsed };
            self.living.insert(record.key, living);
        }
    }

    /// How many records it held.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether it held none.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }
}

/// Up to when records are complete.
///
/// slurmctld queues what it could not tell its database yet, and the length of that queue can be read. Begins of jobs are told every few
/// seconds and are in no queue before, so one look at an empty queue is not enough: what lies before a look is settled when a later one was good, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Completeness {
    good: Option<i64>,
    settled: Option<i64>,
}

impl Completeness {
    /// How far apart two good looks must be, in seconds.
    pub const APART: i64 = 15;

    /// A look at a moment, and whether nothing was queued then; gives up to when everything is settled.
    pub fn looked(&mut self, at: i64, empty: bool) -> Option<i64> {
        match self.good {
            Some(before) if empty && at.saturating_sub(before) >= Self::APART => {
                self.settled = self.settled.max(Some(before));
                self.good = Some(at);
            }
            Some(before) if empty && at >= before => {}
            _ => self.good = empty.then_some(at),
        }
        self.settled
    }

    /// The database could not be read.
    pub fn failed(&mut self) {
        self.good = None;
    }
}

/// A window to read, and of which accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The window.
    pub window: Window,
    /// The accounts of which it was not read yet.
    pub accounts: BTreeSet<AccountName>,
    /// Whether nothing in it can change any more.
    pub settled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    since: i64,
    settled: i64,
}

/// What was counted so far: a settled part, and what was read after it the last time.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    marks: BTreeMap<AccountName, Mark>,
    settled: BTreeMap<EntryKey, Seconds>,
    /// What runs had used by the end of the settled part, of those that go on.
    carried: BTreeMap<RunKey, (AccountName, i64)>,
    open: BTreeMap<EntryKey, EntryUsage>,
    busy: BTreeMap<AccountName, BTreeSet<UserName>>,
}

impl Tally {
    /// Begins to read up to a moment; nothing after `settle` counts as settled. An account whose begin is another one now is counted anew.
    pub fn sweep<'a>(&'a mut self, accounts: &BTreeMap<AccountName, i64>, settle: i64, to: i64) -> Sweep<'a> {
        let kept: BTreeMap<AccountName, Mark> = accounts
            .iter()
            .map(|(account, since)| {
                let known = self.marks.get(account).copied().filter(|mark| mark.since == *since);
                (account.clone(), known.unwrap_or(Mark { since: *since, settled: *since }))
            })
            .collect();
        let same = |account: &AccountName| kept.get(account).is_some_and(|mark| self.marks.get(account) == Some(mark));
        self.settled.retain(|(account, _), _| same(account));
        self.carried.retain(|_, (account, _)| same(account));
        self.open.retain(|(account, _), _| same(account));
        self.busy.retain(|account, _| same(account));
        let at = kept.iter().map(|(account, mark)| (account.clone(), mark.settled)).collect();
        self.marks = kept;
        Sweep { tally: self, at, settle: settle.min(to), to, held: BTreeSet::new(), open: BTreeMap::new(), living: BTreeMap::new() }
    }

    /// What was used, by account and QOS, as of the last sweep that came to its end.
    pub fn usage(&self) -> &BTreeMap<EntryKey, EntryUsage> {
        &self.open
    }

    /// The users of each account who have jobs, pending ones too, as of the last sweep that came to its end.
    pub fn busy(&self) -> &BTreeMap<AccountName, BTreeSet<UserName>> {
        &self.busy
    }
}

/// One reading of everything that is not settled. What is settled on the way stays so if it does not come to its end; the rest is forgotten.
#[derive(Debug)]
pub struct Sweep<'a> {
    tally: &'a mut Tally,
    at: BTreeMap<AccountName, i64>,
    settle: i64,
    to: i64,
    /// Accounts that are not settled further this time.
    held: BTreeSet<AccountName>,
    open: BTreeMap<EntryKey, Seconds>,
    living: BTreeMap<RunKey, Living>,
}

impl Sweep<'_> {
    /// What to read next, no longer than so many seconds; `None`: everything was read.
    pub fn next(&self, longest: i64) -> Option<Slice> {
        let from = *self.at.values().filter(|at| **at < self.to).min()?;
        let accounts = self.at.iter().filter(|(_, at)| **at == from).map(|(account, _)| account.clone()).collect();
        let others = self.at.values().copied().filter(|at| *at > from);
        let borders = others.chain([self.settle, self.to]).filter(|at| *at > from);
        let to = borders.min().unwrap_or(self.to).min(from.saturating_add(longest.max(1)));
        Some(Slice { window: Window { from, to }, accounts, settled: to <= self.settle })
    }

    /// Takes what a slice held, all its accounts together.
    pub fn took(&mut self, slice: Slice, part: Part) {
        let suspended = part.living.values().filter(|run| run.state == RunState::Suspended);
        self.held.extend(suspended.map(|run| run.entry.0.clone()));
        for account in &slice.accounts {
            self.at.insert(account.clone(), slice.window.to);
        }
        let Self { tally, held, .. } = self;
        let settled = |account: &AccountName| slice.settled && !held.contains(account);
        for account in slice.accounts.iter().filter(|account| settled(account)) {
            if let Some(mark) = tally.marks.get_mut(account) {
                mark.settled = slice.window.to;
            }
        }
        for (entry, more) in part.sums {
            let sum = if settled(&entry.0) { tally.settled.entry(entry) } else { self.open.entry(entry) }.or_default();
            sum.used = sum.used.saturating_add(more.used);
            sum.surcharge = sum.surcharge.saturating_add(more.surcharge);
        }
        let living = &part.living;
        tally.carried.retain(|key, (account, _)| !slice.accounts.contains(account) || !settled(account) || living.contains_key(key));
        // A run that ended between two reads of one sweep is over.
        self.living.retain(|key, _| !part.seen.contains(key) || living.contains_key(key));
        for (key, run) in part.living {
            let before = if settled(&run.entry.0) {
                let carried = tally.carried.entry(key.clone()).or_insert_with(|| (run.entry.0.clone(), 0));
                carried.1 = carried.1.saturating_add(run.elapsed);
                continue;
            } else {
                self.living.get(&key).map_or(0, |known| known.elapsed)
            };
            self.living.insert(key, Living { elapsed: run.elapsed.saturating_add(before), ..run });
        }
    }

    /// Everything was read.
    pub fn finish(self) {
        let mut usage: BTreeMap<EntryKey, EntryUsage> = BTreeMap::new();
        for (entry, sum) in self.tally.settled.iter().chain(&self.open) {
            let usage = usage.entry(entry.clone()).or_default();
            usage.used = usage.used.saturating_add(sum.used);
            usage.surcharge = usage.surcharge.saturating_add(sum.surcharge);
        }
        let mut busy: BTreeMap<AccountName, BTreeSet<UserName>> = BTreeMap::new();
        for (key, run) in self.living {
            busy.entry(run.entry.0.clone()).or_default().insert(run.user);
            if run.state.begun() {
                let before = self.tally.carried.get(&key).map_or(0, |(_, seconds)| *seconds);
                let rest = run.limit.saturating_sub(run.elapsed).saturating_sub(before).max(0);
                let usage = usage.entry(run.entry).or_default();
                usage.running = true;
                usage.reserved = usage.reserved.saturating_add(run.gpus.saturating_mul(rest));
            }
        }
        self.tally.open = usage;
        self.tally.busy = busy;
    }
}

#[cfg(test)]
mod tests;
