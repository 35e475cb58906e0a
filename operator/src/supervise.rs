//! Supervises the tasks of the process: a panic is logged by the panic hook and counted, and the task is restarted or replaced by an error.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;

use crate::telemetry::metrics::{Metrics, ProcessTask};
use crate::transport::{FromSite, WorkerSender};

/// The pause before a task that panicked is begun again.
pub const PAUSE: Duration = Duration::from_secs(5);

/// Runs a task, and begins it again after a pause whenever it panics. Ends when the task ends.
pub async fn restarted<F: Future<Output = ()>>(task: ProcessTask, metrics: &Metrics, mut begin: impl FnMut() -> F) {
    while caught(task, metrics, begin()).await.is_none() {
        tokio::time::sleep(PAUSE).await;
    }
}

/// The output of a future, or `None` where it panicked.
pub async fn caught<T>(task: ProcessTask, metrics: &Metrics, future: impl Future<Output = T>) -> Option<T> {
    let result = AssertUnwindSafe(future).catch_unwind().await;
    if result.is_err() {
        tracing::error!(task = task.as_str(), "A task panicked; it is begun again");
        metrics.task_panicked(task);
    }
    result.ok()
}

/// Runs the controller of a part of a site. Where it panics, it sends `Died`, and the hub starts another.
pub fn worker(metrics: Arc<Metrics>, hub: WorkerSender, run: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        if caught(ProcessTask::SiteWorker, &metrics, run).await.is_none() {
            hub.send(FromSite::Died);
        }
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_counted_and_begun_again_after_a_pause() {
        let (metrics, runs, begun) = (Metrics::new(), Cell::new(0), Instant::now());
        restarted(ProcessTask::SiteWatch, &metrics, || async {
            runs.set(runs.get() + 1);
            assert!(runs.get() > 2, "as often as it takes");
        })
        .await;
        assert_eq!((runs.get(), begun.elapsed()), (3, PAUSE * 2));
        let text = metrics.encode().unwrap();
        assert!(text.contains("aifactory_task_panics_total{task=\"site_watch\"} 2"), "{text}");
        assert!(text.contains("aifactory_task_panics_total{task=\"hub_watch\"} 0"), "counted from the start");
    }
}
