//! The small server for probes and metrics. It listens on loopback unless a flag names another address, since it does not authenticate its clients.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use crate::telemetry::metrics::{self, Metrics};

/// The flags of the admin server.
#[derive(Clone, Debug, clap::Args)]
pub struct AdminArgs {
    /// Address for /metrics, /healthz and /readyz. Whoever reaches it may read them.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub metrics_address: SocketAddr,
}

/// What must be true before the process counts as ready: caches synced, and leader or standby. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

impl Readiness {
    /// Adds something that must be true, and is not yet.
    pub fn expect(&self, condition: &'static str) {
        self.set(condition, false);
    }

    /// Sets whether it is true now.
    pub fn set(&self, condition: &'static str, ready: bool) {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner).insert(condition, ready);
    }

    /// What is still missing; `None` when ready. A process that expects nothing yet has not begun, and is not ready.
    pub fn missing(&self) -> Option<Vec<&'static str>> {
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        if conditions.is_empty() {
            return Some(vec!["start"]);
        }
        let missing: Vec<_> = conditions.iter().filter(|(_, ready)| !**ready).map(|(condition, _)| *condition).collect();
        (!missing.is_empty()).then_some(missing)
    }
}

/// The admin server could not serve.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address can not be listened on.
    #[error("can not listen on --metrics-address {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Serving ended.
    #[error("the server for metrics and probes ended")]
    Serve(#[source] io::Error),
}

/// The server, listening.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
}

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    readiness: Readiness,
}

impl AdminServer {
    /// Listens. Port 0 means any free port; see [`AdminServer::address`].
    pub async fn bind(args: &AdminArgs, metrics: Arc<Metrics>, readiness: Readiness) -> Result<Self, AdminError> {
        let bind = |source| AdminError::Bind { address: args.metrics_address, source };
        let listener = TcpListener::bind(args.metrics_address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        // A process that answers is alive: an API server that is down is no reason to restart it.
        let router = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(expose))
            .with_state(Shared { metrics, readiness });
        Ok(Self { listener, address, router })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), AdminError> {
        tokio::select! {
            // Not axum's graceful shutdown: one idle connection would hold up the whole process.
            () = shutdown => Ok(()),
            served = async { axum::serve(self.listener, self.router).await } => served.map_err(AdminError::Serve),
        }
    }
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.readiness.missing() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", missing.join(", "))),
    }
}

async fn expose(State(shared): State<Shared>) -> Response {
    match shared.metrics.encode() {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        sync::oneshot,
    };

    use super::{AdminArgs, AdminServer, Readiness};
    use crate::telemetry::metrics::Metrics;

    async fn get(server: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(server).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_and_metrics_are_served() {
        let readiness = Readiness::default();
        let args = AdminArgs { metrics_address: "127.0.0.1:0".parse().unwrap() };
        let server = AdminServer::bind(&args, Arc::new(Metrics::new()), readiness.clone()).await.unwrap();
        let address = server.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));

        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        readiness.expect("caches");
        readiness.expect("election");
        readiness.set("election", true);
        let waiting = get(address, "/readyz").await;
        assert!(waiting.starts_with("HTTP/1.1 503") && waiting.ends_with("waiting for: caches\n"), "{waiting}");
        readiness.set("caches", true);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let metrics = get(address, "/metrics").await;
        assert!(metrics.contains("content-type: application/openmetrics-text") && metrics.ends_with("# EOF\n"), "{metrics}");
        assert!(get(address, "/other").await.starts_with("HTTP/1.1 404"));
        stop.send(()).unwrap();
        serving.await.unwrap().unwrap();
    }
}
