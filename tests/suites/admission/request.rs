//! Requests as values.

use kube::Client;
use serde_json::Value;

/// One request to an API server.
#[derive(Clone, Debug)]
pub struct Request {
    method: &'static str,
    path: String,
    content_type: &'static str,
    body: Option<Value>,
}

impl Request {
    fn new(method: &'static str, path: impl Into<String>, content_type: &'static str, body: Option<Value>) -> Self {
        Self { method, path: path.into(), content_type, body }
    }

    /// A read.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new("GET", path, "application/json", None)
    }

    /// A create.
    pub fn post(path: impl Into<String>, body: Value) -> Self {
        Self::new("POST", path, "application/json", Some(body))
    }

    /// A replace.
    pub fn put(path: impl Into<String>, body: Value) -> Self {
        Self::new("PUT", path, "application/json", Some(body))
    }

    /// A server-side apply of the operator's, with force.
    pub fn apply(path: impl Into<String>, body: Value) -> Self {
        Self::apply_as("aifactory-site", path, body)
    }

    /// A server-side apply by some field manager, with force.
    pub fn apply_as(manager: &str, path: impl Into<String>, body: Value) -> Self {
        let path = format!("{}?fieldManager={manager}&force=true", path.into());
        Self::new("PATCH", path, "application/apply-patch+yaml", Some(body))
    }

    /// A JSON merge patch.
    pub fn merge(path: impl Into<String>, body: Value) -> Self {
        Self::new("PATCH", path, "application/merge-patch+json", Some(body))
    }

    /// A strategic merge patch.
    pub fn strategic(path: impl Into<String>, body: Value) -> Self {
        Self::new("PATCH", path, "application/strategic-merge-patch+json", Some(body))
    }

    /// A JSON patch.
    pub fn json_patch(path: impl Into<String>, body: Value) -> Self {
        Self::new("PATCH", path, "application/json-patch+json", Some(body))
    }

    /// A delete, or a deletecollection where the path names a collection.
    pub fn delete(path: impl Into<String>) -> Self {
        Self::new("DELETE", path, "application/json", None)
    }

    /// The same as a dry run; a read stays what it is.
    pub fn dry_run(mut self) -> Self {
        if self.method == "GET" || self.path.contains("dryRun=") {
            return self;
        }
        let joint = if self.path.contains('?') { '&' } else { '?' };
        self.path = format!("{}{joint}dryRun=All", self.path);
        self
    }

    /// Sends it; anything but success is an error.
    pub async fn send(&self, client: &Client) -> kube::Result<Value> {
        let body = self.body.as_ref().map(Value::to_string).unwrap_or_default().into_bytes();
        let request = http::Request::builder()
            .method(self.method)
            .uri(&self.path)
            .header(http::header::CONTENT_TYPE, self.content_type)
            .body(body)
            .map_err(kube::Error::HttpError)?;
        let text = client.request_text(request).await?;
        Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }
}

/// Path of a namespaced object, or of a collection where `name` is empty. `api` is `v1` or `group/version`.
pub fn namespaced(api: &str, namespace: &str, resource: &str, name: &str) -> String {
    format!("{}/namespaces/{namespace}/{}", root(api), joined(resource, name))
}

/// Path of a cluster-scoped object, or of a collection where `name` is empty.
pub fn cluster(api: &str, resource: &str, name: &str) -> String {
    format!("{}/{}", root(api), joined(resource, name))
}

fn root(api: &str) -> String {
    if api.contains('/') { format!("/apis/{api}") } else { format!("/api/{api}") }
}

fn joined(resource: &str, name: &str) -> String {
    if name.is_empty() { resource.to_owned() } else { format!("{resource}/{name}") }
}
