//! Waiting for what must come true, without fixed sleeps.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// What a probe saw while the condition was not met; any error or text turns into it with `?` or `.into()`.
pub type Observed = Box<dyn std::error::Error + Send + Sync>;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Polls until the probe answers `Ok`, and returns its value. `Err` is what was seen instead; the last one is told
/// when the time is over. A probe that hangs counts as not met. Async closures can not cross threads: to wait for
/// several things at once, join the futures instead of spawning them.
///
/// ```no_run
/// # use aifactory_tests::{eventually, Result};
/// # use std::time::Duration;
/// # async fn example(pods: kube::Api<k8s_openapi::api::core::v1::Pod>) -> Result<()> {
/// let pod = eventually(Duration::from_secs(20), "the Pod runs", async || {
///     let pod = pods.get("train").await?;
///     match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
///         Some("Running") => Ok(pod),
///         phase => Err(format!("phase {phase:?}").into()),
///     }
/// })
/// .await?;
/// # Ok(()) }
/// ```
pub async fn eventually<T>(timeout: Duration, what: impl Into<String>, mut probe: impl AsyncFnMut() -> Result<T, Observed>) -> Result<T> {
    let started = Instant::now();
    let mut last = String::from("nothing, the first look did not end");
    let mut pause = FIRST_PAUSE;
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        match tokio::time::timeout(left.max(FIRST_PAUSE), probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = seen.to_string(),
            Err(_) => last = format!("{last} (and a later look did not end)"),
        }
        if started.elapsed() >= timeout {
            return Err(Error::Timeout { what: what.into(), timeout, last });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Polls for the whole duration and fails as soon as the probe answers `Err`.
pub async fn holds(duration: Duration, what: impl Into<String>, mut probe: impl AsyncFnMut() -> Result<(), Observed>) -> Result<()> {
    let started = Instant::now();
    loop {
        if let Err(seen) = probe().await {
            return Err(Error::Broken { what: what.into(), after: started.elapsed(), seen: seen.to_string() });
        }
        let left = duration.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        tokio::time::sleep(left.min(LONGEST_PAUSE)).await;
    }
}
