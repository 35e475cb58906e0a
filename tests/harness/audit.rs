//! What an API server was asked, from its audit log. The log is written before the answer is sent, so whoever has an
//! answer finds the request here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result, at};

/// User of the harness's own clients.
pub const ADMIN_USER: &str = "harness:admin";
/// User of KWOK.
pub const KWOK_USER: &str = "harness:kwok";

/// Reads of the control planes and of the harness would only fill the disk.
pub(crate) fn policy() -> String {
    let quiet = [ADMIN_USER, KWOK_USER, "system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"];
    let users: String = quiet.iter().map(|user| format!("\"{user}\", ")).collect();
    format!(
        r#"apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: [{users}]
  verbs: [get, list, watch]
- level: None
  userGroups: ["system:serviceaccounts:kube-system"]
  verbs: [get, list, watch]
- level: None
  nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/openapi/*"]
- level: Metadata
"#
    )
}

/// A place in an audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// The audit log of one cluster.
#[derive(Debug, Clone)]
pub struct AuditLog {
    path: PathBuf,
}

/// One request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// `create`, `update`, `patch`, `delete`, `deletecollection`, `get`, `list` or `watch`.
    pub verb: String,
    /// Who asked, as the server knows them.
    pub user: String,
    /// The user they acted as, if any.
    pub impersonated: Option<String>,
    /// Which of the user's credentials, as the server tells them apart; empty where it does not.
    pub credential: String,
    /// Which client.
    pub user_agent: String,
    /// API group, empty for the core.
    pub group: String,
    /// Plural resource; empty for paths that are none.
    pub resource: String,
    /// Subresource or empty.
    pub subresource: String,
    /// Namespace or empty.
    pub namespace: String,
    /// Name or empty.
    pub name: String,
    /// HTTP status of the answer.
    pub code: u16,
    /// Path and query.
    pub uri: String,
    /// When it came in, RFC 3339.
    pub received: String,
    /// When the answer was complete, RFC 3339.
    pub answered: String,
    /// What authorizers and admission noted.
    pub annotations: BTreeMap<String, String>,
}

impl Request {
    /// True for requests that ask to change what is stored: no dry run, no review, no token.
    pub fn is_write(&self) -> bool {
        let changes = matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection");
        let asks = self.resource.ends_with("reviews") || self.subresource == "token";
        changes && !asks && !self.is_dry_run()
    }

    /// True for a dry run.
    pub fn is_dry_run(&self) -> bool {
        self.uri.contains("dryRun=")
    }

    /// True when the server did what was asked.
    pub fn is_accepted(&self) -> bool {
        (200..300).contains(&self.code)
    }
}

/// Requests in the order of their answers, with the filters that suites need.
#[derive(Debug, Clone, Default)]
pub struct Requests(Vec<Request>);

impl Deref for Requests {
    type Target = [Request];

    fn deref(&self) -> &[Request] {
        &self.0
    }
}

impl Requests {
    /// Those that satisfy the predicate.
    pub fn only(mut self, predicate: impl Fn(&Request) -> bool) -> Self {
        self.0.retain(predicate);
        self
    }

    /// Those of one user.
    pub fn by(self, user: &str) -> Self {
        self.only(|request| request.user == user)
    }

    /// Those that ask to change what is stored, accepted or not.
    pub fn writes(self) -> Self {
        self.only(Request::is_write)
    }

    /// Those that the server did.
    pub fn accepted(self) -> Self {
        self.only(Request::is_accepted)
    }

    /// All but those on Leases.
    pub fn without_leases(self) -> Self {
        self.only(|request| request.resource != "leases")
    }

    /// All but those on Events.
    pub fn without_events(self) -> Self {
        self.only(|request| request.resource != "events")
    }

    /// One line a kind of request with its number, for messages of failed tests.
    pub fn summary(&self) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for request in &self.0 {
            let Request { verb, resource, subresource, user, code, .. } = request;
            let slash = if subresource.is_empty() { "" } else { "/" };
            *counts.entry(format!("{verb} {resource}{slash}{subresource} {code} by {user}")).or_default() += 1;
        }
        counts.into_iter().map(|(request, count)| format!("{count} × {request}\n")).collect()
    }
}

impl IntoIterator for Requests {
    type Item = Request;
    type IntoIter = std::vec::IntoIter<Request>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl AuditLog {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The file, one JSON object a line.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The end of the log now.
    pub fn mark(&self) -> Result<Mark> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) => Ok(Mark(metadata.len())),
            // Nothing was asked yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Mark(0)),
            Err(error) => Err(at(&self.path)(error)),
        }
    }

    /// All requests answered since the mark.
    pub fn since(&self, mark: Mark) -> Result<Requests> {
        let Some(bytes) = self.bytes_since(mark)? else { return Ok(Requests::default()) };
        let text = String::from_utf8_lossy(&bytes);
        let mut requests = Vec::new();
        // A line without its end is still being written.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let event: Event = serde_json::from_str(line).map_err(|source| Error::Audit { path: self.path.clone(), source })?;
            // A watch is logged when it begins; its end adds nothing.
            let counts = if event.verb == "watch" { event.stage == "ResponseStarted" } else { event.stage != "ResponseStarted" };
            if counts {
                requests.push(event.into());
            }
        }
        Ok(Requests(requests))
    }

    /// The log from the first line on that began after the mark: one that was half written then tells of a request from before.
    fn bytes_since(&self, mark: Mark) -> Result<Option<Vec<u8>>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&self.path)(error)),
        };
        let mut bytes = Vec::new();
        let Some(before) = mark.0.checked_sub(1) else {
            file.read_to_end(&mut bytes).map_err(at(&self.path))?;
            return Ok(Some(bytes));
        };
        file.seek(SeekFrom::Start(before)).map_err(at(&self.path))?;
        file.read_to_end(&mut bytes).map_err(at(&self.path))?;
        let first = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
        Ok(Some(bytes.split_off(first)))
    }

    /// All requests since the start of the cluster.
    pub fn all(&self) -> Result<Requests> {
        self.since(Mark(0))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    stage: String,
    #[serde(rename = "requestURI")]
    request_uri: String,
    verb: String,
    user: User,
    impersonated_user: Option<User>,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: ResponseStatus,
    #[serde(default)]
    request_received_timestamp: String,
    #[serde(default)]
    stage_timestamp: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
    #[serde(default)]
    extra: BTreeMap<String, Vec<String>>,
}

impl User {
    fn credential(&self) -> String {
        self.extra.get("authentication.kubernetes.io/credential-id").and_then(|ids| ids.first()).cloned().unwrap_or_default()
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ObjectRef {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ResponseStatus {
    code: u16,
}

impl From<Event> for Request {
    fn from(event: Event) -> Self {
        Self {
            verb: event.verb,
            credential: event.user.credential(),
            user: event.user.username,
            impersonated: event.impersonated_user.map(|user| user.username),
            user_agent: event.user_agent,
            group: event.object_ref.api_group,
            resource: event.object_ref.resource,
            subresource: event.object_ref.subresource,
            namespace: event.object_ref.namespace,
            name: event.object_ref.name,
            code: event.response_status.code,
            uri: event.request_uri,
            received: event.request_received_timestamp,
            answered: event.stage_timestamp,
            annotations: event.annotations,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use super::*;

    fn line(verb: &str) -> String {
        format!("{{\"stage\":\"ResponseComplete\",\"requestURI\":\"/api\",\"verb\":\"{verb}\",\"user\":{{\"username\":\"u\"}}}}\n")
    }

    #[test]
    fn a_line_that_is_half_written_at_the_mark_is_from_before() {
        let path = std::env::temp_dir().join(format!("audit-{}.log", std::process::id()));
        let log = AuditLog::new(path.clone());
        let mut file = File::create(&path).unwrap();
        let before = line("get");
        let (half, rest) = before.split_at(20);
        let seen = |log: &AuditLog, mark: Mark| log.since(mark).unwrap().into_iter().map(|request| request.verb).collect::<Vec<_>>();
        file.write_all(half.as_bytes()).unwrap();
        let within = log.mark().unwrap();
        assert!(seen(&log, within).is_empty());
        file.write_all(rest.as_bytes()).unwrap();
        let between = log.mark().unwrap();
        file.write_all(line("patch").as_bytes()).unwrap();
        assert_eq!(seen(&log, within), ["patch"]);
        assert_eq!(seen(&log, between), ["patch"]);
        assert_eq!(seen(&log, Mark(0)), ["get", "patch"]);
        std::fs::remove_file(path).unwrap();
    }
}
