//! A call to the hub's API server, with a timeout.

use std::time::Duration;

/// Longest wait for a call.
const LONGEST: Duration = Duration::from_secs(10);

/// Why a call failed.
pub enum CallError {
    /// The API server answered with an error.
    Api(Box<kube::Error>),
    /// The API server did not answer in time.
    Timeout,
}

/// Waits for the answer to a request.
pub async fn call<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
    match tokio::time::timeout(LONGEST, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(CallError::Api(Box::new(error))),
        Err(_) => Err(CallError::Timeout),
    }
}
