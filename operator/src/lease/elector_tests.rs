//! Elections on an API server of one object, with a clock that tests move.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Method, Request, Response, StatusCode};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, advance, sleep, timeout},
};
use tower::{BoxError, service_fn};

use super::Elector;
use crate::lease::{Leadership, LeaseError, LeaseSettings};

#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lease: Option<Value>,
    version: u64,
    writes: usize,
    silent: bool,
}

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                if server.0.lock().unwrap().silent {
                    std::future::pending::<()>().await;
                }
                let (code, answer) = server.answer(&parts.method, &body);
                Ok::<_, BoxError>(Response::builder().status(code).body(Body::from(serde_json::to_vec(&answer)?))?)
            }
        });
        Client::new(service, "default")
    }

    fn answer(&self, method: &Method, body: &[u8]) -> (StatusCode, Value) {
        let fail = |code: StatusCode, reason: &str| {
            (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code.as_u16(), "message": reason}))
        };
        let mut state = self.0.lock().unwrap();
        if method == Method::GET {
            return state.lease.clone().map_or_else(|| fail(StatusCode::NOT_FOUND, "NotFound"), |lease| (StatusCode::OK, lease));
        }
        let sent: Value = serde_json::from_slice(body).unwrap();
        let mut lease = match (method, state.lease.clone()) {
            (&Method::POST, None) => sent.clone(),
            (&Method::POST, Some(_)) => return fail(StatusCode::CONFLICT, "AlreadyExists"),
            (_, None) => return fail(StatusCode::NOT_FOUND, "NotFound"),
            (_, Some(lease)) if lease["metadata"]["resourceVersion"] != sent["metadata"]["resourceVersion"] => {
                return fail(StatusCode::CONFLICT, "Conflict");
            }
            (_, Some(mut lease)) => {
                for (field, value) in sent["spec"].as_object().unwrap() {
                    lease["spec"][field] = value.clone();
                }
                lease
            }
        };
        state.version += 1;
        state.writes += 1;
        lease["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.lease = Some(lease.clone());
        (StatusCode::OK, lease)
    }

    fn edit(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }

    fn holder(&self) -> String {
        self.0
            .lock()
            .unwrap()
            .lease
            .as_ref()
            .map_or_else(String::new, |lease| lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
    }
}

struct Candidate {
    leadership: Leadership,
    task: JoinHandle<Result<(), LeaseError>>,
    stop: oneshot::Sender<()>,
}

fn settings(identity: &str) -> LeaseSettings {
    LeaseSettings {
        namespace: "aifactory-system".to_owned(),
        name: "aifactory-operator".to_owned(),
        identity: identity.to_owned(),
        lease_duration: Duration::from_secs(15),
        renew_interval: Duration::from_secs(5),
        renew_deadline: Duration::from_secs(10),
    }
}

fn stand(server: &Server, identity: &str) -> Candidate {
    let (elector, leadership) = Elector::new(server.client(), settings(identity)).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(elector.run(async {
        let _ = stopped.await;
    }));
    Candidate { leadership, task, stop }
}

async fn leads(candidate: &mut Candidate, within: Duration) -> bool {
    timeout(within, candidate.leadership.acquired()).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_keeps_leading() {
    let server = Server::default();
    let mut first = stand(&server, "first");
    assert!(leads(&mut first, Duration::from_secs(1)).await);
    let mut second = stand(&server, "second");
    assert!(!leads(&mut second, Duration::from_secs(300)).await);
    assert!(first.leadership.is_leader() && !second.leadership.is_leader());
    assert!(first.leadership.gate().is_open() && !second.leadership.gate().is_open());
    let renewals = server.0.lock().unwrap().writes;
    assert!((58..=62).contains(&renewals), "{renewals}");
}

#[tokio::test(start_paused = true)]
async fn a_release_passes_the_lease_on_at_once() {
    let server = Server::default();
    let mut first = stand(&server, "first");
    assert!(leads(&mut first, Duration::from_secs(1)).await);
    let mut second = stand(&server, "second");
    sleep(Duration::from_secs(7)).await;
    first.stop.send(()).unwrap();
    first.task.await.unwrap().unwrap();
    assert!(!first.leadership.is_leader() && !first.leadership.gate().is_open());
    assert!(leads(&mut second, Duration::from_secs(3)).await);
    assert_eq!(server.holder(), "second");
    assert_eq!(server.0.lock().unwrap().lease.as_ref().unwrap()["spec"]["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_leader_is_followed_only_after_its_lease() {
    let server = Server::default();
    let mut first = stand(&server, "first");
    assert!(leads(&mut first, Duration::from_secs(1)).await);
    first.task.abort();
    let _ = (&mut first.task).await;
    let began = Instant::now();
    let mut second = stand(&server, "second");
    assert!(leads(&mut second, Duration::from_secs(60)).await);
    assert!(began.elapsed() >= Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(began.elapsed() <= Duration::from_secs(18), "{:?}", began.elapsed());
    assert!(!first.leadership.gate().is_open());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_can_not_renew_ends_before_others_may_start() {
    let server = Server::default();
    let mut first = stand(&server, "first");
    assert!(leads(&mut first, Duration::from_secs(1)).await);
    let began = Instant::now();
    server.edit(|state| state.silent = true);
    let error = first.task.await.unwrap().unwrap_err();
    assert!(matches!(error, LeaseError::Expired { .. }), "{error}");
    assert!(began.elapsed() <= Duration::from_secs(14), "{:?}", began.elapsed());
    assert!(!first.leadership.gate().is_open());
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_is_survived() {
    let server = Server::default();
    let mut first = stand(&server, "first");
    assert!(leads(&mut first, Duration::from_secs(1)).await);
    sleep(Duration::from_millis(4_900)).await;
    server.edit(|state| state.silent = true);
    sleep(Duration::from_secs(3)).await;
    server.edit(|state| state.silent = false);
    sleep(Duration::from_secs(60)).await;
    assert!(first.leadership.is_leader() && !first.task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_writes_nothing_more() {
    let server = Server::default();
    let mut first = stand(&server, "first");
    assert!(leads(&mut first, Duration::from_secs(1)).await);
    // The clock runs on while the process stands still.
    advance(Duration::from_secs(11)).await;
    assert!(!first.leadership.gate().is_open());
    let writes = server.0.lock().unwrap().writes;
    assert!(matches!(first.task.await.unwrap(), Err(LeaseError::Expired { .. })));
    assert_eq!(server.0.lock().unwrap().writes, writes);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_taken_ends_the_leader() {
    let server = Server::default();
    let mut first = stand(&server, "first");
    assert!(leads(&mut first, Duration::from_secs(1)).await);
    server.edit(|state| {
        let lease = state.lease.as_mut().unwrap();
        lease["spec"]["holderIdentity"] = json!("thief");
        lease["metadata"]["resourceVersion"] = json!("x");
    });
    let error = first.task.await.unwrap().unwrap_err();
    assert!(matches!(&error, LeaseError::Taken { holder, .. } if holder == "thief"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn edits_by_others_and_deletion_cost_nobody_the_lead() {
    let server = Server::default();
    let mut first = stand(&server, "first");
    assert!(leads(&mut first, Duration::from_secs(1)).await);
    let mut second = stand(&server, "second");
    for _ in 0..5 {
        sleep(Duration::from_secs(7)).await;
        server.edit(|state| {
            state.version += 1;
            state.lease.as_mut().unwrap()["metadata"]["resourceVersion"] = json!(state.version.to_string());
        });
    }
    server.edit(|state| state.lease = None);
    sleep(Duration::from_secs(20)).await;
    assert!(first.leadership.is_leader());
    assert_eq!(server.holder(), "first");
    assert!(!leads(&mut second, Duration::from_secs(60)).await);
}

#[test]
fn durations_must_leave_room_for_one_another() {
    let valid = settings("a");
    assert!(valid.validate().is_ok());
    assert!(LeaseSettings { renew_deadline: Duration::from_secs(15), ..valid.clone() }.validate().is_err());
    assert!(LeaseSettings { renew_interval: Duration::from_secs(10), ..valid.clone() }.validate().is_err());
    assert!(LeaseSettings { renew_interval: Duration::ZERO, ..valid }.validate().is_err());
    assert_ne!(super::super::identity("pod"), super::super::identity("pod"));
}
