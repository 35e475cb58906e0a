//! The spawned tasks of a controller, whose panics become events.

use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use aifactory_api::Reason;
use aifactory_plan::model::report::Finding;
use futures::FutureExt as _;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// Tasks that each end with an event; they are aborted when this is dropped.
#[derive(Debug)]
pub struct Tasks<E> {
    set: JoinSet<Ended<E>>,
}

/// How a task has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended<E> {
    /// Its result, or the one given for a panic.
    pub event: E,
    /// Whether it panicked.
    pub panicked: bool,
}

impl<E> Default for Tasks<E> {
    fn default() -> Self {
        Self { set: JoinSet::new() }
    }
}

impl<E: Send + 'static> Tasks<E> {
    /// Spawns a task; where it panics its result is `panicked`.
    pub fn spawn(&mut self, panicked: E, work: impl Future<Output = E> + Send + 'static) -> AbortHandle {
        self.set.spawn(async move {
            match AssertUnwindSafe(work).catch_unwind().await {
                Ok(event) => Ended { event, panicked: false },
                Err(_) => Ended { event: panicked, panicked: true },
            }
        })
    }

    /// Waits for the next task to end; aborted tasks are skipped.
    pub async fn next(&mut self) -> Ended<E> {
        loop {
            match self.set.join_next().await {
                Some(Ok(ended)) => return ended,
                Some(Err(_)) => {}
                None => pending().await,
            }
        }
    }
}

/// The answer of a site, or a finding that there was none in time.
pub async fn within<T>(limit: Duration, answer: impl Future<Output = Result<T, Finding>>) -> Result<T, Finding> {
    let silent = || Finding::note(Reason::SiteUnreachable, "the site does not answer in time");
    timeout(limit, answer).await.unwrap_or_else(|_| Err(silent()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_an_event_and_an_abort_is_none() {
        let mut tasks = Tasks::default();
        tasks.spawn("panicked", async { panic!("a defect") });
        assert_eq!(tasks.next().await, Ended { event: "panicked", panicked: true });
        tasks.spawn("panicked", pending()).abort();
        assert!(timeout(Duration::from_secs(1), tasks.next()).await.is_err());
        tasks.spawn("panicked", async { "done" });
        assert_eq!(tasks.next().await, Ended { event: "done", panicked: false });
    }
}
