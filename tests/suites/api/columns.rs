//! `kubectl get` fits on a line.

use aifactory_api::{AccessGrant, Reason};
use aifactory_tests::{examples, layout, run};
use serde_json::{Value, json};

use super::Outcome;
use super::scene::scene;

const WIDTH: usize = 100;

/// A status as long as it gets: a large system in trouble, for the longest of reasons.
fn status(object: &Value) -> Result<Value, serde_json::Error> {
    let reason = Reason::ALL.iter().map(|reason| reason.as_str()).max_by_key(|reason| reason.len()).unwrap_or_default();
    let conditions = json!([{
        "type": "Ready", "status": "False", "reason": reason, "message": "what is wrong, and what to do", "lastTransitionTime": "2026-11-20T00:00:00Z",
    }]);
    Ok(match object["kind"].as_str() {
        Some("AIFactory") => json!({"conditions": conditions, "summary": {"sites": "63/64", "gpus": "13824/27648", "grants": 200}}),
        Some("GPUPool") => json!({"conditions": conditions, "summary": {"nodes": "16/24", "gpus": "128/192"}, "gpuHours": {"committed": 9000000}}),
        _ => {
            let grant: AccessGrant = serde_json::from_value(object.clone())?;
            let hours: i64 = grant.spec.pools.iter().map(|entry| entry.gpu_hours).sum();
            let organisation = grant.spec.organisation.short_name();
            let summary = json!({"organisation": organisation, "sites": "0/3", "gpuHours": hours.to_string(), "expires": "2027-11-10"});
            json!({"phase": "Scheduled", "conditions": conditions, "summary": summary})
        }
    })
}

#[test]
fn lines_are_short() -> Outcome {
    run(async {
        let scene = scene().await?;
        let mut complaints = Vec::new();
        for example in ["antenna", "gigafactory", "local", "slurm", "two-sites"] {
            let namespace = format!("columns-{example}");
            scene.hub().ensure_namespace(&namespace).await?;
            for object in examples(&layout::root().join("examples").join(example))?.objects() {
                let mut object = serde_json::to_value(object)?;
                if object["apiVersion"] != "aifactory.dev/v1alpha1" {
                    continue;
                }
                object["metadata"]["namespace"] = json!(namespace);
                scene.create(&object, false).await?;
                scene.patch_status(&object, status(&object)?).await?;
            }
            for (kind, columns) in [
                ("aifactories", "NAME TYPE SITES GPUS GRANTS READY REASON AGE"),
                ("gpupools", "NAME FACTORY ACCELERATOR NODES GPUS READY REASON AGE"),
                ("accessgrants", "NAME ORG SITES GPUHOURS EXPIRES PHASE READY AGE"),
            ] {
                let out = scene.kubectl_ok(&["get", kind, "-n", &namespace]).await?;
                let Some(header) = out.lines().next() else { continue };
                assert_eq!(header.split_whitespace().collect::<Vec<_>>().join(" "), columns);
                // The age is of seconds here, and of four characters in a year.
                let width = out.lines().filter_map(|line| line.rsplit_once("   ")).map(|(line, _)| line.chars().count() + 3 + 4).max();
                if width > Some(WIDTH) {
                    complaints.push(format!("{width:?} characters:\n{out}"));
                }
            }
        }
        if complaints.is_empty() { Ok(()) } else { Err(complaints.join("\n").into()) }
    })
}
