//! What is sent to a site, and when, against an API server that never answers.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::future;

use aifactory_api::{Kind, OwnerRef};
use aifactory_plan::model::id::HubId;
use aifactory_plan::model::object::{Object, ObjectKey, ObjectKind, Ownership};
use aifactory_plan::model::plan::{Action, Purpose, Step};
use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio::sync::mpsc;

use super::{Applier, RESERVED};

/// Requests that give something, at a time.
const CAP: usize = 2;

fn owner() -> OwnerRef {
    OwnerRef::new(Kind::AccessGrant, "example", "vision")
}

fn binding(index: usize) -> ObjectKey {
    ObjectKey::namespaced(ObjectKind::ROLE_BINDING, "aif-vision", format!("aif-member-{index:010}"))
}

fn give(index: usize) -> Step {
    let object = Object::new(binding(index), &Ownership::new(&HubId::new("hub"), &owner(), "u-1"), json!({}));
    Step { purpose: Purpose::Establish, actions: vec![Action::Apply(object)] }
}

fn remove(index: usize) -> Step {
    Step { purpose: Purpose::RemoveAccess, actions: vec![Action::Delete { key: binding(index), uid: None }] }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_access_does_not_wait_until_other_requests_are_answered() {
    let (sent, mut seen) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: Request<Body>| {
        sent.send(request.method().clone()).unwrap();
        future::pending::<Result<Response<Body>, Infallible>>()
    });
    let applier = Applier::new(Client::new(service, "default"), &HubId::new("hub"), CAP);
    let begin = |step: Step| {
        let applier = applier.clone();
        tokio::spawn(async move { applier.execute(&owner(), vec![step]).await })
    };
    for index in 0..CAP + 1 {
        begin(give(index));
    }
    for _ in 0..CAP {
        assert_eq!(seen.recv().await, Some(Method::PATCH));
    }
    for index in 0..RESERVED {
        begin(remove(index));
        assert_eq!(seen.recv().await, Some(Method::DELETE));
    }
    tokio::task::yield_now().await;
    assert!(seen.try_recv().is_err(), "what gives something waits");
}
