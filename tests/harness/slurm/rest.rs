//! Requests of the tests to slurmrestd.

use std::time::Duration;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::http;

use super::cluster::Cluster;

const LIFETIME: Duration = Duration::from_secs(600);

impl Cluster {
    /// Status and answer of a request as this user. It does not go through the proxy, so it is neither cut nor logged.
    /// An answer that is no JSON comes as text.
    pub async fn rest_as(&self, user: &str, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let token = self.token(user, LIFETIME);
        let body = body.map(Value::to_string).unwrap_or_default();
        let (status, text) = http::send(self.rest_address(), method, path, &[("X-SLURM-USER-TOKEN", &token)], &body).await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// The answer of a request as the administrator `slurm`; any status but 200 and 304 is an error.
    pub async fn rest(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        match self.rest_as("slurm", method, path, body).await? {
            (200 | 304, answer) => Ok(answer),
            (status, answer) => Err(Error::Http { url: format!("{}{path}", self.cluster_name()), message: format!("{method}: {status} {answer}") }),
        }
    }
}
