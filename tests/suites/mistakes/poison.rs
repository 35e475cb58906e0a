//! Objects that the operator can not read, that are as large as can be, or that make it fail.

use std::time::{Duration, Instant};

use aifactory_api::AccessGrant;
use aifactory_tests::{eventually, run};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::discovery::ApiResource;
use serde_json::{Value, json};

use crate::fixture::{NAMESPACE, PATIENCE, World, grant};
use crate::{shared, site};

/// Longest time to Ready of a grant beside poisoned ones; alone it takes well under a second on an idle machine.
const PROMPT: Duration = Duration::from_secs(10);

#[test]
fn a_poisoned_object_delays_nobody_else_and_gets_a_condition() {
    run(async {
        let world = shared().await;
        world.apply(grant("poison-turned")).await;
        let tenant = world.tenant(&world.ready::<AccessGrant>("poison-turned").await);
        let alone = latency(&world, "poison-alone").await;

        let definitions: Api<CustomResourceDefinition> = Api::all(world.hub().admin());
        let strict = serde_json::to_value(definitions.get("accessgrants.aifactory.dev").await.unwrap().spec.versions).unwrap();
        let mut loose = strict.clone();
        loose[0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        set_versions(&definitions, &loose).await;

        let mut unreadable = grant("poison-unreadable");
        unreadable["spec"]["members"] = json!("everybody");
        let mut large = grant("poison-large");
        large["spec"]["organisation"]["name"] = json!("x".repeat(1_000_000));
        let mut annotated = grant("poison-annotated");
        annotated["metadata"]["annotations"] = json!({"example.org/note": "y".repeat(250_000)});
        let mut failing = grant("poison-failing");
        failing["metadata"]["annotations"] = json!({"aifactory.dev/test-panic": "true"});
        for object in [&unreadable, &large, &annotated, &failing] {
            create(&world, object).await;
        }
        raw(&world).patch("poison-turned", &PatchParams::default(), &Patch::Merge(json!({"spec": {"members": "everybody"}}))).await.unwrap();
        set_versions(&definitions, &strict).await;

        for name in ["poison-unreadable", "poison-turned"] {
            await_reason(&world, name, "Undecodable").await;
        }
        // By now the schema refuses what is stored, and what is said of it is written all the same.
        in_force(&world).await;
        for name in ["poison-unreadable", "poison-turned"] {
            let nothing = Patch::Merge(json!({"status": {"conditions": []}}));
            raw(&world).patch_status(name, &PatchParams::default(), &nothing).await.unwrap();
            await_reason(&world, name, "Undecodable").await;
        }
        await_reason(&world, "poison-failing", "InternalError").await;
        let mut beside = Duration::ZERO;
        for index in 0..5 {
            beside = beside.max(latency(&world, &format!("poison-beside-{index}")).await);
        }
        eprintln!("a grant is Ready after {alone:?} alone, after {beside:?} at most beside poisoned ones");
        assert!(beside < PROMPT, "{beside:?}");
        world.ready::<AccessGrant>("poison-annotated").await;
        eventually(PATIENCE, "the large one is worked on or says why not", async || {
            let conditions = raw(&world).get("poison-large").await?.data["status"]["conditions"].clone();
            let decided = |type_: &str| conditions.as_array().into_iter().flatten().any(|found| found["type"] == type_ && found["status"] == "True");
            if decided("Ready") || decided("Stalled") { Ok(()) } else { Err(conditions.to_string().into()) }
        })
        .await
        .unwrap();
        // What can not be read any more loses nothing.
        for cluster in world.federation.sites() {
            assert_eq!(site::state(cluster, &tenant).await.as_deref(), Some("Bound"));
            assert_eq!(site::roles(cluster, &tenant).await.len(), 3);
        }
        let metrics = world.operator.get("/metrics").await.unwrap().1;
        assert!(metrics.contains("panic"), "panics are counted");

        // Whoever mends them is served.
        let members = grant("poison-turned")["spec"]["members"].clone();
        raw(&world).patch("poison-turned", &PatchParams::default(), &Patch::Merge(json!({"spec": {"members": members}}))).await.unwrap();
        let mended = json!({"metadata": {"annotations": {"aifactory.dev/test-panic": null}}});
        raw(&world).patch("poison-failing", &PatchParams::default(), &Patch::Merge(mended)).await.unwrap();
        for name in ["poison-turned", "poison-failing"] {
            world.ready::<AccessGrant>(name).await;
        }
        raw(&world).delete("poison-unreadable", &DeleteParams::default()).await.unwrap();
        let beside = (0..5).map(|index| format!("poison-beside-{index}"));
        for name in ["turned", "failing", "large", "annotated", "alone"].map(|name| format!("poison-{name}")).into_iter().chain(beside) {
            world.delete_grant(&name).await;
            world.gone::<AccessGrant>(&name).await;
        }
        assert!(world.operator.exit_status().is_none());
        world.counted().await;
        world.at_rest(Duration::from_secs(3)).await;
    });
}

fn raw(world: &World) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: "aifactory.dev".into(),
        version: "v1alpha1".into(),
        api_version: "aifactory.dev/v1alpha1".into(),
        kind: "AccessGrant".into(),
        plural: "accessgrants".into(),
    };
    Api::namespaced_with(world.hub().admin(), NAMESPACE, &resource)
}

/// Creates it as soon as the loosened schema is in force.
async fn create(world: &World, object: &Value) {
    let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
    eventually(PATIENCE, "the poisoned object is stored", async || match raw(world).create(&PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(error.into()),
    })
    .await
    .unwrap();
}

async fn set_versions(definitions: &Api<CustomResourceDefinition>, versions: &Value) {
    let patch = json!([{"op": "replace", "path": "/spec/versions", "value": versions}]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(patch).unwrap());
    definitions.patch("accessgrants.aifactory.dev", &PatchParams::default(), &patch).await.unwrap();
}

/// Waits until the schema refuses what is stored.
async fn in_force(world: &World) {
    let mut other: DynamicObject = serde_json::from_value(grant("poison-refused")).unwrap();
    other.data["spec"]["members"] = json!("everybody");
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    eventually(PATIENCE, "the schema is in force", async || match raw(world).create(&dry, &other).await {
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(()),
        answer => Err(format!("{answer:?}").into()),
    })
    .await
    .unwrap();
}

async fn await_reason(world: &World, name: &str, reason: &str) {
    eventually(PATIENCE, format!("{name} says {reason}"), async || {
        let conditions = raw(world).get(name).await?.data["status"]["conditions"].clone();
        let ready = conditions.as_array().into_iter().flatten().find(|found| found["type"] == "Ready").cloned().unwrap_or_default();
        if ready["status"] == "False" && ready["reason"] == reason { Ok(()) } else { Err(conditions.to_string().into()) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()));
}

/// From the first apply to Ready.
async fn latency(world: &World, name: &str) -> Duration {
    let begun = Instant::now();
    world.apply(grant(name)).await;
    world.ready::<AccessGrant>(name).await;
    begun.elapsed()
}
