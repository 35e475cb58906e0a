//! Reports every request to an observer, with labels from closed sets.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Method, Request, Response, StatusCode};
use tower::{BoxError, Layer, Service};

use crate::lease::WriteRefused;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestVerb {
    /// Reads one object or a list.
    Read,
    /// Follows changes.
    Watch,
    /// Creates.
    Create,
    /// Replaces.
    Update,
    /// Patches or applies.
    Patch,
    /// Deletes.
    Delete,
}

impl RequestVerb {
    /// Every verb.
    pub const ALL: [RequestVerb; 6] =
        [RequestVerb::Read, RequestVerb::Watch, RequestVerb::Create, RequestVerb::Update, RequestVerb::Patch, RequestVerb::Delete];

    pub(super) fn of<B>(request: &Request<B>) -> Self {
        match *request.method() {
            Method::POST => RequestVerb::Create,
            Method::PUT => RequestVerb::Update,
            Method::PATCH => RequestVerb::Patch,
            Method::DELETE => RequestVerb::Delete,
            _ if request.uri().query().is_some_and(|query| query.contains("watch=true")) => RequestVerb::Watch,
            _ => RequestVerb::Read,
        }
    }

    /// Whether the verb changes something, unless the request is a dry run.
    pub fn is_write(self) -> bool {
        match self {
            RequestVerb::Read | RequestVerb::Watch => false,
            RequestVerb::Create | RequestVerb::Update | RequestVerb::Patch | RequestVerb::Delete => true,
        }
    }

    /// The verb as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            RequestVerb::Read => "read",
            RequestVerb::Watch => "watch",
            RequestVerb::Create => "create",
            RequestVerb::Update => "update",
            RequestVerb::Patch => "patch",
            RequestVerb::Delete => "delete",
        }
    }
}

/// How a request ended, by the status line of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestOutcome {
    /// Answered with success.
    Success,
    /// Not there.
    NotFound,
    /// Changed by somebody else, or there already.
    Conflict,
    /// Not, or no longer, allowed.
    Denied,
    /// Too many requests.
    Throttled,
    /// Another fault of the request.
    Invalid,
    /// A fault of the server.
    ServerError,
    /// Never sent, since this process does not lead.
    NotLeading,
    /// No answer.
    Unanswered,
}

impl RequestOutcome {
    /// Every outcome.
    pub const ALL: [RequestOutcome; 9] = [
        RequestOutcome::Success,
        RequestOutcome::NotFound,
        RequestOutcome::Conflict,
        RequestOutcome::Denied,
        RequestOutcome::Throttled,
        RequestOutcome::Invalid,
        RequestOutcome::ServerError,
        RequestOutcome::NotLeading,
        RequestOutcome::Unanswered,
    ];

    fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => RequestOutcome::NotFound,
            StatusCode::CONFLICT => RequestOutcome::Conflict,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RequestOutcome::Denied,
            StatusCode::TOO_MANY_REQUESTS => RequestOutcome::Throttled,
            status if status.is_client_error() => RequestOutcome::Invalid,
            status if status.is_server_error() => RequestOutcome::ServerError,
            _ => RequestOutcome::Success,
        }
    }

    /// The outcome as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            RequestOutcome::Success => "success",
            RequestOutcome::NotFound => "not_found",
            RequestOutcome::Conflict => "conflict",
            RequestOutcome::Denied => "denied",
            RequestOutcome::Throttled => "throttled",
            RequestOutcome::Invalid => "invalid",
            RequestOutcome::ServerError => "server_error",
            RequestOutcome::NotLeading => "not_leading",
            RequestOutcome::Unanswered => "unanswered",
        }
    }
}

/// Receives a call for every request of a client.
pub trait Requests: Send + Sync + 'static {
    /// A request ended. Dry runs never count as writes.
    fn ended(&self, verb: RequestVerb, outcome: RequestOutcome, dry_run: bool);
}

#[derive(Clone)]
pub(super) struct ObserveLayer(pub(super) Arc<dyn Requests>);

impl<S> Layer<S> for ObserveLayer {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner, requests: Arc::clone(&self.0) }
    }
}

#[derive(Clone)]
pub(super) struct Observed<S> {
    inner: S,
    requests: Arc<dyn Requests>,
}

impl<S, Q, B> Service<Request<Q>> for Observed<S>
where
    S: Service<Request<Q>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let verb = RequestVerb::of(&request);
        let dry_run = request.uri().query().is_some_and(|query| query.contains("dryRun="));
        let ended = Ended { requests: Arc::clone(&self.requests), verb, dry_run, outcome: RequestOutcome::Unanswered };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut ended = ended;
            let answer = answer.await.map_err(Into::into);
            ended.outcome = match &answer {
                Ok(response) => RequestOutcome::of(response.status()),
                Err(error) if WriteRefused::caused(&**error) => RequestOutcome::NotLeading,
                Err(_) => RequestOutcome::Unanswered,
            };
            answer
        })
    }
}

/// Reports when dropped, so that a request that its caller gave up counts as unanswered.
struct Ended {
    requests: Arc<dyn Requests>,
    verb: RequestVerb,
    outcome: RequestOutcome,
    dry_run: bool,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.requests.ended(self.verb, self.outcome, self.dry_run);
    }
}
