//! What a queue knows, without clock and waiting: every step is a function of its input.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
    time::Duration,
};

use tokio::time::Instant;

use super::{Depth, Priority};
use crate::backoff::Backoff;

/// After so many urgent keys in a row a normal one has its turn: a flood of revocations must not stop everything else.
const URGENT_IN_A_ROW: u32 = 16;

/// When a timer fires; the number keeps those of one instant in order.
type Due = (Instant, u64);

/// Why a key has a timer. Both may be set: a retry must not make a planned expiry forgotten, nor the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Timer {
    Plan,
    Retry,
}

pub(super) struct State<K> {
    urgent: VecDeque<K>,
    normal: VecDeque<K>,
    /// The lane of every ready key. An entry in another lane is a leftover and skipped.
    ready: HashMap<K, Priority>,
    running: HashMap<K, Run>,
    timers: BTreeMap<Due, (K, Timer)>,
    timer_of: HashMap<(K, Timer), (Due, Priority)>,
    backoff: Backoff<K>,
    sequence: u64,
    urgent_in_a_row: u32,
    closed: bool,
}

#[derive(Default)]
struct Run {
    /// Added while it runs.
    again: Option<Priority>,
    /// What was planned before it began; void if it succeeds.
    planned: Option<(Instant, Priority)>,
}

impl<K: Clone + Eq + Hash> State<K> {
    pub(super) fn new(backoff: Backoff<K>) -> Self {
        Self {
            urgent: VecDeque::new(),
            normal: VecDeque::new(),
            ready: HashMap::new(),
            running: HashMap::new(),
            timers: BTreeMap::new(),
            timer_of: HashMap::new(),
            backoff,
            sequence: 0,
            urgent_in_a_row: 0,
            closed: false,
        }
    }

    pub(super) fn add(&mut self, key: K, priority: Priority) {
        if let Some(run) = self.running.get_mut(&key) {
            run.again = run.again.max(Some(priority));
            return;
        }
        let lane = self.ready.get(&key).copied();
        if lane >= Some(priority) {
            return;
        }
        self.ready.insert(key.clone(), priority);
        match priority {
            Priority::Normal => self.normal.push_back(key),
            Priority::Urgent => self.urgent.push_back(key),
        }
    }

    pub(super) fn add_at(&mut self, key: K, at: Instant, priority: Priority) {
        let (at, priority) = match self.clear(&key, Timer::Plan) {
            Some((earlier, other)) => (at.min(earlier), priority.max(other)),
            None => (at, priority),
        };
        self.set(key, Timer::Plan, at, priority);
    }

    fn set(&mut self, key: K, timer: Timer, at: Instant, priority: Priority) {
        let due = (at, self.sequence);
        self.sequence += 1;
        self.timers.insert(due, (key.clone(), timer));
        self.timer_of.insert((key, timer), (due, priority));
    }

    fn clear(&mut self, key: &K, timer: Timer) -> Option<(Instant, Priority)> {
        let (due, priority) = self.timer_of.remove(&(key.clone(), timer))?;
        self.timers.remove(&due);
        Some((due.0, priority))
    }

    pub(super) fn take(&mut self, now: Instant) -> Option<K> {
        self.fire(now);
        let normal_first = self.urgent_in_a_row >= URGENT_IN_A_ROW;
        let (key, lane) = if normal_first {
            self.pop(Priority::Normal).or_else(|| self.pop(Priority::Urgent))
        } else {
            self.pop(Priority::Urgent).or_else(|| self.pop(Priority::Normal))
        }?;
        self.urgent_in_a_row = match lane {
            Priority::Urgent => self.urgent_in_a_row.saturating_add(1),
            Priority::Normal => 0,
        };
        self.ready.remove(&key);
        self.clear(&key, Timer::Retry);
        let planned = self.clear(&key, Timer::Plan);
        self.running.insert(key.clone(), Run { again: None, planned });
        Some(key)
    }

    fn pop(&mut self, lane: Priority) -> Option<(K, Priority)> {
        let keys = match lane {
            Priority::Normal => &mut self.normal,
            Priority::Urgent => &mut self.urgent,
        };
        while let Some(key) = keys.pop_front() {
            if self.ready.get(&key) == Some(&lane) {
                return Some((key, lane));
            }
        }
        None
    }

    fn fire(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let timer = entry.remove();
            if let Some((_, priority)) = self.timer_of.remove(&timer) {
                self.add(timer.0, priority);
            }
        }
    }

    pub(super) fn done(&mut self, key: &K) {
        let Some(run) = self.running.remove(key) else { return };
        if let Some((at, priority)) = run.planned {
            self.add_at(key.clone(), at, priority);
        }
        if let Some(priority) = run.again {
            self.add(key.clone(), priority);
        }
    }

    pub(super) fn succeeded(&mut self, key: &K) {
        self.backoff.reset(key);
        if let Some(run) = self.running.get_mut(key) {
            run.planned = None;
        }
    }

    pub(super) fn failed(&mut self, key: &K, now: Instant) -> Duration {
        let delay = self.backoff.next(key);
        self.clear(key, Timer::Retry);
        self.set(key.clone(), Timer::Retry, now + delay, Priority::Normal);
        delay
    }

    pub(super) fn forget(&mut self, key: &K) {
        self.backoff.reset(key);
        self.ready.remove(key);
        self.clear(key, Timer::Plan);
        self.clear(key, Timer::Retry);
    }

    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Whether anybody but the caller may have something to wait for.
    pub(super) fn has_more(&self) -> bool {
        !self.ready.is_empty() || !self.timers.is_empty()
    }

    pub(super) fn depth(&self) -> Depth {
        Depth { ready: self.ready.len(), delayed: self.timers.len(), running: self.running.len(), failing: self.backoff.failing() }
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }
}
