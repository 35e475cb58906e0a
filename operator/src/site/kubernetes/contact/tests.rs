//! Contact with an API server that is a function, which keeps what was asked.

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};
use tower::{BoxError, service_fn};

use super::*;
use crate::site::fake_hub::{FakeHub, site_intent};

/// A site's API server.
#[derive(Clone, Default)]
struct Site {
    /// The data of its claim; `None`: there is none.
    claim: Option<Value>,
    /// What it answers to dry runs.
    dry_run: Option<(u16, &'static str)>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Site {
    async fn connect(&self, intent: &SiteIntent) -> Result<Session, NoContact> {
        let site = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let (code, answer) = site.answer(&request);
            let response = serde_json::to_vec(&answer).map(|body| Response::builder().status(code).body(Body::from(body)).unwrap());
            async move { response.map_err(BoxError::from) }
        });
        let client = Client::new(service, "default");
        let mut reader = FakeHub::default().reader();
        reader.local = Clients { rpc: client.clone(), watch: client };
        connect(&reader, &CredentialSource::Local, intent).await
    }

    async fn connected(&self) -> Session {
        match self.connect(&site_intent(None)).await {
            Ok(session) => session,
            Err(NoContact { problem, .. }) => panic!("{problem:?} after {:?}", self.asked.lock().unwrap()),
        }
    }

    fn answer(&self, request: &Request<Body>) -> (StatusCode, Value) {
        let path = request.uri().path();
        let dry = request.uri().query().is_some_and(|query| query.contains("dryRun=All"));
        self.asked.lock().unwrap().push(format!("{}{} {path}", request.method(), if dry { " as a dry run" } else { "" }));
        let status = |code: u16, message: &str| {
            let reason = match code {
                403 => "Forbidden",
                404 => "NotFound",
                422 => "Invalid",
                _ => "",
            };
            let status = json!({"kind": "Status", "status": "Failure", "reason": reason, "code": code, "message": message});
            (StatusCode::from_u16(code).unwrap(), status)
        };
        match (request.method(), path) {
            (&Method::GET, "/version") => {
                let names = ["major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"];
                (StatusCode::OK, names.into_iter().map(|name| (name.to_owned(), json!("1"))).collect())
            }
            (&Method::GET, "/api/v1/namespaces/kube-system") => (StatusCode::OK, json!({"metadata": {"name": "kube-system", "uid": "cluster"}})),
            (&Method::GET, "/apis") => (StatusCode::OK, json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})),
            (&Method::GET, path) if path.ends_with("/aifactory-claim") => match &self.claim {
                Some(data) => (StatusCode::OK, json!({"metadata": {"name": "aifactory-claim"}, "data": data})),
                None => status(404, "not found"),
            },
            (&Method::GET, path) if path.contains("/validatingadmissionpolicybindings/") => {
                let name = path.rsplit('/').next().unwrap_or_default();
                (StatusCode::OK, json!({"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}}))
            }
            (_, _) if dry => {
                let (code, message) = self.dry_run.unwrap_or((403, "ValidatingAdmissionPolicy 'aifactory-site-x' denied request"));
                status(code, message)
            }
            (&Method::PATCH, path) if path.ends_with("/aifactory-claim") => {
                (StatusCode::OK, json!({"metadata": {"name": "aifactory-claim"}, "data": {"hub": "hub", "factory": "team/factory", "site": "site"}}))
            }
            _ => status(404, "not found"),
        }
    }

    fn writes(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().filter(|asked| !asked.starts_with("GET") && !asked.contains("dry run")).cloned().collect()
    }
}

fn ours() -> Option<Value> {
    Some(json!({"hub": "hub", "factory": "team/factory", "site": "site"}))
}

#[tokio::test]
async fn a_site_is_claimed_where_its_policies_guard_it() {
    let site = Site::default();
    let session = site.connected().await;
    assert!(session.claimed && session.unguarded.is_none());
    assert_eq!(site.writes().len(), 1, "{:?}", site.writes());
}

#[tokio::test]
async fn nothing_is_asked_but_reads_before_the_hub_has_stored_that_the_site_may_hold_something() {
    let site = Site::default();
    let mut intent = site_intent(None);
    intent.recorded = false;
    let Err(NoContact { problem, cluster_uid }) = site.connect(&intent).await else { panic!("a session") };
    assert_eq!((problem.reason, problem.stalled, cluster_uid.as_deref()), (Reason::Pending, false, Some("cluster")));
    let asked = site.asked.lock().unwrap();
    assert!(asked.iter().all(|asked| asked.starts_with("GET ")), "{asked:?}");
}

#[tokio::test]
async fn a_webhook_that_is_down_keeps_nothing_from_being_taken_away() {
    let down = Some((500, "failed calling webhook \"x.example.org\": no endpoints"));
    for (claim, claimed) in [(ours(), true), (None, false), (Some(json!({"hub": ""})), false)] {
        let site = Site { claim, dry_run: down, ..Site::default() };
        let session = site.connected().await;
        let unguarded = session.unguarded.unwrap();
        assert_eq!((session.claimed, unguarded.reason), (claimed, Reason::SiteError));
        assert!(unguarded.message.contains("only access is taken away"), "{}", unguarded.message);
        assert!(site.writes().is_empty(), "{:?}", site.writes());
    }
    // A site of somebody else is not touched at all.
    let site = Site { claim: Some(json!({"hub": "other", "factory": "a/b", "site": "c"})), dry_run: down, ..Site::default() };
    let Err(refused) = site.connect(&site_intent(None)).await else { panic!("a session") };
    assert_eq!(refused.problem.reason, Reason::SiteClaimed);
}

#[tokio::test]
async fn where_policies_let_pass_what_they_must_refuse_only_access_is_taken_away() {
    let site = Site { dry_run: Some((422, "name is invalid")), ..Site::default() };
    let session = site.connected().await;
    assert_eq!(session.unguarded.map(|problem| problem.reason), Some(Reason::SitePoliciesMissing));
    assert!(!session.claimed && site.writes().is_empty());
}
