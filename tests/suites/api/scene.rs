//! An API server with the three definitions and nothing else of ours.

use std::ffi::OsStr;
use std::process::Stdio;

use aifactory_tests::{Cluster, ClusterOptions, Federation, Result, layout};
use kube::Client;
use kube::core::response::StatusCause;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::OnceCell;

/// Namespace of the objects that tests make up.
pub const TEAM: &str = "team";
const API: &str = "/apis/aifactory.dev/v1alpha1";

static SCENE: OnceCell<Scene> = OnceCell::const_new();

/// One for all tests.
pub async fn scene() -> Result<&'static Scene> {
    SCENE
        .get_or_try_init(async || {
            let hub = ClusterOptions::hub("hub").controller_manager(false);
            let federation = Federation::builder().name("api").hub(hub).start().await?;
            federation.hub().apply_path(layout::root().join("crds")).await?;
            federation.hub().ensure_namespace(TEAM).await?;
            Ok(Scene { federation })
        })
        .await
}

pub struct Scene {
    federation: Federation,
}

/// Exit code and output of kubectl.
pub struct Output {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Scene {
    pub fn hub(&self) -> &Cluster {
        self.federation.hub()
    }

    pub fn client(&self) -> Client {
        self.hub().admin()
    }

    /// Runs kubectl as a user would.
    pub async fn kubectl(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> std::io::Result<Output> {
        let kubeconfig = self.hub().directory().join("admin.kubeconfig");
        let output = Command::new(layout::root().join("target/control-plane/bin/kubectl"))
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("--cache-dir")
            .arg(self.federation.directory().join("kubectl"))
            .args(arguments)
            .current_dir(layout::root())
            .stdin(Stdio::null())
            .output()
            .await?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Output { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) })
    }

    /// Runs kubectl, and gives what it printed.
    pub async fn kubectl_ok(&self, arguments: &[&str]) -> std::result::Result<String, Box<dyn std::error::Error>> {
        let output = self.kubectl(arguments).await?;
        if output.code == Some(0) { Ok(output.out) } else { Err(format!("kubectl {}: {}{}", arguments.join(" "), output.out, output.err).into()) }
    }

    /// Creates an object in its namespace, as strictly as kubectl does.
    pub async fn create(&self, object: &Value, dry_run: bool) -> kube::Result<Value> {
        self.send("POST", &collection(object), object, dry_run).await
    }

    /// Replaces an object.
    pub async fn replace(&self, object: &Value, dry_run: bool) -> kube::Result<Value> {
        self.send("PUT", &path(object), object, dry_run).await
    }

    /// Merges into an object's status.
    pub async fn patch_status(&self, object: &Value, status: Value) -> kube::Result<Value> {
        self.send("PATCH", &format!("{}/status", path(object)), &json!({ "status": status }), false).await
    }

    pub async fn get(&self, object: &Value) -> kube::Result<Value> {
        self.send("GET", &path(object), &Value::Null, false).await
    }

    pub async fn send(&self, method: &str, path: &str, body: &Value, dry_run: bool) -> kube::Result<Value> {
        let dry_run = if dry_run { "&dryRun=All" } else { "" };
        let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{path}?fieldValidation=Strict{dry_run}"))
            .header(http::header::CONTENT_TYPE, content_type)
            .body(if body.is_null() { Vec::new() } else { body.to_string().into_bytes() })
            .map_err(kube::Error::HttpError)?;
        self.client().request(request).await
    }
}

fn collection(object: &Value) -> String {
    let plural = match object["kind"].as_str() {
        Some("AIFactory") => "aifactories",
        Some("GPUPool") => "gpupools",
        _ => "accessgrants",
    };
    format!("{API}/namespaces/{}/{plural}", object["metadata"]["namespace"].as_str().unwrap_or(TEAM))
}

fn path(object: &Value) -> String {
    format!("{}/{}", collection(object), object["metadata"]["name"].as_str().unwrap_or_default())
}

/// What a refusal complains of, one line each, as `field: message`.
pub fn complaints(error: &kube::Error) -> Vec<String> {
    let kube::Error::Api(status) = error else { return vec![error.to_string()] };
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    let complaint = |cause: &StatusCause| format!("{}: {}", cause.field, cause.message);
    let mut lines: Vec<String> =
        causes.iter().filter(|cause| !cause.message.contains("some validation rules were not checked")).map(complaint).collect();
    lines.dedup();
    if lines.is_empty() { vec![status.message.clone()] } else { lines }
}
