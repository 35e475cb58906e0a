//! The work queue of hub controllers and site workers.
//!
//! kube's scheduler and tokio's delay queue have the timers, but neither lanes, nor keys that wait for their own run to end, nor failures;
//! what is left to gain from them is less than what it takes to fit them in.

mod state;

use std::{
    fmt,
    hash::Hash,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::backoff::Backoff;
use state::State;

/// Which lane a key waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// In the order of arrival.
    Normal,
    /// Before all that is normal: access is to be removed.
    Urgent,
}

/// How many keys are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Ready to be taken.
    pub ready: usize,
    /// Waiting for a time.
    pub delayed: usize,
    /// Taken and not done.
    pub running: usize,
    /// Whose last run failed.
    pub failing: usize,
}

/// A queue of keys, each at most once ready and at most once running. Clones are the same queue.
///
/// A worker takes a key with [`next`](Self::next), works, says [`succeeded`](Self::succeeded) or [`failed`](Self::failed), may plan the next
/// look with [`add_after`](Self::add_after), and always ends with [`done`](Self::done).
pub struct WorkQueue<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    /// An empty queue whose failing keys wait as `backoff` says.
    pub fn new(backoff: Backoff<K>) -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::new(State::new(backoff)), changed: Notify::new() }) }
    }

    /// Makes a key ready now. While it runs, it becomes ready again when it is done.
    pub fn add(&self, key: K) {
        self.add_with(key, Priority::Normal);
    }

    /// The same, before all keys that are not urgent.
    pub fn add_urgent(&self, key: K) {
        self.add_with(key, Priority::Urgent);
    }

    /// Makes a key ready now, in a lane.
    pub fn add_with(&self, key: K, priority: Priority) {
        self.change(|state| state.add(key, priority));
    }

    /// Makes a key ready later. Of several delays of one key the earliest counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        self.add_after_with(key, delay, Priority::Normal);
    }

    /// The same, in a lane.
    pub fn add_after_with(&self, key: K, delay: Duration, priority: Priority) {
        let now = Instant::now();
        // A delay beyond what the clock can hold means never.
        if let Some(at) = now.checked_add(delay) {
            self.change(|state| if delay.is_zero() { state.add(key, priority) } else { state.add_at(key, at, priority) });
        }
    }

    /// Takes the next ready key, waiting for one if need be; `None` once the queue is closed. No key is handed out twice at a time.
    pub async fn next(&self) -> Option<K> {
        loop {
            let mut changed = pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let wake = {
                let mut state = self.state();
                if state.is_closed() {
                    return None;
                }
                if let Some(key) = state.take(Instant::now()) {
                    // Another worker may have slept through the rest, or sleeps towards a timer that this one watched.
                    if state.has_more() {
                        self.shared.changed.notify_one();
                    }
                    return Some(key);
                }
                state.next_timer()
            };
            match wake {
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(at) => {}
                },
                None => changed.await,
            }
        }
    }

    /// Ends the run of a key that [`next`](Self::next) gave out.
    pub fn done(&self, key: &K) {
        self.change(|state| state.done(key));
    }

    /// The run reached its end: earlier failures, and what was planned before the run began, are forgotten.
    pub fn succeeded(&self, key: &K) {
        self.change(|state| state.succeeded(key));
    }

    /// The run failed: the key comes back after a delay that grows with each failure in a row, or earlier if that was planned. Returns the delay.
    pub fn failed(&self, key: &K) -> Duration {
        let mut delay = Duration::ZERO;
        self.change(|state| delay = state.failed(key, Instant::now()));
        delay
    }

    /// Forgets all about a key that is not running: its object is gone.
    pub fn forget(&self, key: &K) {
        self.change(|state| state.forget(key));
    }

    /// How many keys are where.
    pub fn depth(&self) -> Depth {
        self.state().depth()
    }

    /// Ends the queue: workers get `None`. What is ready is not worked on any more.
    pub fn close(&self) {
        self.state().close();
        self.shared.changed.notify_waiters();
    }

    fn change(&self, change: impl FnOnce(&mut State<K>)) {
        let more = {
            let mut state = self.state();
            change(&mut state);
            state.has_more()
        };
        if more {
            self.shared.changed.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        // No code of callers runs under the lock, and each change is complete before anything in it can panic.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new(Backoff::default())
    }
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K> fmt::Debug for WorkQueue<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkQueue")
    }
}

#[cfg(test)]
mod tests;
