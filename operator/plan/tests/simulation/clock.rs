//! Virtual time, numbers from a seed, and a work queue that knows only virtual time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;

/// Milliseconds since the epoch.
pub type Ms = i64;

/// 2026-11-21T12:00:00Z, when every simulation begins.
pub const START: Ms = 1_795_262_400_000;

pub const SECOND: Ms = 1000;
pub const HOUR: Ms = 3600 * SECOND;
pub const DAY: Ms = 24 * HOUR;

pub fn time(at: Ms) -> Timestamp {
    Timestamp::from_millisecond(at).expect("a time")
}

/// The moment, as the virtual clock counts it, rounded up as a timer is.
pub fn ms(at: Timestamp) -> Ms {
    at.as_millisecond()
}

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).expect("small")).expect("small")
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

/// When which key is due: one at a time a key, the urgent first, with a pause after failures that grows.
#[derive(Debug)]
pub struct Queue<K: Ord> {
    urgent: VecDeque<K>,
    ready: VecDeque<K>,
    delayed: BTreeMap<K, Ms>,
    busy: BTreeSet<K>,
    again: BTreeSet<K>,
    failures: BTreeMap<K, u32>,
}

impl<K: Ord> Default for Queue<K> {
    fn default() -> Self {
        Self {
            urgent: VecDeque::new(),
            ready: VecDeque::new(),
            delayed: BTreeMap::new(),
            busy: BTreeSet::new(),
            again: BTreeSet::new(),
            failures: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone> Queue<K> {
    pub fn add(&mut self, key: K) {
        self.push(key, false);
    }

    pub fn add_urgent(&mut self, key: K) {
        self.push(key, true);
    }

    pub fn add_at(&mut self, key: K, at: Ms) {
        if !self.queued(&key) && self.delayed.get(&key).is_none_or(|earlier| *earlier > at) {
            self.delayed.insert(key, at);
        }
    }

    /// The next key that is due; it is in work until `done` or `failed`.
    pub fn next(&mut self, now: Ms) -> Option<K> {
        let due: Vec<K> = self.delayed.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        due.into_iter().for_each(|key| self.push(key, false));
        let key = self.urgent.pop_front().or_else(|| self.ready.pop_front())?;
        self.busy.insert(key.clone());
        Some(key)
    }

    /// When something is due next.
    pub fn wake(&self, now: Ms) -> Option<Ms> {
        let ready = !self.urgent.is_empty() || !self.ready.is_empty();
        self.delayed.values().copied().chain(ready.then_some(now)).min()
    }

    pub fn done(&mut self, key: &K) {
        self.failures.remove(key);
        self.release(key);
    }

    pub fn failed(&mut self, key: &K, now: Ms) {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        *failures += 1;
        let pause = (200_i64 << (*failures).min(10)).min(30 * SECOND);
        self.busy.remove(key);
        self.again.remove(key);
        self.add_at(key.clone(), now + pause);
    }

    pub fn forget(&mut self, key: &K) {
        self.failures.remove(key);
        self.delayed.remove(key);
    }

    pub fn busy(&self) -> usize {
        self.busy.len()
    }

    fn queued(&self, key: &K) -> bool {
        self.urgent.contains(key) || self.ready.contains(key)
    }

    fn push(&mut self, key: K, urgent: bool) {
        self.delayed.remove(&key);
        if self.busy.contains(&key) {
            self.again.insert(key);
            return;
        }
        if urgent {
            self.ready.retain(|other| *other != key);
        }
        if !self.queued(&key) {
            if urgent { self.urgent.push_back(key) } else { self.ready.push_back(key) }
        }
    }

    fn release(&mut self, key: &K) {
        self.busy.remove(key);
        if self.again.remove(key) {
            self.push(key.clone(), false);
        }
    }
}
