//! Attacks through templates: controllers make the Pods and claims under their own identities, and members must see the refusal all the same.

use aifactory_tests::eventually;
use serde_json::{Value, json};

use crate::admission::request::namespaced;
use crate::admission::{Request, passes};
use crate::scene::*;
use crate::{Outcome, run, scene};

fn attacks() -> Vec<(&'static str, Request, &'static str)> {
    let jobs = namespaced("batch/v1", ONE, "jobs", "");
    let apps = |resource: &str| namespaced("apps/v1", ONE, resource, "");
    let volume = |change: Value| {
        let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        json!({"serviceName": "x", "volumeClaimTemplates": [crate::admission::objects::with(claim, change)]})
    };
    let by_job = |name: &str, change: Value| Request::post(jobs.clone(), job(name, json!({}), change));
    vec![
        ("stays", by_job("stays", json!({"metadata": {"finalizers": ["example.org/stay"]}})), "aifactory-tenant-pods"),
        ("first", by_job("first", json!({"spec": {"priorityClassName": "system-cluster-critical"}})), "aifactory-tenant-priority"),
        ("astray", by_job("astray", json!({"spec": {"nodeSelector": {"aifactory.dev/pool": "a100"}}})), "aifactory-tenant-pods"),
        (
            "tolerant",
            Request::post(
                apps("deployments"),
                workload("Deployment", "tolerant", json!({}), json!({"spec": {"tolerations": [{"operator": "Exists"}]}})),
            ),
            "aifactory-tenant-pods",
        ),
        (
            "taker",
            Request::post(apps("statefulsets"), workload("StatefulSet", "taker", volume(json!({"spec": {"volumeName": "theirs"}})), json!({}))),
            "aifactory-tenant-volume-claims",
        ),
        (
            "holder",
            Request::post(
                apps("statefulsets"),
                workload("StatefulSet", "holder", volume(json!({"metadata": {"finalizers": ["example.org/stay"]}})), json!({})),
            ),
            "aifactory-tenant-volume-claims",
        ),
    ]
}

#[test]
fn templates_carry_nothing_past_the_policies() -> Outcome {
    run(async {
        let scene = scene().await?;
        for (name, request, _) in attacks() {
            passes(&scene.member, name, &request).await?;
        }
        for (name, _, policy) in attacks() {
            eventually(LONG, format!("an Event says why {name} has no Pod"), async || {
                let events = Request::get(namespaced("v1", ONE, "events", "")).send(&scene.member).await?;
                let refused = events["items"].as_array().into_iter().flatten().any(|event| {
                    let object = event["involvedObject"]["name"].as_str().unwrap_or_default();
                    let message = event["message"].as_str().unwrap_or_default();
                    (object == name || object.starts_with(&format!("{name}-"))) && message.contains(&format!("'{policy}'"))
                });
                if refused { Ok(()) } else { Err("no such Event".into()) }
            })
            .await?;
        }
        let list = Request::get(pods(ONE)).send(&scene.member).await?;
        for pod in list["items"].as_array().into_iter().flatten() {
            let label = pod["metadata"]["labels"]["app"].as_str().unwrap_or_default();
            assert!(!attacks().iter().any(|(name, _, _)| *name == label), "{label} has a Pod");
        }
        Ok(())
    })
}
