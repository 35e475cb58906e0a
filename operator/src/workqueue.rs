//! A work queue: each key is in work once at a time, urgent keys come first, and failures lead to a back-off.
//!
//! A plain value that a controller owns; nothing in it waits. The controller takes keys with [`WorkQueue::next`] until there is none, and then sleeps
//! until [`WorkQueue::next_wake`] or until something happens.

#[cfg(test)]
#[path = "workqueue_tests.rs"]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

/// The pause after the first failure of a key; each failure in a row doubles it.
const SHORTEST_PAUSE: Duration = Duration::from_millis(400);
/// The longest pause after repeated failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How soon a key gets a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Priority {
    Normal,
    Urgent,
}

/// The back-off of a key after a failure: plain adds wait until `until`.
#[derive(Clone, Copy, Debug)]
struct Backoff {
    failed_at: Instant,
    until: Instant,
    /// The priority of the run that failed.
    priority: Priority,
}

/// What is known of one key.
#[derive(Debug, Default)]
struct Entry {
    /// The place in the line of this priority.
    queued: Option<(Priority, u64)>,
    /// The key is in work, with this priority.
    busy: Option<Priority>,
    /// The key was added while it was in work.
    again: Option<Priority>,
    backoff: Option<Backoff>,
    failures: u32,
}

impl Entry {
    fn idle(&self) -> bool {
        self.queued.is_none() && self.busy.is_none() && self.backoff.is_none() && self.failures == 0
    }
}

/// Keys that are due later, each at one time.
#[derive(Debug)]
struct Timers<K: Ord> {
    by_time: BTreeSet<(Instant, K)>,
    by_key: BTreeMap<K, Instant>,
}

impl<K: Ord + Clone> Timers<K> {
    fn new() -> Self {
        Self { by_time: BTreeSet::new(), by_key: BTreeMap::new() }
    }

    /// Sets the time of a key, unless an earlier one is set.
    fn set(&mut self, key: K, at: Instant) {
        if self.by_key.get(&key).is_none_or(|earlier| *earlier > at) {
            self.clear(&key);
            self.by_key.insert(key.clone(), at);
            self.by_time.insert((at, key));
        }
    }

    /// Moves the time of a key to this one, where it is earlier.
    fn not_before(&mut self, key: &K, at: Instant) {
        if self.by_key.get(key).is_some_and(|earlier| *earlier < at) {
            self.clear(key);
            self.set(key.clone(), at);
        }
    }

    fn clear(&mut self, key: &K) {
        if let Some(at) = self.by_key.remove(key) {
            self.by_time.remove(&(at, key.clone()));
        }
    }

    fn first(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes a key whose time has come.
    fn pop(&mut self, now: Instant) -> Option<K> {
        let (_, key) = self.by_time.first().filter(|(at, _)| *at <= now).cloned()?;
        self.clear(&key);
        Some(key)
    }
}

/// Keys and when they are due.
///
/// Of `cap` slots `reserved` are for urgent keys only, so that the removal of access never waits for a slow bulk of other work.
#[derive(Debug)]
pub struct WorkQueue<K: Ord> {
    cap: usize,
    reserved: usize,
    started: bool,
    entries: BTreeMap<K, Entry>,
    urgent: BTreeMap<u64, K>,
    normal: BTreeMap<u64, K>,
    timers: Timers<K>,
    urgent_timers: Timers<K>,
    places: u64,
    busy: usize,
}

impl<K: Ord + Clone> WorkQueue<K> {
    /// A queue with `cap` slots, of which `reserved` are for urgent keys. It returns no key before [`WorkQueue::start`].
    pub fn new(cap: usize, reserved: usize) -> Self {
        Self {
            cap,
            reserved,
            started: false,
            entries: BTreeMap::new(),
            urgent: BTreeMap::new(),
            normal: BTreeMap::new(),
            timers: Timers::new(),
            urgent_timers: Timers::new(),
            places: 0,
            busy: 0,
        }
    }

    /// From now on keys are returned. Until then (on a standby, or while caches are being filled) keys are only collected, and do not wake the
    /// controller.
    pub fn start(&mut self) {
        self.started = true;
    }

    /// Whether keys are given out.
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// The key is due now, or at the end of its back-off.
    pub fn add(&mut self, key: K) {
        let entry = self.entries.entry(key.clone()).or_default();
        match (entry.busy, entry.queued, entry.backoff) {
            (Some(_), _, _) => entry.again = entry.again.max(Some(Priority::Normal)),
            (None, None, Some(backoff)) => self.timers.set(key, backoff.until),
            (None, _, _) => self.enqueue(key, Priority::Normal),
        }
    }

    /// The key is due now, before all that are not urgent, also where it waits already. It overtakes a back-off; where the run that failed was
    /// urgent as well, only after the shortest pause, so that an urgent key that keeps failing makes no hot loop.
    pub fn add_urgent(&mut self, key: K) {
        let entry = self.entries.entry(key.clone()).or_default();
        match (entry.busy, entry.backoff) {
            (Some(_), _) => entry.again = Some(Priority::Urgent),
            (None, Some(backoff)) if backoff.priority == Priority::Urgent => self.urgent_timers.set(key, backoff.failed_at + SHORTEST_PAUSE),
            (None, _) => self.enqueue(key, Priority::Urgent),
        }
    }

    /// The key is due now, and its former failures are forgotten: what is asked for has changed, or an obstacle may be gone.
    pub fn add_anew(&mut self, key: K, urgent: bool) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.backoff = None;
            entry.failures = 0;
        }
        if urgent { self.add_urgent(key) } else { self.add(key) }
    }

    /// The key is due at this time, unless it is due earlier anyway; never before the end of its back-off.
    pub fn add_at(&mut self, key: K, at: Instant) {
        let entry = self.entries.get(&key);
        if entry.is_none_or(|entry| entry.queued.is_none()) {
            let until = entry.and_then(|entry| entry.backoff).map(|backoff| backoff.until);
            self.timers.set(key, until.map_or(at, |until| at.max(until)));
        }
    }

    /// The key is due at this time as an urgent one, also where it waits in line until then.
    pub fn add_urgent_at(&mut self, key: K, at: Instant) {
        let failed_at = self.entries.get(&key).and_then(|entry| entry.backoff).map(|backoff| backoff.failed_at);
        self.urgent_timers.set(key, failed_at.map_or(at, |failed_at| at.max(failed_at + SHORTEST_PAUSE)));
    }

    /// The next key that is due and has a slot; it is in work until [`WorkQueue::done`], [`WorkQueue::failed`] or [`WorkQueue::refused`].
    pub fn next(&mut self, now: Instant) -> Option<K> {
        self.promote(now);
        let priority = self.takeable()?;
        let line = match priority {
            Priority::Urgent => &mut self.urgent,
            Priority::Normal => &mut self.normal,
        };
        let (_, key) = line.pop_first()?;
        let entry = self.entries.entry(key.clone()).or_default();
        entry.queued = None;
        entry.backoff = None;
        entry.busy = Some(priority);
        self.busy += 1;
        Some(key)
    }

    /// When to call [`WorkQueue::next`] again if nothing happens until then. Never a time in the past, and `None` as long as no time that passes
    /// could give a key a slot: what ends, or is added, wakes the controller then.
    pub fn next_wake(&mut self, now: Instant) -> Option<Instant> {
        self.promote(now);
        if self.takeable().is_some() {
            return Some(now);
        }
        if !self.started || self.busy >= self.cap {
            return None;
        }
        let normal = self.timers.first().filter(|_| self.normal_slot());
        self.urgent_timers.first().into_iter().chain(normal).min()
    }

    /// The work on this key went well.
    pub fn done(&mut self, key: &K) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.failures = 0;
        if let Some(priority) = self.release(key) {
            self.enqueue(key.clone(), priority);
        }
        self.tidy(key);
    }

    /// The work on this key failed; it is due again after a pause that grows with every failure in a row.
    pub fn failed(&mut self, key: &K, now: Instant) {
        let until = self.back_off(key, now);
        self.add_at(key.clone(), until);
    }

    /// The work on this key was refused, which time alone will hardly change: it is due again after `retry`, or when it is added, but no sooner
    /// than after a pause that grows with every failure in a row.
    pub fn refused(&mut self, key: &K, now: Instant, retry: Duration) {
        self.back_off(key, now);
        self.add_at(key.clone(), now + retry);
    }

    /// Forgets delays and failures of this key.
    pub fn forget(&mut self, key: &K) {
        self.timers.clear(key);
        self.urgent_timers.clear(key);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.failures = 0;
            entry.backoff = None;
        }
        self.tidy(key);
    }

    /// Whether this key is in work as an urgent one.
    pub fn is_urgent(&self, key: &K) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.busy == Some(Priority::Urgent))
    }

    /// The keys that are due but not in work.
    pub fn waiting(&self) -> impl Iterator<Item = &K> {
        self.urgent.values().chain(self.normal.values())
    }

    /// How many keys are due but not in work.
    pub fn depth(&self) -> usize {
        self.urgent.len() + self.normal.len()
    }

    /// How many keys are in work.
    pub fn busy(&self) -> usize {
        self.busy
    }

    fn normal_slot(&self) -> bool {
        self.busy + self.reserved < self.cap
    }

    /// The priority of the key that could be taken now.
    fn takeable(&self) -> Option<Priority> {
        if !self.started {
            None
        } else if !self.urgent.is_empty() && self.busy < self.cap {
            Some(Priority::Urgent)
        } else if !self.normal.is_empty() && self.normal_slot() {
            Some(Priority::Normal)
        } else {
            None
        }
    }

    /// Puts keys whose time has come in line.
    fn promote(&mut self, now: Instant) {
        while let Some(key) = self.urgent_timers.pop(now) {
            self.due(key, Priority::Urgent);
        }
        while let Some(key) = self.timers.pop(now) {
            self.due(key, Priority::Normal);
        }
    }

    fn due(&mut self, key: K, priority: Priority) {
        match self.entries.get_mut(&key).filter(|entry| entry.busy.is_some()) {
            Some(entry) => entry.again = entry.again.max(Some(priority)),
            None => self.enqueue(key, priority),
        }
    }

    /// Puts a key that is not in work in line, or further to the front.
    fn enqueue(&mut self, key: K, priority: Priority) {
        // The run that is due now looks at what a timer was set for. A normal run may have to wait, so it leaves the time from which on the key is
        // urgent.
        self.timers.clear(&key);
        if priority == Priority::Urgent {
            self.urgent_timers.clear(&key);
        }
        let entry = self.entries.entry(key.clone()).or_default();
        match entry.queued {
            Some((known, _)) if known >= priority => return,
            Some((_, place)) => {
                self.normal.remove(&place);
            }
            None => {}
        }
        self.places += 1;
        entry.queued = Some((priority, self.places));
        match priority {
            Priority::Urgent => self.urgent.insert(self.places, key),
            Priority::Normal => self.normal.insert(self.places, key),
        };
    }

    /// The key is not in work any more; returns with which priority it was added meanwhile.
    fn release(&mut self, key: &K) -> Option<Priority> {
        let entry = self.entries.get_mut(key)?;
        if entry.busy.take().is_some() {
            self.busy -= 1;
        }
        entry.again.take()
    }

    /// Begins a back-off and returns its end. What came meanwhile can not overtake it, unless it is urgent.
    fn back_off(&mut self, key: &K, now: Instant) -> Instant {
        let priority = self.entries.get(key).and_then(|entry| entry.busy).unwrap_or(Priority::Normal);
        let again = self.release(key);
        let entry = self.entries.entry(key.clone()).or_default();
        entry.failures = entry.failures.saturating_add(1);
        let until = now + SHORTEST_PAUSE.saturating_mul(1 << (entry.failures - 1).min(10)).min(LONGEST_PAUSE);
        entry.backoff = Some(Backoff { failed_at: now, until, priority });
        self.timers.not_before(key, until);
        self.urgent_timers.not_before(key, now + SHORTEST_PAUSE);
        match again {
            Some(Priority::Urgent) => self.add_urgent(key.clone()),
            Some(Priority::Normal) => self.add(key.clone()),
            None => {}
        }
        until
    }

    fn tidy(&mut self, key: &K) {
        if self.entries.get(key).is_some_and(Entry::idle) {
            self.entries.remove(key);
        }
    }
}
