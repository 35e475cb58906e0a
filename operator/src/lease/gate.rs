//! The gate in front of every write: open for as long as this process is sure to lead.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::{Either, Ready, ready};
use http::{Method, Request};
use http_body::{Body, Frame, SizeHint};
use jiff::Timestamp;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

const CLOSED: u64 = 0;
const ALWAYS_OPEN: u64 = u64::MAX;

/// A write was not sent, because this process may have lost the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the write was not sent: this process is not sure to be the leader")]
pub struct WriteRefused;

impl WriteRefused {
    /// Whether this is why a request failed.
    pub fn caused(error: &(dyn std::error::Error + 'static)) -> bool {
        std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<WriteRefused>())
    }
}

/// Lets writes pass until a deadline on the monotonic clock, which runs on while the process is stopped. Clones share the deadline.
///
/// As a [`Layer`] it belongs directly on top of the connection: it judges when a request is handed over and again when its body is asked
/// for, which comes last before the bytes leave. A process that was stopped in between sends a cut-off request at most, and an API server does
/// nothing with that.
#[derive(Clone)]
pub struct WriteGate {
    started: Instant,
    /// Nanoseconds after `started`, or one of the two constants.
    deadline: Arc<AtomicU64>,
    /// When a former leader gave its last sign of life.
    former: Arc<OnceLock<Timestamp>>,
}

impl WriteGate {
    /// A gate that is closed until the lease is held.
    pub fn closed() -> Self {
        Self::with(CLOSED)
    }

    /// A gate that is never closed, for commands that a person runs.
    pub fn always_open() -> Self {
        Self::with(ALWAYS_OPEN)
    }

    fn with(deadline: u64) -> Self {
        Self { started: Instant::now(), deadline: Arc::new(AtomicU64::new(deadline)), former: Arc::default() }
    }

    /// Whether a write may begin now.
    pub fn is_open(&self) -> bool {
        match self.deadline.load(Ordering::Acquire) {
            CLOSED => false,
            ALWAYS_OPEN => true,
            deadline => self.nanoseconds(Instant::now()) < deadline,
        }
    }

    /// When the leader before this one gave its last sign of life, by the clock of its host; `None`: there was none, or it is not known.
    pub fn former(&self) -> Option<Timestamp> {
        self.former.get().copied()
    }

    /// This process leads after one that gave its last sign of life then.
    pub(super) fn succeed(&self, last: Option<Timestamp>) {
        if let Some(last) = last {
            let _ = self.former.set(last);
        }
    }

    /// Opens the gate until then.
    pub(super) fn open_until(&self, deadline: Instant) {
        self.deadline.store(self.nanoseconds(deadline).clamp(CLOSED + 1, ALWAYS_OPEN - 1), Ordering::Release);
    }

    /// Closes the gate now.
    pub(super) fn close(&self) {
        self.deadline.store(CLOSED, Ordering::Release);
    }

    fn nanoseconds(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_nanos()).unwrap_or(ALWAYS_OPEN)
    }
}

impl fmt::Debug for WriteGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = match self.deadline.load(Ordering::Acquire) {
            ALWAYS_OPEN => return f.write_str("WriteGate(open)"),
            deadline => Duration::from_nanos(deadline.saturating_sub(self.nanoseconds(Instant::now()))),
        };
        write!(f, "WriteGate(open for {left:?})")
    }
}

impl<S> Layer<S> for WriteGate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, gate: self.clone() }
    }
}

/// A service behind a [`WriteGate`].
#[derive(Clone, Debug)]
pub struct Gated<S> {
    inner: S,
    gate: WriteGate,
}

impl<S, B> Service<Request<B>> for Gated<S>
where
    S: Service<Request<GatedBody<B>>, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<Ready<Result<S::Response, BoxError>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let gate = (!is_read(request.method())).then(|| self.gate.clone());
        if gate.as_ref().is_some_and(|gate| !gate.is_open()) {
            return Either::Left(ready(Err(WriteRefused.into())));
        }
        Either::Right(self.inner.call(request.map(|inner| GatedBody { inner, gate })))
    }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// A request body that fails once its gate is closed. Reads have no gate.
#[derive(Debug)]
pub struct GatedBody<B> {
    inner: B,
    gate: Option<WriteGate>,
}

impl<B> Body for GatedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.gate.as_ref().is_some_and(|gate| !gate.is_open()) {
            return Poll::Ready(Some(Err(WriteRefused.into())));
        }
        Pin::new(&mut this.inner).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Method, Request, Response};
    use http_body_util::BodyExt as _;
    use kube::client::Body;
    use tokio::time::{Instant, advance};
    use tower::{BoxError, Layer as _, ServiceExt as _, service_fn};

    use super::{GatedBody, WriteGate, WriteRefused};

    async fn send(gate: &WriteGate, method: Method) -> Result<Vec<u8>, BoxError> {
        let echo = service_fn(|request: Request<GatedBody<Body>>| async move {
            let body = request.into_body().collect().await?.to_bytes().to_vec();
            Ok::<_, BoxError>(Response::new(body))
        });
        let request = Request::builder().method(method).body(Body::from(b"{}".to_vec()))?;
        Ok(gate.layer(echo).oneshot(request).await?.into_body())
    }

    #[tokio::test(start_paused = true)]
    async fn writes_pass_until_the_deadline_and_reads_always() {
        let gate = WriteGate::closed();
        assert!(WriteRefused::caused(&*send(&gate, Method::PATCH).await.unwrap_err()));
        assert!(send(&gate, Method::GET).await.is_ok());

        gate.open_until(Instant::now() + Duration::from_secs(10));
        advance(Duration::from_millis(9_999)).await;
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            assert_eq!(send(&gate, method).await.unwrap(), b"{}");
        }
        advance(Duration::from_millis(1)).await;
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::from_bytes(b"NEW").unwrap()] {
            assert!(send(&gate, method.clone()).await.is_err(), "{method}");
        }
        assert!(send(&gate, Method::GET).await.is_ok());
        assert!(WriteGate::always_open().is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_waited_past_the_deadline_is_cut_off() {
        let gate = WriteGate::closed();
        gate.open_until(Instant::now() + Duration::from_secs(1));
        let slow = service_fn(|request: Request<GatedBody<Body>>| async move {
            tokio::time::sleep(Duration::from_secs(2)).await;
            request.into_body().collect().await.map(|body| Response::new(body.to_bytes()))
        });
        let request = Request::post("/").body(Body::from(b"{}".to_vec())).unwrap();
        assert!(WriteRefused::caused(&*gate.layer(slow).oneshot(request).await.unwrap_err()));
    }
}
