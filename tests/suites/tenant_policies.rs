//! Tenants are tied to their pools and their namespace: requests of members are allowed where they may do that, and refused with a helpful message
//! where it is not.

#![allow(clippy::indexing_slicing, reason = "an index into a JSON value gives null where there is nothing")]

#[allow(dead_code, reason = "each suite uses its part of the tables")]
mod admission;
#[path = "tenant_policies/end.rs"]
mod end;
#[path = "tenant_policies/legitimate.rs"]
mod legitimate;
#[path = "tenant_policies/objects.rs"]
mod objects;
#[path = "tenant_policies/pods.rs"]
mod pods;
#[path = "tenant_policies/scene.rs"]
mod scene;
#[path = "tenant_policies/templates.rs"]
mod templates;

use std::error::Error;

use admission::objects::{config_map_path, namespace_path};
use admission::request::namespaced;
use admission::{By, Request, Row, all_refused, passes};
use aifactory_tests::run;
use scene::{ONE, Scene, plain, pod};
use serde_json::json;
use tokio::sync::OnceCell;

type Outcome = Result<(), Box<dyn Error>>;

static SCENE: OnceCell<Scene> = OnceCell::const_new();

async fn scene() -> aifactory_tests::Result<&'static Scene> {
    SCENE.get_or_try_init(Scene::prepare).await
}

/// A Pod, a Service and a ConfigMap that later requests change.
async fn standing(scene: &Scene) -> Outcome {
    let object = |kind: &str, change| plain(kind, admission::objects::with(json!({"metadata": {"name": "standing"}}), change));
    let service = json!({"spec": {"selector": {"app": "mine"}, "ports": [{"port": 80}]}});
    for (what, request) in [
        ("a Pod", Request::apply(namespaced("v1", ONE, "pods", "standing"), pod("standing", json!({})))),
        ("a Service", Request::apply(namespaced("v1", ONE, "services", "standing"), object("Service", service))),
        ("a ConfigMap", Request::apply(config_map_path(ONE, "standing"), object("ConfigMap", json!({})))),
    ] {
        passes(&scene.member, what, &request).await?;
    }
    Ok(())
}

#[test]
fn attacks_of_members_are_refused_with_helpful_messages() -> Outcome {
    run(async {
        let scene = scene().await?;
        standing(scene).await?;
        let own = [pods::rows(), objects::rows()].concat();
        let forbidden = objects::forbidden_rows();
        let (locked, reader) = (pods::locked_rows(), objects::reader_rows());
        let count = own.len() + forbidden.len() + locked.len() + reader.len();
        assert!(count >= 40, "{count} requests");
        for client in [&scene.member, &scene.lead] {
            all_refused(client, &own).await?;
            all_refused(client, &forbidden).await?;
        }
        all_refused(&scene.keeper, &locked).await?;
        all_refused(&scene.reader, &reader).await?;
        let bindings = Row::new("member", "bindings", Request::get(admission::objects::binding_path(ONE, "")), &[By::Rbac]);
        all_refused(&scene.member, &[bindings]).await?;
        Ok(())
    })
}

/// A workload's ServiceAccount is bound to nothing; where somebody binds it all the same, it is a tenant like its makers.
#[test]
fn a_workloads_account_is_a_tenant() -> Outcome {
    run(async {
        let scene = scene().await?;
        let account = scene.site().kubeconfig_of(ONE, "default").await?.client().await?;
        let nothing = |what, request| Row::new("unbound", what, request, &[By::Rbac]);
        let access = || Request::merge(config_map_path(ONE, "aifactory-access"), json!({"data": {"x": "y"}}));
        all_refused(
            &account,
            &[
                nothing("Secrets", Request::get(namespaced("v1", ONE, "secrets", ""))),
                nothing("Pods", Request::get(scene::pods(ONE))),
                nothing("our ConfigMap", access()),
                nothing("its namespace", Request::get(namespace_path(ONE))),
            ],
        )
        .await?;
        let bound = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "foreign", "namespace": ONE},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": ONE}],
        });
        scene.site().apply(&bound.to_string()).await?;
        let policy = |what, request, name| Row::new("bound by others", what, request, &[By::Policy(name)]);
        let stays = plain("ConfigMap", json!({"metadata": {"finalizers": ["example.org/stay"]}}));
        admission::await_refused(
            &account,
            &[
                policy("our ConfigMap", access(), "aifactory-tenant-labels"),
                policy("our quota's neighbour", Request::post(config_map_path(ONE, ""), stays), "aifactory-tenant-finalizers"),
                policy("a node by name", Request::post(scene::pods(ONE), pod("x", json!({"spec": {"nodeName": "a100-0"}}))), "aifactory-tenant-pods"),
            ],
        )
        .await?;
        Ok(())
    })
}
