//! The end of a grant while work runs: nothing may get stuck, whatever the controllers still have to write.

use aifactory_tests::eventually;
use serde_json::json;

use crate::admission::objects::*;
use crate::admission::request::namespaced;
use crate::admission::{By, Request, Row, all_refused, passes};
use crate::scene::*;
use crate::{Outcome, run, scene};

const ENDING: &str = "aif-ending-0123456789";

#[test]
fn ending_with_jobs_running_leaves_nothing_stuck() -> Outcome {
    run(async {
        let scene = scene().await?;
        scene.tenant(ENDING, tenant(ENDING, "Bound", &["h100"])).await?;
        start_work(scene).await?;
        let ending = |what| {
            work_paths(ENDING)
                .into_iter()
                .take(2)
                .map(move |path| Row::new("end", what, Request::delete(path), &[By::Policy("aifactory-site-namespaced")]))
        };
        all_refused(&scene.operator, &ending("while the grant lives").collect::<Vec<_>>()).await?;

        scene.write(namespace_path(ENDING), tenant(ENDING, "Locked", &[])).await?;
        for path in work_paths(ENDING) {
            // The Namespace's new label reaches every part of the API server within moments.
            eventually(LONG, format!("{path} ended"), async || {
                Request::delete(path.clone()).send(&scene.operator).await.map(drop).map_err(Into::into)
            })
            .await?;
        }
        let admin = scene.admin();
        eventually(LONG, "no work is left", async || {
            for path in work_paths(ENDING) {
                let list = Request::get(path.clone()).send(&admin).await?;
                if let Some(left) = list["items"].as_array().into_iter().flatten().next() {
                    return Err(format!("{path}: {}", left["metadata"]).into());
                }
            }
            Ok(())
        })
        .await?;
        passes(&scene.operator, "the Namespace deleted", &Request::delete(namespace_path(ENDING))).await?;
        eventually(LONG, "the Namespace is gone", async || match Request::get(namespace_path(ENDING)).send(&admin).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Ok(namespace) => Err(namespace["status"].to_string().into()),
            Err(error) => Err(error.into()),
        })
        .await?;
        Ok(())
    })
}

/// A Job that runs, one that can not be scheduled, so that its Pods keep the finalizer which the Job controller must take off, and workloads of all kinds.
async fn start_work(scene: &Scene) -> Outcome {
    let jobs = namespaced("batch/v1", ENDING, "jobs", "");
    let apps = |resource: &str| namespaced("apps/v1", ENDING, resource, "");
    let nowhere = json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "nowhere"}}});
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "nightly"},
        "spec": {"schedule": "0 0 * * *", "jobTemplate": {"spec": job("x", json!({}), json!({}))["spec"]}}});
    for (what, request) in [
        ("a Job that runs", Request::post(jobs.clone(), job("runs", json!({"parallelism": 2, "completions": 500, "backoffLimit": 0}), json!({})))),
        ("a Job that waits", Request::post(jobs, job("waits", json!({"parallelism": 3, "completions": 3}), nowhere))),
        ("a Deployment", Request::post(apps("deployments"), workload("Deployment", "serves", json!({"replicas": 2}), json!({})))),
        ("a StatefulSet", Request::post(apps("statefulsets"), workload("StatefulSet", "keeps", json!({"serviceName": "x"}), json!({})))),
        ("a CronJob", Request::post(namespaced("batch/v1", ENDING, "cronjobs", ""), cron)),
        ("a Pod", Request::post(pods(ENDING), pod("alone", json!({})))),
    ] {
        passes(&scene.member, what, &request).await?;
    }
    let admin = scene.admin();
    eventually(LONG, "Jobs run and wait", async || {
        let list = Request::get(pods(ENDING)).send(&admin).await?;
        let of = |label: &str| {
            let tracked = json!(["batch.kubernetes.io/job-tracking"]);
            list["items"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|pod| pod["metadata"]["labels"]["app"] == label && (label == "serves" || pod["metadata"]["finalizers"] == tracked))
                .count()
        };
        if of("runs") > 0 && of("waits") == 3 && of("serves") == 2 {
            Ok(())
        } else {
            Err(format!("{} {} {}", of("runs"), of("waits"), of("serves")).into())
        }
    })
    .await?;
    Ok(())
}
