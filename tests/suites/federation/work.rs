//! Real controllers and a scheduler work, on nodes that are played.

use std::time::{Duration, Instant};

use aifactory_tests::{GpuNode, eventually, holds, run};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use crate::{LONG, shared};

#[test]
fn namespaces_go_with_all_that_is_in_them() {
    run(async {
        let site = shared().await.site("bissen").unwrap();
        site.apply(
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: kept, namespace: leaving}}\n---\n\
             {apiVersion: v1, kind: Namespace, metadata: {name: leaving}}\n",
        )
        .await
        .expect("a Namespace is applied before what is in it");
        let namespaces: Api<Namespace> = Api::all(site.admin());
        namespaces.delete("leaving", &DeleteParams::default()).await.unwrap();
        let started = Instant::now();
        eventually(LONG, "the Namespace is gone", async || match namespaces.get_opt("leaving").await? {
            None => Ok(()),
            Some(namespace) => Err(format!("{:?}", namespace.status).into()),
        })
        .await
        .unwrap();
        eprintln!("a Namespace went within {:?}", started.elapsed());
    });
}

#[test]
fn gpu_pods_run_on_played_nodes() {
    run(async {
        let site = shared().await.site("bettembourg").unwrap();
        let node = GpuNode::new("gpu-1", 4).product("NVIDIA-H100-80GB-HBM3").label("rack", "7");
        site.add_node(node).await.unwrap();
        let node = site.await_node("gpu-1", LONG).await.unwrap();
        let capacity = node.status.unwrap_or_default().capacity.unwrap_or_default();
        assert_eq!(capacity["nvidia.com/gpu"].0, "4", "KWOK keeps the capacity");
        site.add_node(GpuNode::new("kept-by-site", 8).offered(false)).await.unwrap();
        let offered = ListParams::default().labels("site.aifactory.dev/offered=true");
        assert_eq!(Api::<Node>::all(site.admin()).list(&offered).await.unwrap().items.len(), 1);

        let pod = |name: &str, gpus: u32| {
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
                "spec": {
                    "nodeSelector": {"rack": "7"},
                    "containers": [{"name": "train", "image": "registry.invalid/train:1",
                        "resources": {"limits": {"nvidia.com/gpu": gpus.to_string()}}}],
                },
            })
            .to_string()
        };
        let started = Instant::now();
        site.apply(&pod("train", 4)).await.unwrap();
        let running = site.await_pod("default", "train", "Running", LONG).await.unwrap();
        eprintln!("a Pod ran within {:?}", started.elapsed());
        assert_eq!(running.spec.unwrap().node_name.as_deref(), Some("gpu-1"));
        site.apply(&pod("waits", 1)).await.unwrap();
        holds(Duration::from_secs(1), "a fifth GPU is not given", async || {
            let waiting = site.await_pod("default", "waits", "Pending", Duration::from_secs(1)).await?;
            match waiting.spec.unwrap().node_name {
                None => Ok(()),
                Some(node) => Err(node.into()),
            }
        })
        .await
        .unwrap();
        site.delete(&pod("train", 4)).await.unwrap();
        site.await_pod("default", "waits", "Running", LONG).await.unwrap();
        site.remove_node("kept-by-site").await.unwrap();
    });
}

#[test]
fn jobs_run_under_real_controllers_to_their_end() {
    run(async {
        let site = shared().await.site("bettembourg").unwrap();
        site.add_node(GpuNode::new("gpu-2", 8).label("rack", "8")).await.unwrap();
        let mark = site.audit().mark().unwrap();
        site.apply(
            "{apiVersion: batch/v1, kind: Job, metadata: {name: short, namespace: default}, spec: {template: {spec: {
               restartPolicy: Never, nodeSelector: {rack: '8'}, containers: [{name: work, image: registry.invalid/w}]}}}}",
        )
        .await
        .unwrap();
        let jobs: Api<k8s_openapi::api::batch::v1::Job> = Api::namespaced(site.admin(), "default");
        eventually(LONG, "the Job succeeded", async || match jobs.get("short").await?.status.unwrap_or_default() {
            status if status.succeeded == Some(1) => Ok(()),
            status => Err(format!("{status:?}").into()),
        })
        .await
        .unwrap();
        let requests = site.audit().since(mark).unwrap();
        let controller = requests.by("system:serviceaccount:kube-system:job-controller").writes();
        assert!(controller.iter().any(|write| write.verb == "create" && write.resource == "pods"));
    });
}

#[test]
fn manifests_with_their_own_kinds_apply_in_one_go() {
    run(async {
        let hub = shared().await.hub();
        let text = r#"
apiVersion: bench.example.org/v1
kind: Bench
metadata: {name: one, namespace: benches}
spec: {length: 2}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: benches.bench.example.org}
spec:
  group: bench.example.org
  scope: Namespaced
  names: {plural: benches, singular: bench, kind: Bench}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {length: {type: integer}}}}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: benches}}
"#;
        let applied = hub.apply(text).await.unwrap();
        assert_eq!(applied.len(), 3);
        let refused = hub.apply(&text.replace("length: 2", "length: two")).await.unwrap_err().to_string();
        assert!(refused.contains("document 1") && refused.contains("Bench one"), "{refused}");
        hub.delete(text).await.unwrap();
        hub.delete("{apiVersion: v1, kind: ConfigMap, metadata: {name: never}}").await.unwrap();
    });
}
