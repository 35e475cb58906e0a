//! Clients for API servers: the same careful stack for the hub and for every site.
//!
//! kube's own stack retries for minutes, waits for ever and reads what a server sends without end. This stack has a deadline on every call, a bound
//! on every response, no retries (the work queue retries), no redirects, no proxies, and the [`WriteGate`] directly above the connection.

pub mod defined_watch;
mod explain;
mod observe;
mod resolve;
mod response;

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, header::USER_AGENT};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{Client, Config, client::ConfigExt as _};
use tower::{BoxError, ServiceBuilder};

use crate::{credential::AddressRules, lease::WriteGate};
pub use explain::{NO_ANSWER, explain};
pub use observe::{RequestOutcome, RequestVerb, Requests};
pub use resolve::ResolveError;
use resolve::SiteResolver;
pub use response::ResponseError;

/// Longest wait for a connection, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence of a server in the middle of an answer.
pub const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for a call from its start to the last byte of the answer; watches have none.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest answer of a call; a page of 500 large Nodes is about 10 MB.
const MAX_RESPONSE: u64 = 64 << 20;
/// The most that one watch may send before it is restarted.
const MAX_WATCH: u64 = 512 << 20;
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_RETRIES: u32 = 3;
const IDLE_CONNECTIONS: usize = 32;

/// What all clients of one API server share.
#[derive(Clone)]
pub struct ClientSettings {
    /// Which writes may begin.
    pub gate: WriteGate,
    /// Which addresses may be connected to; `None` for the operator's own server.
    pub addresses: Option<AddressRules>,
    /// Counts the requests.
    pub requests: Option<Arc<dyn Requests>>,
}

/// The two clients of one API server.
#[derive(Clone)]
pub struct Clients {
    /// For everything that has an end: every call is over within [`CALL_TIMEOUT`].
    pub rpc: Client,
    /// For watches, which may be silent for long. Other calls on it are bounded as well, but notice a silent server later.
    pub watch: Client,
}

impl Clients {
    /// Builds both. Of the configuration, timeouts and retries are replaced; proxies are refused.
    pub fn new(config: &Config, settings: &ClientSettings) -> Result<Self, kube::Error> {
        Ok(Self { rpc: client(config, settings, Purpose::Call)?, watch: client(config, settings, Purpose::Watch)? })
    }

    /// One client for calls only.
    pub fn rpc(config: &Config, settings: &ClientSettings) -> Result<Client, kube::Error> {
        client(config, settings, Purpose::Call)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Call,
    Watch,
}

fn client(config: &Config, settings: &ClientSettings, purpose: Purpose) -> Result<Client, kube::Error> {
    if let Some(proxy_url) = &config.proxy_url {
        return Err(kube::Error::ProxyProtocolUnsupported { proxy_url: Box::new(proxy_url.clone()) });
    }
    let mut config = config.clone();
    config.headers.push((USER_AGENT, HeaderValue::from_static(concat!("aifactory-operator/", env!("CARGO_PKG_VERSION")))));
    let read_timeout = match purpose {
        Purpose::Call => Some(READ_TIMEOUT),
        // A watch may be silent for long; the watcher ends it.
        Purpose::Watch => None,
    };
    let bounds = response::BoundLayer {
        call: response::Bound { bytes: MAX_RESPONSE, time: Some(CALL_TIMEOUT) },
        watch: response::Bound { bytes: MAX_WATCH, time: None },
    };

    let mut tcp = HttpConnector::new_with_resolver(SiteResolver::new(settings.addresses.clone()));
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_read_timeout(read_timeout);
    connector.set_write_timeout(Some(READ_TIMEOUT));
    connector.set_reset_reader_on_write(true);
    let wire = HttpClient::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_max_idle_per_host(IDLE_CONNECTIONS).build(connector);

    let service = ServiceBuilder::new()
        .layer(bounds)
        .option_layer(settings.requests.clone().map(observe::ObserveLayer))
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .layer(&settings.gate)
        .map_err(BoxError::from)
        .service(wire);
    Ok(Client::new(service, config.default_namespace))
}

#[cfg(test)]
mod tests;
