//! What tools that wait for readiness read, and that it does not matter how objects were applied.

use std::path::PathBuf;
use std::time::Duration;

use aifactory_api::{AIFactory, AccessGrant, GPUPool};
use aifactory_tests::{layout, run};
use futures::{StreamExt, TryStreamExt};
use kube::api::{DynamicObject, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::fixture::{self, FACTORY, NAMESPACE, POOL, World, grant};
use crate::kstatus::{Status, ready, status};
use crate::{shared, site};

const CHANGES: usize = 5;
const WAIT: Duration = Duration::from_secs(60);

#[test]
fn nothing_is_current_before_it_is_ready() {
    run(async {
        let world = shared().await;
        let resource = kube::discovery::ApiResource::erase::<AccessGrant>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(world.hub().admin(), NAMESPACE, &resource);
        // Every version that is stored, not only those that a poll would meet.
        let watched = WatchParams::default().fields("metadata.name=waited").timeout(280);
        let mut versions = api.watch(&watched, "0").await.unwrap().boxed();
        let watching = async {
            let mut seen = Vec::new();
            while let Some(event) = versions.try_next().await.unwrap() {
                match event {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                        let object = serde_json::to_value(object).unwrap();
                        let status_now = status(&object);
                        assert!(status_now != Status::Current || ready(&object), "Current, but not Ready: {object:#}");
                        if seen.last() != Some(&status_now) {
                            seen.push(status_now);
                        }
                    }
                    WatchEvent::Deleted(_) => break,
                    WatchEvent::Bookmark(_) => {}
                    WatchEvent::Error(error) => panic!("{error:?}"),
                }
            }
            seen
        };
        let (seen, ()) = tokio::join!(watching, life(&world));
        eprintln!("a grant as kstatus sees it: {seen:?}");
        assert_eq!(seen.iter().filter(|status_now| **status_now == Status::Current).count(), CHANGES + 3, "{seen:?}");
        assert_eq!(seen.last(), Some(&Status::Terminating));
    });
}

/// Creation, changes of the spec and the end, with `kubectl wait` after each.
async fn life(world: &World) {
    world.apply(grant("waited")).await;
    wait(world, "waited").await;
    let tenant = world.tenant(&world.api::<AccessGrant>().get("waited").await.unwrap());
    for change in 0..CHANGES {
        let name = format!("oidc:changed-{change}");
        let members = json!([{"id": format!("p-{change}"), "role": "Lead", "kubernetes": {"kind": "User", "name": name}}]);
        world.patch_grant("waited", json!({"spec": {"members": members}})).await;
        wait(world, "waited").await;
        for cluster in world.federation.sites() {
            assert_eq!(subjects(world, cluster.name(), &tenant).await, [name.as_str()], "after kubectl wait at {}", cluster.name());
        }
    }
    for (state, roles) in [("Paused", "aifactory-reader"), ("Revoked", "aifactory-keeper")] {
        world.patch_grant("waited", json!({"spec": {"state": state}})).await;
        wait(world, "waited").await;
        for cluster in world.federation.sites() {
            assert_eq!(site::roles(cluster, &tenant).await, [roles], "{state} at {}", cluster.name());
        }
    }
    world.delete_grant("waited").await;
    world.gone::<AccessGrant>("waited").await;
}

#[test]
fn it_does_not_matter_how_objects_are_applied() {
    run(async {
        let world = shared().await;
        let server_side: &[&str] = &["--server-side"];
        for (name, flags) in [("by-client", &[][..]), ("by-server", server_side)] {
            kubectl_apply(&world, flags, &grant(name)).await;
            wait(&world, name).await;
        }
        let picture = async |name: &str| {
            let found = world.api::<AccessGrant>().get(name).await.unwrap();
            let whole = serde_json::to_value(&found).unwrap();
            let conditions: Vec<String> =
                found.status.unwrap().conditions.iter().map(|one| format!("{} {} {}", one.type_, one.status, one.reason)).collect();
            let mut spec = whole["spec"].clone();
            for field in ["code", "notBefore", "notAfter"] {
                spec.as_object_mut().unwrap().remove(field);
            }
            (spec, conditions, whole["status"]["phase"].clone())
        };
        assert_eq!(picture("by-client").await, picture("by-server").await);

        // Applied again, and the other way round: nothing changes, nobody fights, and the operator has nothing to do.
        for name in ["by-client", "by-server"] {
            let before = world.api::<AccessGrant>().get(name).await.unwrap();
            let mut same = grant(name);
            let stored = serde_json::to_value(&before.spec).unwrap();
            for field in ["notBefore", "notAfter"] {
                same["spec"][field] = stored[field].clone();
            }
            for flags in [server_side, &[][..], server_side] {
                kubectl_apply(&world, flags, &same).await;
            }
            let after = world.api::<AccessGrant>().get(name).await.unwrap();
            assert_eq!(after.metadata.generation, before.metadata.generation, "{name}");
        }
        for (kind, object) in [("pool", fixture::pool(POOL)), ("factory", fixture::factory())] {
            for flags in [&[][..], server_side] {
                kubectl_apply(&world, &[flags, if flags.is_empty() { &[][..] } else { &["--force-conflicts"][..] }].concat(), &object).await;
            }
            eprintln!("{kind} applied in both ways");
        }
        world.ready::<GPUPool>(POOL).await;
        world.ready::<AIFactory>(FACTORY).await;
        for name in ["by-client", "by-server"] {
            world.delete_grant(name).await;
            world.gone::<AccessGrant>(name).await;
        }
    });
}

async fn subjects(world: &World, site: &str, tenant: &str) -> Vec<String> {
    let api: Api<k8s_openapi::api::rbac::v1::RoleBinding> = Api::namespaced(world.site(site).admin(), tenant);
    let bindings = api.list(&kube::api::ListParams::default()).await.unwrap();
    bindings
        .iter()
        .filter(|binding| binding.name_any().starts_with("aif-"))
        .flat_map(|binding| binding.subjects.clone().unwrap_or_default())
        .map(|subject| subject.name)
        .collect()
}

async fn wait(world: &World, name: &str) {
    let timeout = format!("--timeout={}s", WAIT.as_secs());
    kubectl(world, &["wait", "--for=condition=Ready", &timeout, "-n", NAMESPACE, &format!("accessgrant/{name}")]).await;
}

async fn kubectl_apply(world: &World, flags: &[&str], object: &Value) {
    let file: PathBuf = world.federation.directory().join("applied.json");
    std::fs::write(&file, object.to_string()).unwrap();
    let mut arguments = vec!["apply", "-f", file.to_str().unwrap()];
    arguments.extend(flags);
    kubectl(world, &arguments).await;
}

async fn kubectl(world: &World, arguments: &[&str]) {
    let kubeconfig = world.hub().directory().join("admin.kubeconfig");
    let output = Command::new(layout::control_plane("kubectl").unwrap()).arg("--kubeconfig").arg(kubeconfig).args(arguments).output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "kubectl {arguments:?}: {}{}\n{}", text(&output.stdout), text(&output.stderr), world.log_tail());
}

#[test]
fn the_examples_are_the_same_however_they_are_applied() {
    run(async {
        let world = shared().await;
        let folder = layout::root().join("examples/two-sites");
        let mut stored = Vec::new();
        for flags in [&[][..], &["--server-side"][..]] {
            let mut arguments = vec!["apply", "-f", folder.to_str().unwrap()];
            arguments.extend(flags);
            kubectl(&world, &arguments).await;
            // Once more, which must find nothing to change.
            let before = specs(&world).await;
            kubectl(&world, &arguments).await;
            let after = specs(&world).await;
            assert_eq!(before, after);
            assert!(after.len() > 5, "{after:?}");
            stored.push(after.into_iter().map(|(name, _, spec)| (name, spec)).collect::<Vec<_>>());
            // Its sites were never reached, which does not prove that nothing is there: somebody has to say so.
            let sites = format!("{}=bissen,bettembourg", aifactory_api::labels::ABANDON_SITE);
            kubectl(&world, &["annotate", "aifactory", "--all", "-n", EXAMPLE, &sites]).await;
            let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(world.hub().admin());
            namespaces.delete(EXAMPLE, &kube::api::DeleteParams::default()).await.unwrap();
            aifactory_tests::eventually(WAIT, "the example is gone", async || match namespaces.get_opt(EXAMPLE).await? {
                None => Ok(()),
                Some(found) => Err(format!("{:?}", found.status).into()),
            })
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()));
        }
        assert_eq!(stored[0], stored[1]);
    });
}

const EXAMPLE: &str = "ardenne";

/// Name, generation and spec of all objects of the example.
async fn specs(world: &World) -> Vec<(String, i64, Value)> {
    let mut found = Vec::new();
    let client = world.hub().admin();
    for resource in [
        kube::discovery::ApiResource::erase::<AIFactory>(&()),
        kube::discovery::ApiResource::erase::<GPUPool>(&()),
        kube::discovery::ApiResource::erase::<AccessGrant>(&()),
    ] {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), EXAMPLE, &resource);
        for object in api.list(&kube::api::ListParams::default()).await.unwrap() {
            let name = format!("{} {}", resource.kind, object.name_any());
            found.push((name, object.metadata.generation.unwrap_or_default(), object.data["spec"].clone()));
        }
    }
    found
}
