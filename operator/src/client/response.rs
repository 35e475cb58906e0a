//! Bounds on answers: a server that sends without end, or a byte an hour, costs memory and time that are known in advance.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tower::{BoxError, Layer, Service};

use super::observe::RequestVerb;

/// A response was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// Not complete in time.
    #[error("the answer was not complete within {0:?}")]
    Timeout(Duration),
    /// Larger than allowed.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(u64),
}

/// How much of a response is read, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) bytes: u64,
    pub(super) time: Option<Duration>,
}

/// Bounds the responses to calls and watches. A client for watches needs both bounds, since each watch begins with a list, which is a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct BoundLayer {
    pub(super) call: Bound,
    pub(super) watch: Bound,
}

impl<S> Layer<S> for BoundLayer {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Bounded<S> {
        Bounded { inner, bounds: *self }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Bounded<S> {
    inner: S,
    bounds: BoundLayer,
}

impl<S, Q, B> Service<Request<Q>> for Bounded<S>
where
    S: Service<Request<Q>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<BoundedBody<B>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let bound = if RequestVerb::of(&request) == RequestVerb::Watch { self.bounds.watch } else { self.bounds.call };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let Some(time) = bound.time else {
                return answer
                    .await
                    .map(|response| response.map(|inner| BoundedBody { inner, bound, left: bound.bytes, deadline: None }))
                    .map_err(Into::into);
            };
            let deadline = Instant::now() + time;
            let response = timeout_at(deadline, answer).await.map_err(|_| ResponseError::Timeout(time))?.map_err(Into::into)?;
            Ok(response.map(|inner| BoundedBody { inner, bound, left: bound.bytes, deadline: Some(Box::pin(sleep_until(deadline))) }))
        })
    }
}

/// An answer's body with its bounds.
#[derive(Debug)]
pub(super) struct BoundedBody<B> {
    inner: B,
    bound: Bound,
    left: u64,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<B> Body for BoundedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let (Some(deadline), Some(time)) = (&mut this.deadline, this.bound.time)
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(ResponseError::Timeout(time).into())));
        }
        let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            other => return other.map_err(Into::into),
        };
        let size = frame.data_ref().map_or(0, |data| data.remaining() as u64);
        match this.left.checked_sub(size) {
            Some(left) => this.left = left,
            None => return Poll::Ready(Some(Err(ResponseError::TooLarge(this.bound.bytes).into()))),
        }
        Poll::Ready(Some(Ok(frame)))
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
    use std::{convert::Infallible, time::Duration};

    use bytes::Bytes;
    use futures::{StreamExt as _, stream};
    use http::{Request, Response};
    use http_body::Frame;
    use http_body_util::{BodyExt as _, StreamBody};
    use tower::{BoxError, Layer as _, ServiceExt as _, service_fn};

    use super::{Bound, BoundLayer, ResponseError};

    async fn receive(path: &str, chunks: usize, pause: Duration) -> Result<usize, BoxError> {
        let call = Bound { bytes: 1_000, time: Some(Duration::from_secs(1)) };
        let watch = Bound { bytes: 2_000, time: None };
        let server = service_fn(move |_: Request<()>| async move {
            let body = stream::iter(0..chunks).then(move |_| async move {
                tokio::time::sleep(pause).await;
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0; 100])))
            });
            Ok::<_, Infallible>(Response::new(StreamBody::new(body.boxed())))
        });
        let response = BoundLayer { call, watch }.layer(server).oneshot(Request::get(path).body(())?).await?;
        Ok(response.into_body().collect().await?.to_bytes().len())
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_cut_at_their_bounds() {
        assert_eq!(receive("/nodes", 10, Duration::from_millis(10)).await.unwrap(), 1_000);
        let large = receive("/nodes", 11, Duration::ZERO).await.unwrap_err();
        assert_eq!(large.downcast_ref(), Some(&ResponseError::TooLarge(1_000)));
        let slow = receive("/nodes", 10, Duration::from_millis(200)).await.unwrap_err();
        assert_eq!(slow.downcast_ref(), Some(&ResponseError::Timeout(Duration::from_secs(1))));
        assert_eq!(receive("/nodes?watch=true", 20, Duration::from_secs(3600)).await.unwrap(), 2_000);
        let endless = receive("/nodes?watch=true", 21, Duration::ZERO).await.unwrap_err();
        assert_eq!(endless.downcast_ref(), Some(&ResponseError::TooLarge(2_000)));
    }
}
