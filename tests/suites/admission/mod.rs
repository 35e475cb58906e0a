//! Requests that admission must let pass or refuse, as tables.

pub mod objects;
pub mod request;

use std::time::Duration;

use aifactory_tests::eventually;
use kube::Client;
use serde_json::Value;

pub use request::Request;

/// How long a policy may take until it works. Measured: one second.
const IN_FORCE: Duration = Duration::from_secs(60);

/// Who refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The admission policy of this name.
    Policy(&'static str),
    /// The admission policy of this name, since its parameter is absent, so that its own message is not sent.
    MissingParameter(&'static str),
    /// RBAC.
    Rbac,
    /// Pod Security.
    PodSecurity,
    /// A ResourceQuota.
    Quota,
    /// The API itself, with this HTTP status.
    Api(u16),
}

/// A request that must be refused.
#[derive(Clone, Debug)]
pub struct Row {
    class: &'static str,
    what: &'static str,
    request: Request,
    by: Vec<By>,
    widened: Vec<By>,
    words: &'static str,
}

impl Row {
    /// One refusal is enough, by any of `by`: where several policies refuse, any of them may be the one that is named.
    pub fn new(class: &'static str, what: &'static str, request: Request, by: &[By]) -> Self {
        Self { class, what, request, by: by.to_vec(), widened: Vec::new(), words: "" }
    }

    /// Who refuses when RBAC allows everything; after several calls, any of them.
    pub fn widened(mut self, by: By) -> Self {
        self.widened.push(by);
        self
    }

    /// Part of the message.
    pub fn words(mut self, words: &'static str) -> Self {
        self.words = words;
        self
    }

    /// The same row as it must hold when RBAC allows everything; none where RBAC alone refuses.
    pub fn when_rbac_allows_all(&self) -> Option<Self> {
        let by: Vec<By> = match self.widened.as_slice() {
            [] => self.by.iter().copied().filter(|by| *by != By::Rbac).collect(),
            widened => widened.to_vec(),
        };
        (!by.is_empty()).then(|| Self { by, ..self.clone() })
    }

    fn dry_run(&self) -> Self {
        Self { request: self.request.clone().dry_run(), ..self.clone() }
    }

    /// Sends the request; returns what is wrong with the answer.
    pub async fn wrong(&self, client: &Client) -> Option<String> {
        let seen = match self.request.send(client).await {
            Ok(_) => "it passed".to_owned(),
            Err(kube::Error::Api(status)) => {
                let refused = self.by.iter().any(|by| by.is_seen_in(status.code, &status.message));
                if refused && status.message.contains(self.words) {
                    return None;
                }
                format!("{} {}", status.code, status.message)
            }
            Err(error) => error.to_string(),
        };
        Some(format!("{}: {}: wanted {:?} {:?}, but: {seen}", self.class, self.what, self.by, self.words))
    }
}

impl By {
    fn is_seen_in(self, code: u16, message: &str) -> bool {
        match self {
            // An expression that fails is a 422: it refuses too, and for the wrong reason.
            Self::Policy(name) => code == 403 && message.contains(&format!("ValidatingAdmissionPolicy '{name}'")),
            Self::MissingParameter(name) => {
                code == 422 && message.contains(&format!("ValidatingAdmissionPolicy '{name}'")) && message.contains("no params found")
            }
            Self::Rbac => {
                code == 403
                    && !message.contains("ValidatingAdmissionPolicy")
                    && (message.contains(" cannot ") || message.contains("attempting to grant RBAC permissions"))
            }
            Self::PodSecurity => code == 403 && message.contains("violates PodSecurity"),
            Self::Quota => code == 403 && message.contains("exceeded quota"),
            Self::Api(wanted) => code == wanted && !message.contains("ValidatingAdmissionPolicy"),
        }
    }
}

/// Sends every row, once all are refused as dry runs.
pub async fn all_refused(client: &Client, rows: &[Row]) -> Result<(), String> {
    await_refused(client, rows).await.map_err(|error| error.to_string())?;
    none_wrong(client, rows).await
}

/// Waits until every row is refused as a dry run: policies, bindings and parameters take a moment to work, and a row that passes then would change what
/// the rows after it meet.
pub async fn await_refused(client: &Client, rows: &[Row]) -> aifactory_tests::Result<()> {
    let dry: Vec<Row> = rows.iter().map(Row::dry_run).collect();
    eventually(IN_FORCE, "the policies are in force", async || none_wrong(client, &dry).await.map_err(Into::into)).await
}

async fn none_wrong(client: &Client, rows: &[Row]) -> Result<(), String> {
    let mut wrong = Vec::new();
    for row in rows {
        wrong.extend(row.wrong(client).await);
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("{} of {} not refused as they should be:\n{}", wrong.len(), rows.len(), wrong.join("\n"))) }
}

/// Sends what must pass.
pub async fn passes(client: &Client, what: &str, request: &Request) -> Result<Value, String> {
    request.send(client).await.map_err(|error| format!("{what} must pass, but: {error}"))
}
