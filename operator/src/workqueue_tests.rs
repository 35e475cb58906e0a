use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::{SHORTEST_PAUSE, WorkQueue};

fn queue(cap: usize, reserved: usize) -> WorkQueue<&'static str> {
    let mut queue = WorkQueue::new(cap, reserved);
    queue.start();
    queue
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_key_is_in_work_once_and_again_when_it_changed_meanwhile() {
    let (mut queue, now) = (queue(16, 4), Instant::now());
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
fn urgent_keys_go_first_and_delays_end_in_time() {
    let (mut queue, now) = (queue(16, 4), Instant::now());
    queue.add("slow");
    queue.add_urgent("fast");
    queue.add_at("later", now + seconds(2));
    queue.add_at("later", now + seconds(1));
    assert_eq!(queue.next(now), Some("fast"));
    assert_eq!(queue.next(now), Some("slow"));
    assert_eq!(queue.next(now), None);
    assert_eq!(queue.next_wake(now), Some(now + seconds(1)));
    assert_eq!(queue.next(now + seconds(1)), Some("later"));
    assert_eq!(queue.next(now + seconds(3)), None);
}

#[test]
fn the_priority_of_a_key_rises_while_it_waits() {
    let (mut queue, now) = (queue(16, 4), Instant::now());
    queue.add("a");
    queue.add("b");
    queue.add_urgent("b");
    assert_eq!(queue.next(now), Some("b"));
    queue.add_at("c", now + seconds(9));
    queue.add_urgent("c");
    assert_eq!(queue.next(now), Some("c"));
    assert_eq!(queue.next(now), Some("a"));
}

#[test]
fn a_key_that_waits_in_line_becomes_urgent_at_its_time() {
    let (mut queue, now) = (queue(16, 4), Instant::now());
    queue.add("a");
    queue.add("b");
    queue.add_urgent_at("b", now + seconds(1));
    queue.add_at("b", now + seconds(1));
    assert_eq!(queue.next(now + seconds(1)), Some("b"));
    assert!(queue.is_urgent(&"b"));
}

#[test]
fn a_time_at_which_a_key_is_urgent_makes_no_earlier_run_urgent() {
    let (mut queue, now) = (queue(16, 4), Instant::now());
    queue.add_urgent_at("a", now + seconds(60));
    queue.add_at("a", now + seconds(1));
    assert_eq!(queue.next(now + seconds(1)), Some("a"));
    assert!(!queue.is_urgent(&"a"));
    queue.done(&"a");
    assert_eq!(queue.next_wake(now + seconds(1)), Some(now + seconds(60)));
}

#[test]
fn urgency_outlasts_the_run_during_which_a_key_was_added() {
    let (mut queue, now) = (queue(16, 4), Instant::now());
    queue.add("a");
    assert_eq!(queue.next(now), Some("a"));
    queue.add("b");
    queue.add_urgent("a");
    queue.add("a");
    queue.done(&"a");
    assert_eq!(queue.next(now), Some("a"));
}

#[test]
fn pauses_grow_with_failures_and_success_forgets_them() {
    let (mut queue, now) = (queue(16, 4), Instant::now());
    let mut at = now;
    for expected in [400, 800, 1600] {
        queue.add("a");
        assert_eq!(queue.next(at), Some("a"));
        queue.failed(&"a", at);
        let until = at + Duration::from_millis(expected);
        assert_eq!(queue.next_wake(at), Some(until));
        at = until;
    }
    assert_eq!(queue.next(at), Some("a"));
    queue.done(&"a");
    assert_eq!(queue.next_wake(at), None);
    assert!(queue.entries.is_empty(), "nothing is remembered of a key that is done");
}

#[test]
fn plain_adds_do_not_overtake_a_back_off_and_are_not_lost() {
    let (mut queue, now) = (queue(16, 4), Instant::now());
    queue.add("a");
    assert_eq!(queue.next(now), Some("a"));
    queue.add("a");
    queue.failed(&"a", now);
    queue.add("a");
    queue.add_at("a", now);
    assert_eq!(queue.next(now + Duration::from_millis(399)), None);
    assert_eq!(queue.next(now + Duration::from_millis(400)), Some("a"));
    queue.done(&"a");
    assert_eq!(queue.next(now + seconds(60)), None, "one run answers all of them");
}

#[test]
fn what_was_refused_waits_long_and_looks_again_sooner_when_something_moves() {
    let (mut queue, now) = (queue(16, 4), Instant::now());
    queue.add("a");
    queue.next(now);
    queue.refused(&"a", now, seconds(60));
    assert_eq!(queue.next_wake(now), Some(now + seconds(60)));
    queue.add("a");
    assert_eq!(queue.next_wake(now), Some(now + SHORTEST_PAUSE));
}

#[test]
fn an_urgent_add_overtakes_a_back_off_but_makes_no_hot_loop() {
    let (mut queue, now) = (queue(16, 4), Instant::now());
    queue.add("a");
    queue.next(now);
    queue.failed(&"a", now);
    queue.add_urgent("a");
    assert_eq!(queue.next(now), Some("a"));
    for failures in 2..9 {
        queue.add_urgent("a");
        let at = now + SHORTEST_PAUSE * (failures - 2);
        queue.failed(&"a", at);
        assert_eq!(queue.next(at), None);
        assert_eq!(queue.next_wake(at), Some(at + SHORTEST_PAUSE));
        assert_eq!(queue.next(at + SHORTEST_PAUSE), Some("a"));
    }
}

#[test]
fn what_is_asked_for_anew_waits_for_no_back_off() {
    let (mut queue, now) = (queue(16, 4), Instant::now());
    for _ in 0..5 {
        queue.add_anew("a", false);
        assert_eq!(queue.next(now), Some("a"));
        queue.failed(&"a", now);
    }
    assert_eq!(queue.next_wake(now), Some(now + SHORTEST_PAUSE));
}

#[test]
fn slots_are_kept_for_urgent_keys() {
    let (mut queue, now) = (queue(3, 1), Instant::now());
    for key in ["a", "b", "c"] {
        queue.add(key);
    }
    assert_eq!((queue.next(now), queue.next(now), queue.next(now)), (Some("a"), Some("b"), None));
    queue.add_at("d", now + seconds(1));
    assert_eq!(queue.next_wake(now), None, "no plain key has a slot, whatever the time");
    queue.add_urgent_at("u", now + seconds(2));
    assert_eq!(queue.next_wake(now), Some(now + seconds(2)));
    assert_eq!(queue.next(now + seconds(2)), Some("u"));
    assert_eq!(queue.next(now + seconds(2)), None);
    queue.add_urgent("v");
    assert_eq!(queue.next_wake(now + seconds(2)), None, "no key at all has a slot");
    queue.done(&"a");
    assert_eq!(queue.next(now + seconds(2)), Some("v"));
    queue.done(&"v");
    assert_eq!(queue.next(now + seconds(2)), None, "two plain slots, and one of them is used by the urgent key");
    queue.done(&"u");
    assert_eq!(queue.next(now + seconds(2)), Some("c"));
}

#[test]
fn a_queue_that_was_not_started_gathers_and_wakes_nobody() {
    let (mut queue, now) = (WorkQueue::new(16, 4), Instant::now());
    queue.add("a");
    queue.add_at("b", now);
    assert_eq!((queue.next(now), queue.next_wake(now + seconds(5))), (None, None));
    queue.start();
    assert_eq!(queue.next_wake(now), Some(now));
    assert_eq!((queue.next(now), queue.next(now)), (Some("a"), Some("b")));
}

#[derive(Clone, Debug)]
enum Operation {
    Add(u8),
    AddUrgent(u8),
    AddAnew(u8, bool),
    AddAt(u8, u64),
    AddUrgentAt(u8, u64),
    Next,
    Done(u8),
    Failed(u8),
    Refused(u8),
    Forget(u8),
    Advance(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    let key = 0..6_u8;
    let time = 0..3_000_u64;
    prop_oneof![
        key.clone().prop_map(Operation::Add),
        key.clone().prop_map(Operation::AddUrgent),
        (key.clone(), any::<bool>()).prop_map(|(key, urgent)| Operation::AddAnew(key, urgent)),
        (key.clone(), time.clone()).prop_map(|(key, at)| Operation::AddAt(key, at)),
        (key.clone(), time.clone()).prop_map(|(key, at)| Operation::AddUrgentAt(key, at)),
        Just(Operation::Next),
        Just(Operation::Next),
        Just(Operation::Next),
        key.clone().prop_map(Operation::Done),
        key.clone().prop_map(Operation::Failed),
        key.clone().prop_map(Operation::Refused),
        key.prop_map(Operation::Forget),
        time.prop_map(Operation::Advance),
    ]
}

/// What must hold for a queue, whatever its implementation.
struct Model {
    queue: WorkQueue<u8>,
    now: Instant,
    in_work: BTreeSet<u8>,
    /// Keys that were added and must be in work once more.
    owed: BTreeSet<u8>,
    /// Urgent keys that wait for a slot.
    urgent: BTreeSet<u8>,
    /// Keys that failed, and the time before which only what is urgent or new may begin them.
    paused: BTreeMap<u8, Instant>,
}

const CAP: usize = 3;
const RESERVED: usize = 1;

impl Model {
    fn next(&mut self) -> Option<u8> {
        let Some(key) = self.queue.next(self.now) else {
            let wake = self.queue.next_wake(self.now);
            assert!(wake.is_none_or(|wake| wake > self.now), "the controller would loop");
            assert!(self.urgent.is_empty() || self.in_work.len() >= CAP, "an urgent key waits beside a free slot");
            return None;
        };
        assert!(self.in_work.insert(key), "{key} is in work twice");
        assert!(self.in_work.len() <= CAP);
        if !self.queue.is_urgent(&key) {
            assert!(self.in_work.len() <= CAP - RESERVED, "a plain key has a slot that is reserved");
            assert!(self.urgent.is_empty(), "a plain key goes before an urgent one");
            assert!(self.paused.get(&key).is_none_or(|until| *until <= self.now), "a plain key overtakes its back-off");
        }
        self.urgent.remove(&key);
        self.paused.remove(&key);
        self.owed.remove(&key);
        Some(key)
    }

    fn apply(&mut self, operation: Operation) {
        let idle = |model: &Self, key: u8| !model.in_work.contains(&key);
        match operation {
            Operation::Add(key) => {
                self.queue.add(key);
                self.owed.insert(key);
            }
            Operation::AddUrgent(key) => {
                self.queue.add_urgent(key);
                self.owed.insert(key);
                if idle(self, key) && !self.paused.contains_key(&key) {
                    self.urgent.insert(key);
                }
            }
            Operation::AddAnew(key, urgent) => {
                self.queue.add_anew(key, urgent);
                self.owed.insert(key);
                self.paused.remove(&key);
                if urgent && idle(self, key) {
                    self.urgent.insert(key);
                }
            }
            Operation::AddAt(key, after) => {
                self.queue.add_at(key, self.now + Duration::from_millis(after));
                self.owed.insert(key);
            }
            Operation::AddUrgentAt(key, after) => {
                self.queue.add_urgent_at(key, self.now + Duration::from_millis(after));
                self.owed.insert(key);
            }
            Operation::Next => {
                self.next();
            }
            Operation::Done(key) if self.in_work.remove(&key) => self.queue.done(&key),
            Operation::Failed(key) if self.in_work.remove(&key) => {
                self.queue.failed(&key, self.now);
                self.owed.insert(key);
                self.paused.insert(key, self.now + SHORTEST_PAUSE);
            }
            Operation::Refused(key) if self.in_work.remove(&key) => {
                self.queue.refused(&key, self.now, Duration::from_secs(60));
                self.owed.insert(key);
                self.paused.insert(key, self.now + SHORTEST_PAUSE);
            }
            Operation::Done(_) | Operation::Failed(_) | Operation::Refused(_) => {}
            // What is in line, or was added while in work, stays; what was only due later is forgotten.
            Operation::Forget(key) => {
                self.queue.forget(&key);
                self.owed.remove(&key);
                self.paused.remove(&key);
            }
            Operation::Advance(time) => self.now += Duration::from_millis(time),
        }
        assert_eq!(self.queue.busy(), self.in_work.len());
    }

    /// Time passes and all work goes well: whatever is owed is done, and then the queue is at rest.
    fn drain(&mut self) {
        for _ in 0..200 {
            while self.next().is_some() {}
            if let Some(key) = self.in_work.pop_first() {
                self.queue.done(&key);
                continue;
            }
            match self.queue.next_wake(self.now) {
                Some(wake) => self.now = wake,
                None => break,
            }
        }
        assert!(self.in_work.is_empty());
        assert!(self.owed.is_empty(), "lost: {:?}", self.owed);
        assert_eq!(self.queue.next_wake(self.now), None);
        assert!(self.queue.entries.is_empty(), "nothing is remembered of keys that are done");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_happens_no_key_is_lost_doubled_or_overtaken(operations in prop::collection::vec(operation(), 0..60)) {
        let mut queue = WorkQueue::new(CAP, RESERVED);
        queue.start();
        let mut model = Model {
            queue,
            now: Instant::now(),
            in_work: BTreeSet::new(),
            owed: BTreeSet::new(),
            urgent: BTreeSet::new(),
            paused: BTreeMap::new(),
        };
        for operation in operations {
            model.apply(operation);
        }
        model.drain();
    }
}
