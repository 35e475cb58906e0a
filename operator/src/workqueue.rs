//! When which key is due: one at a time a key, the urgent first, with backoff after failures.
//!
//! A plain value that an actor owns and asks; nothing here waits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Longest pause after repeated failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Keys and when they are due.
#[derive(Debug)]
pub struct WorkQueue<K: Ord> {
    urgent: VecDeque<K>,
    ready: VecDeque<K>,
    queued: BTreeSet<K>,
    delayed: BTreeMap<K, Instant>,
    by_time: BTreeSet<(Instant, K)>,
    busy: BTreeSet<K>,
    again: BTreeSet<K>,
    failures: BTreeMap<K, u32>,
}

impl<K: Ord> Default for WorkQueue<K> {
    fn default() -> Self {
        Self {
            urgent: VecDeque::new(),
            ready: VecDeque::new(),
            queued: BTreeSet::new(),
            delayed: BTreeMap::new(),
            by_time: BTreeSet::new(),
            busy: BTreeSet::new(),
            again: BTreeSet::new(),
            failures: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone> WorkQueue<K> {
    /// The key is due now.
    pub fn add(&mut self, key: K) {
        self.push(key, false);
    }

    /// The key is due now, before those that are not urgent.
    pub fn add_urgent(&mut self, key: K) {
        self.push(key, true);
    }

    /// The key is due at this time, unless it is due earlier anyway.
    pub fn add_at(&mut self, key: K, at: Instant) {
        if self.queued.contains(&key) || self.delayed.get(&key).is_some_and(|earlier| *earlier <= at) {
            return;
        }
        if let Some(later) = self.delayed.insert(key.clone(), at) {
            self.by_time.remove(&(later, key.clone()));
        }
        self.by_time.insert((at, key));
    }

    /// The next key that is due and not in work; it is in work until [`WorkQueue::done`] or [`WorkQueue::failed`].
    pub fn next(&mut self, now: Instant) -> Option<K> {
        while let Some((at, key)) = self.by_time.first().cloned() {
            if at > now {
                break;
            }
            self.by_time.remove(&(at, key.clone()));
            self.delayed.remove(&key);
            self.push(key, false);
        }
        let key = self.urgent.pop_front().or_else(|| self.ready.pop_front())?;
        self.queued.remove(&key);
        self.busy.insert(key.clone());
        Some(key)
    }

    /// When the next delayed key is due.
    pub fn wake(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The work on this key went well.
    pub fn done(&mut self, key: &K) {
        self.failures.remove(key);
        self.release(key);
    }

    /// The work on this key failed; it is due again after a pause that grows with every failure in a row.
    pub fn failed(&mut self, key: &K, now: Instant) {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        *failures = failures.saturating_add(1);
        let pause = Duration::from_millis(200).saturating_mul(1 << (*failures).min(10)).min(LONGEST_PAUSE);
        self.release(key);
        self.add_at(key.clone(), now + pause);
    }

    /// Forgets delays and failures of this key.
    pub fn forget(&mut self, key: &K) {
        self.failures.remove(key);
        if let Some(at) = self.delayed.remove(key) {
            self.by_time.remove(&(at, key.clone()));
        }
    }

    /// Keys that are due but not in work.
    pub fn depth(&self) -> usize {
        self.queued.len()
    }

    /// Keys in work.
    pub fn busy(&self) -> usize {
        self.busy.len()
    }

    fn push(&mut self, key: K, urgent: bool) {
        if self.busy.contains(&key) {
            self.again.insert(key);
            return;
        }
        if let Some(at) = self.delayed.remove(&key) {
            self.by_time.remove(&(at, key.clone()));
        }
        if self.queued.insert(key.clone()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_again_when_it_changed_meanwhile() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next(now), Some("a"));
        queue.add("a");
        assert_eq!(queue.next(now), None);
        queue.done(&"a");
        assert_eq!(queue.next(now), Some("a"));
        queue.done(&"a");
        assert_eq!(queue.next(now), None);
    }

    #[test]
    fn urgent_first_and_delays_in_time() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        queue.add("slow");
        queue.add_urgent("fast");
        queue.add_at("later", now + Duration::from_secs(2));
        queue.add_at("later", now + Duration::from_secs(1));
        assert_eq!(queue.next(now), Some("fast"));
        assert_eq!(queue.next(now), Some("slow"));
        assert_eq!(queue.next(now), None);
        assert_eq!(queue.wake(), Some(now + Duration::from_secs(1)));
        assert_eq!(queue.next(now + Duration::from_secs(1)), Some("later"));
        assert_eq!(queue.next(now + Duration::from_secs(3)), None);
    }

    #[test]
    fn failures_pause_longer_and_success_forgets() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        for expected in [400, 800, 1600] {
            queue.add("a");
            assert_eq!(queue.next(now), Some("a"));
            queue.failed(&"a", now);
            assert_eq!(queue.wake(), Some(now + Duration::from_millis(expected)));
        }
        queue.add("a");
        queue.next(now);
        queue.done(&"a");
        assert_eq!(queue.wake(), None);
    }
}
