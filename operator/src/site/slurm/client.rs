//! The way to slurmrestd: the same careful stack as to API servers, and a judge of what comes back.
//!
//! HTTP 200 may carry errors, 304 has no body and means that nothing was to be done, and a bad token looks like a dead database on one path
//! and not on another: what an answer means is decided here.

use std::sync::Arc;
use std::time::Duration;

use aifactory_api::slurm::SlurmRest;
use aifactory_plan::engine::slurm_accounts::{SLURM_CLAIM_PREFIX, SLURM_PREFIX};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use kube::client::Body;
use kube::{Client, Config};
use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::error::{SlurmError, of_system};
use super::token::Token;
use crate::client::{ClientSettings, Clients};
use crate::credential::{UrlError, parse_service};

/// Longest wait for an answer: slurmrestd itself gives up on slurmctld after ten seconds, and never on a database that hangs.
const CALL: Duration = Duration::from_secs(15);
/// The API version.
pub const VERSION: &str = "v0.0.44";

/// slurmrestd of one cluster.
#[derive(Clone)]
pub struct SlurmClient {
    client: Client,
    token: Arc<Token>,
}

/// A daemon behind slurmrestd, which paths are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// slurmctld.
    Slurm,
    /// slurmdbd.
    Slurmdb,
}

impl Api {
    fn as_str(self) -> &'static str {
        match self {
            Api::Slurm => "slurm",
            Api::Slurmdb => "slurmdb",
        }
    }
}

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No URL that is taken.
    #[error("url {0}")]
    Url(#[from] UrlError),
    /// Not certificates.
    #[error("caBundle: it holds no PEM certificates")]
    CaBundle,
    /// No client can be made.
    #[error("no client can be made for this url")]
    Client,
}

impl SlurmClient {
    /// A client for what the settings name.
    pub fn new(rest: &SlurmRest, token: Token, settings: &ClientSettings) -> Result<Self, SettingsError> {
        let rules = settings.addresses.clone().unwrap_or_default();
        let mut config = Config::new(parse_service(rest.url.trim_end_matches('/'), &rules)?);
        if let Some(pem) = &rest.ca_bundle {
            config.root_cert = Some(certificates(pem)?);
        }
        let client = Clients::rpc(&config, settings).map_err(|_| SettingsError::Client)?;
        Ok(Self { client, token: Arc::new(token) })
    }

    /// Reads.
    pub async fn get(&self, api: Api, path: &str, query: &[(&str, &str)]) -> Result<Value, SlurmError> {
        self.call(Method::GET, api, path, query, None).await
    }

    /// Writes; `None`: there was nothing to do.
    pub async fn post(&self, api: Api, path: &str, body: &Value) -> Result<Value, SlurmError> {
        self.call(Method::POST, api, path, &[], Some(body)).await
    }

    /// Deletes.
    pub async fn delete(&self, api: Api, path: &str, query: &[(&str, &str)], body: Option<&Value>) -> Result<Value, SlurmError> {
        self.call(Method::DELETE, api, path, query, body).await
    }

    async fn call(&self, method: Method, api: Api, path: &str, query: &[(&str, &str)], body: Option<&Value>) -> Result<Value, SlurmError> {
        match tokio::time::timeout(CALL, self.ask(method, api, path, query, body)).await {
            Ok(Err(SlurmError::DatabaseDown)) => Err(self.token_or_database().await),
            Ok(result) => result,
            Err(_) => Err(SlurmError::NoAnswer(format!("nothing within {} s", CALL.as_secs()))),
        }
    }

    /// The database's paths answer a bad token as they answer a dead database; those of slurmctld do not.
    async fn token_or_database(&self) -> SlurmError {
        match tokio::time::timeout(CALL, self.ask(Method::GET, Api::Slurm, "partitions/", &[], None)).await {
            Ok(Err(SlurmError::TokenRefused)) => SlurmError::TokenRefused,
            Ok(_) | Err(_) => SlurmError::DatabaseDown,
        }
    }

    async fn ask(&self, method: Method, api: Api, path: &str, query: &[(&str, &str)], body: Option<&Value>) -> Result<Value, SlurmError> {
        let response = self.send(method, api, path, query, body).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(|error| SlurmError::NoAnswer(error.to_string()))?.to_bytes();
        judge(api, status, &bytes)
    }

    /// The answer as it comes, for those that are too long to be held. Its status is judged, what it says is not.
    pub async fn stream(&self, api: Api, path: &str, query: &[(&str, &str)]) -> Result<Body, SlurmError> {
        let response = match tokio::time::timeout(CALL, self.send(Method::GET, api, path, query, None)).await {
            Ok(response) => response?,
            Err(_) => return Err(SlurmError::NoAnswer(format!("nothing within {} s", CALL.as_secs()))),
        };
        if response.status() == StatusCode::OK {
            return Ok(response.into_body());
        }
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(|error| SlurmError::NoAnswer(error.to_string()))?.to_bytes();
        match judge(api, status, &bytes) {
            Err(SlurmError::DatabaseDown) => Err(self.token_or_database().await),
            Err(error) => Err(error),
            Ok(_) => Err(SlurmError::Refused { number: i64::from(status.as_u16()), text: "an answer without a body".to_owned() }),
        }
    }

    async fn send(
        &self,
        method: Method,
        api: Api,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<http::Response<Body>, SlurmError> {
        let token = self.token.at(Timestamp::now());
        let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(uri(api, path, query))
            .header("X-SLURM-USER-TOKEN", token.expose_secret())
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Body::from(bytes))
            .map_err(|error| SlurmError::NoAnswer(error.to_string()))?;
        self.client.send(request).await.map_err(|error| SlurmError::NoAnswer(crate::client::explain(&error)))
    }

    /// The document of what is served, for discovery.
    pub async fn openapi(&self) -> Result<Value, SlurmError> {
        let token = self.token.at(Timestamp::now());
        let request = Request::get("/openapi/v3").header("X-SLURM-USER-TOKEN", token.expose_secret()).body(Body::empty());
        let request = request.map_err(|error| SlurmError::NoAnswer(error.to_string()))?;
        let answer = async {
            let response = self.client.send(request).await.map_err(|error| SlurmError::NoAnswer(crate::client::explain(&error)))?;
            let bytes = response.into_body().collect().await.map_err(|error| SlurmError::NoAnswer(error.to_string()))?.to_bytes();
            serde_json::from_slice(&bytes).map_err(|error| SlurmError::Undecodable { path: "/openapi/v3", why: error.to_string() })
        };
        tokio::time::timeout(CALL, answer).await.map_err(|_| SlurmError::NoAnswer("nothing in time".to_owned()))?
    }
}

fn uri(api: Api, path: &str, query: &[(&str, &str)]) -> String {
    let mut uri = format!("/{}/{VERSION}/{path}", api.as_str());
    for (at, (key, value)) in query.iter().enumerate() {
        uri.push(if at == 0 { '?' } else { '&' });
        encode(key, &mut uri);
        uri.push('=');
        encode(value, &mut uri);
    }
    uri
}

/// Percent-encodes everything that is not unreserved (RFC 3986 §2.3); Slurm also wants its commas encoded.
fn encode(text: &str, to: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            to.push(char::from(byte));
        } else {
            to.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// A name of ours as part of a path. Slurm re-types what looks like a number or a truth value, and ends itself on some words.
pub fn named(name: &str) -> Result<&str, SlurmError> {
    let legal = [SLURM_PREFIX, SLURM_CLAIM_PREFIX].iter().any(|prefix| name.starts_with(prefix))
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if legal { Ok(name) } else { Err(SlurmError::Name(name.to_owned())) }
}

fn judge(api: Api, status: StatusCode, bytes: &[u8]) -> Result<Value, SlurmError> {
    if status == StatusCode::NOT_MODIFIED {
        return Ok(Value::Null);
    }
    let body: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
    let error = body.pointer("/errors/0");
    let number = error.and_then(|error| error.get("error_number")).and_then(Value::as_i64).unwrap_or_default();
    let text = |key: &str| error.and_then(|error| error.get(key)).and_then(Value::as_str).unwrap_or_default();
    match (status.as_u16(), number) {
        (200, _) if error.is_none() && !body.is_null() => Ok(body),
        (401, _) | (511, _) => Err(SlurmError::TokenRefused),
        (502, 7000) => Err(SlurmError::DatabaseDown),
        // The daemon's own paths ask slurmdbd too.
        (_, number) if of_system(number) && (api == Api::Slurmdb || text("description").contains("Slurmdb")) => Err(SlurmError::DatabaseDown),
        (502, 1800) | (_, 1800) => Err(SlurmError::ControllerDown),
        (_, 2002 | 2010) => Err(SlurmError::Forbidden),
        (_, 7001) => Err(SlurmError::JobsActive),
        (_, 7009) => Err(SlurmError::DefaultAccount),
        (404, _) => Err(SlurmError::UnknownVersion("the path is not there".to_owned())),
        (code, _) => {
            let words = [text("error"), text("description")].into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(": ");
            let text = if words.is_empty() { format!("HTTP {code}") } else { words };
            Err(SlurmError::Refused { number, text })
        }
    }
}

fn certificates(pem: &str) -> Result<Vec<Vec<u8>>, SettingsError> {
    let found: Result<Vec<_>, _> = x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()).collect();
    let found: Vec<Vec<u8>> =
        found.map_err(|_| SettingsError::CaBundle)?.into_iter().filter(|pem| pem.label == "CERTIFICATE").map(|pem| pem.contents).collect();
    if found.is_empty() { Err(SettingsError::CaBundle) } else { Ok(found) }
}

#[cfg(test)]
mod tests;
