//! The tasks that a controller waits for, one of which may panic.

use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use aifactory_api::Reason;
use aifactory_plan::model::report::Finding;
use futures::FutureExt as _;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// Tasks that each end with an event; they end with their owner.
#[derive(Debug)]
pub struct Tasks<E> {
    set: JoinSet<E>,
}

impl<E> Default for Tasks<E> {
    fn default() -> Self {
        Self { set: JoinSet::new() }
    }
}

impl<E: Send + 'static> Tasks<E> {
    /// Begins a task; where it panics it ends with `panicked`.
    pub fn spawn(&mut self, panicked: E, work: impl Future<Output = E> + Send + 'static) -> AbortHandle {
        self.set.spawn(async move { AssertUnwindSafe(work).catch_unwind().await.unwrap_or(panicked) })
    }

    /// Waits for the next event; a task that was aborted has none.
    pub async fn next(&mut self) -> E {
        loop {
            match self.set.join_next().await {
                Some(Ok(event)) => return event,
                Some(Err(_)) => {}
                None => pending().await,
            }
        }
    }
}

/// The answer of a site, or that there was none in time.
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
        assert_eq!(tasks.next().await, "panicked");
        tasks.spawn("panicked", pending()).abort();
        assert!(timeout(Duration::from_secs(1), tasks.next()).await.is_err());
        tasks.spawn("panicked", async { "done" });
        assert_eq!(tasks.next().await, "done");
    }
}
