use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::prelude::*;
use tokio::{
    task::JoinSet,
    time::{Instant, advance, timeout},
};

use super::{Depth, Priority, WorkQueue};

const SECOND: Duration = Duration::from_secs(1);

async fn taken(queue: &WorkQueue<&'static str>) -> Option<&'static str> {
    timeout(Duration::ZERO, queue.next()).await.ok().flatten()
}

#[tokio::test(start_paused = true)]
async fn keys_come_once_each_and_in_order() {
    let queue = WorkQueue::default();
    for key in ["a", "b", "a", "c", "b"] {
        queue.add(key);
    }
    assert_eq!(queue.depth().ready, 3);
    for key in ["a", "b", "c"] {
        assert_eq!(taken(&queue).await, Some(key));
    }
    assert_eq!(taken(&queue).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_key_never_runs_twice_at_a_time_and_no_change_is_missed() {
    let queue = WorkQueue::default();
    queue.add("a");
    assert_eq!(taken(&queue).await, Some("a"));
    queue.add("a");
    queue.add("a");
    assert_eq!(taken(&queue).await, None);
    queue.done(&"a");
    assert_eq!(taken(&queue).await, Some("a"));
    queue.done(&"a");
    assert_eq!(taken(&queue).await, None);
    assert_eq!(queue.depth(), Depth::default());
}

#[tokio::test(start_paused = true)]
async fn urgent_keys_overtake_but_do_not_starve_others() {
    let queue = WorkQueue::default();
    queue.add("n1");
    queue.add("u");
    queue.add_urgent("u");
    assert_eq!(taken(&queue).await, Some("u"));
    queue.done(&"u");
    assert_eq!(taken(&queue).await, Some("n1"));
    assert_eq!(taken(&queue).await, None);

    queue.add("n2");
    let mut before = 0;
    loop {
        queue.add_urgent("u");
        match taken(&queue).await {
            Some("u") => before += 1,
            other => break assert_eq!(other, Some("n2")),
        }
        queue.done(&"u");
    }
    assert_eq!(before, 16);
}

#[tokio::test(start_paused = true)]
async fn of_several_delays_the_earliest_counts() {
    let queue = WorkQueue::default();
    let start = Instant::now();
    queue.add_after("a", SECOND * 10);
    queue.add_after("a", SECOND * 3);
    queue.add_after("a", SECOND * 7);
    queue.add_after("b", SECOND * 2);
    queue.add_after("never", Duration::MAX);
    assert_eq!(queue.depth().delayed, 2);
    assert_eq!((queue.next().await, start.elapsed().as_secs()), (Some("b"), 2));
    assert_eq!((queue.next().await, start.elapsed().as_secs()), (Some("a"), 3));
    advance(SECOND * 60).await;
    assert_eq!(taken(&queue).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_worker_learns_of_an_earlier_timer() {
    let queue = WorkQueue::default();
    queue.add_after("late", SECOND * 60);
    let worker = tokio::spawn({
        let queue = queue.clone();
        async move { queue.next().await }
    });
    tokio::task::yield_now().await;
    let start = Instant::now();
    queue.add_after("soon", SECOND);
    assert_eq!(worker.await.unwrap(), Some("soon"));
    assert!(start.elapsed() < SECOND * 2);
}

#[tokio::test(start_paused = true)]
async fn failures_come_back_later_and_later() {
    let queue = WorkQueue::default();
    queue.add("a");
    let mut last = Duration::ZERO;
    for _ in 0..6 {
        assert_eq!(queue.next().await, Some("a"));
        let delay = queue.failed(&"a");
        assert!(delay > last / 2);
        last = delay;
        queue.done(&"a");
        assert_eq!(taken(&queue).await, None);
    }
    assert!(last > SECOND * 6 && queue.depth().failing == 1);
    assert_eq!(queue.next().await, Some("a"));
    queue.succeeded(&"a");
    queue.done(&"a");
    assert_eq!(queue.depth(), Depth::default());
}

#[tokio::test(start_paused = true)]
async fn what_was_planned_stays_after_a_failure_and_goes_after_a_success() {
    let queue = WorkQueue::default();
    let start = Instant::now();
    // The expiry of a grant is planned; then it changes, and the site fails for long.
    queue.add_after_with("a", SECOND * 5, Priority::Urgent);
    for _ in 0..3 {
        queue.add("a");
        assert_eq!(taken(&queue).await, Some("a"));
        for _ in 0..12 {
            queue.failed(&"a");
        }
        queue.done(&"a");
    }
    while start.elapsed() < SECOND * 5 {
        assert_eq!(queue.next().await, Some("a"));
        queue.done(&"a");
    }
    assert_eq!(start.elapsed().as_secs(), 5);

    queue.add_after("b", SECOND * 5);
    queue.add("b");
    assert_eq!(taken(&queue).await, Some("b"));
    queue.succeeded(&"b");
    queue.add_after("b", SECOND * 50);
    queue.done(&"b");
    let start = Instant::now();
    assert_eq!((queue.next().await, start.elapsed().as_secs()), (Some("b"), 50));
}

#[tokio::test(start_paused = true)]
async fn a_closed_queue_lets_all_workers_go() {
    let queue = WorkQueue::<&str>::default();
    let mut workers = JoinSet::new();
    for _ in 0..3 {
        let queue = queue.clone();
        workers.spawn(async move { queue.next().await });
    }
    tokio::task::yield_now().await;
    queue.close();
    queue.add("a");
    assert_eq!(workers.join_all().await, [None; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_key_does_not_come_back() {
    let queue = WorkQueue::default();
    queue.add("a");
    queue.add_after("a", SECOND);
    queue.forget(&"a");
    assert_eq!(queue.depth(), Depth::default());
    advance(SECOND * 2).await;
    assert_eq!(taken(&queue).await, None);
}

#[tokio::test(start_paused = true)]
async fn many_workers_share_all_keys_without_overlap() {
    let queue = WorkQueue::default();
    let running = Arc::new(Mutex::new(HashSet::new()));
    let counts = Arc::new(Mutex::new(BTreeMap::<u32, u32>::new()));
    let mut workers = JoinSet::new();
    for _ in 0..8 {
        let (queue, running, counts) = (queue.clone(), Arc::clone(&running), Arc::clone(&counts));
        workers.spawn(async move {
            while let Some(key) = queue.next().await {
                assert!(running.lock().unwrap().insert(key));
                tokio::time::sleep(Duration::from_millis(u64::from(key % 7))).await;
                *counts.lock().unwrap().entry(key).or_default() += 1;
                assert!(running.lock().unwrap().remove(&key));
                queue.succeeded(&key);
                queue.done(&key);
            }
        });
    }
    for round in 0..5 {
        for key in 0..100 {
            queue.add_after(key, Duration::from_millis(u64::from(round * 40 + key % 11)));
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    while queue.depth() != Depth::default() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    queue.close();
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
    let counts = counts.lock().unwrap();
    assert_eq!(counts.len(), 100);
    assert!(counts.values().all(|count| (1..=5).contains(count)), "{counts:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Add(u8, bool),
    After(u8, u64, bool),
    Take,
    End(u8, bool),
    Advance(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..4u8;
    let step = prop_oneof![
        (key.clone(), any::<bool>()).prop_map(|(key, urgent)| Step::Add(key, urgent)),
        (key.clone(), 0..50u64, any::<bool>()).prop_map(|(key, delay, urgent)| Step::After(key, delay, urgent)),
        Just(Step::Take),
        (key, any::<bool>()).prop_map(|(key, failed)| Step::End(key, failed)),
        (0..40u64).prop_map(Step::Advance),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens: no overlap, and after the last change of a key there is always a run that begins later.
    #[test]
    fn no_change_is_lost_and_no_key_overlaps(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let queue = WorkQueue::<u8>::default();
            let lane = |urgent| if urgent { Priority::Urgent } else { Priority::Normal };
            let mut running = HashSet::new();
            let mut owed = HashSet::new();
            for step in steps {
                match step {
                    Step::Add(key, urgent) => {
                        queue.add_with(key, lane(urgent));
                        owed.insert(key);
                    }
                    Step::After(key, delay, urgent) => {
                        queue.add_after_with(key, Duration::from_millis(delay), lane(urgent));
                        owed.insert(key);
                    }
                    Step::Take => {
                        if let Ok(Some(key)) = timeout(Duration::ZERO, queue.next()).await {
                            assert!(running.insert(key), "{key} runs twice");
                            owed.remove(&key);
                        }
                    }
                    Step::End(key, failed) => {
                        if running.remove(&key) {
                            if failed {
                                queue.failed(&key);
                                owed.insert(key);
                            } else {
                                queue.succeeded(&key);
                            }
                            queue.done(&key);
                        }
                    }
                    Step::Advance(time) => advance(Duration::from_millis(time)).await,
                }
            }
            for key in running.drain() {
                queue.succeeded(&key);
                queue.done(&key);
            }
            while let Ok(Some(key)) = timeout(Duration::from_secs(600), queue.next()).await {
                owed.remove(&key);
                queue.succeeded(&key);
                queue.done(&key);
            }
            assert!(owed.is_empty(), "{owed:?} never came");
            assert_eq!(queue.depth(), Depth::default());
        });
    }
}
