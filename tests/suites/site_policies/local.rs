//! A hub that is itself a site: one identity does both works there, and is confined in both.

use aifactory_tests::{HUB_ACCOUNT, SYSTEM_NAMESPACE};
use kube::Client;
use serde_json::{Value, json};

use crate::admission::objects::*;
use crate::admission::request::namespaced;
use crate::admission::{By, Request, Row, all_refused, await_refused, passes};
use crate::scene::{PLATFORM, Scene, put};
use crate::{Outcome, legitimate};

const TEAM: &str = "team";
const PLACE: By = By::Policy("aifactory-site-namespaced");

/// The operator of the hub.
pub async fn operator(scene: &Scene) -> aifactory_tests::Result<Client> {
    scene.cluster.kubeconfig_of(SYSTEM_NAMESPACE, HUB_ACCOUNT).await?.client().await
}

/// The list of namespaces with living grants.
pub fn living_grants(data: Value) -> Request {
    let list = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "aifactory-living-grants"}, "data": data});
    Request::apply(config_map_path(SYSTEM_NAMESPACE, "aifactory-living-grants"), list)
}

pub async fn hub_work_passes(scene: &Scene) -> Outcome {
    let operator = operator(scene).await?;
    let cluster = &scene.cluster;
    cluster.ensure_namespace(TEAM).await?;
    put(cluster, namespaced("v1", TEAM, "secrets", "credential"), json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "credential"}}))
        .await?;
    let subjects = json!([{"kind": "ServiceAccount", "name": HUB_ACCOUNT, "namespace": SYSTEM_NAMESPACE}]);
    let own = with(binding_to(TEAM, "aifactory-credentials", "aifactory-credentials", subjects), json!({"metadata": {"labels": null}}));
    put(cluster, binding_path(TEAM, "aifactory-credentials"), own).await?;
    let finalizer = json!([{"op": "add", "path": "/metadata/finalizers", "value": ["aifactory.dev/finalizer"]}]);
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "aifactory-operator", "namespace": SYSTEM_NAMESPACE}, "spec": {}});
    let leases = |name: &str| namespaced("coordination.k8s.io/v1", SYSTEM_NAMESPACE, "leases", name);
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "x", "namespace": TEAM}, "type": "Normal", "reason": "Bound", "message": "x",
        "involvedObject": {"apiVersion": "aifactory.dev/v1alpha1", "kind": "AccessGrant", "name": "x", "namespace": TEAM},
    });
    let hub = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "aifactory-hub"}, "data": {"id": "x"}});
    for (what, request) in [
        ("Lease made", Request::post(leases(""), lease)),
        ("Lease renewed", Request::merge(leases("aifactory-operator"), json!({"spec": {"holderIdentity": "a"}}))),
        ("hub id", Request::apply(config_map_path(SYSTEM_NAMESPACE, "aifactory-hub"), hub)),
        ("living grants", living_grants(json!({"nobody": ""}))),
        ("Event", Request::post(namespaced("v1", TEAM, "events", ""), event)),
        ("finalizer on a credential", Request::json_patch(namespaced("v1", TEAM, "secrets", "credential"), finalizer.clone())),
        ("finalizer on the credentials' binding", Request::json_patch(binding_path(TEAM, "aifactory-credentials"), finalizer)),
    ] {
        passes(&operator, what, &request).await?;
    }
    put(cluster, crate::scene::cluster_node("worked"), crate::scene::node("worked", true)).await?;
    for (what, request) in legitimate::requests("aif-local-0123456789", "worked") {
        passes(&operator, what, &request).await?;
    }
    legitimate::taints(&operator, "worked").await?;
    Ok(())
}

pub async fn attacks_are_refused(scene: &Scene) -> Outcome {
    let operator = operator(scene).await?;
    await_refused(&operator, &crate::self_test::rows("offered", "slurm")).await?;
    let mut rows = crate::namespaces::rows();
    rows.extend(crate::elsewhere::inside());
    rows.extend(crate::nodes::rows());
    rows.extend(crate::node_sets::rows());
    let row = |what, request, by: &[By]| Row::new("a local site", what, request, by);
    let data = json!({"data": {"kubeconfig": "eA=="}});
    let subjects =
        json!([{"op": "add", "path": "/subjects/-", "value": {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "oidc:1"}}]);
    rows.extend([
        row(
            "another ConfigMap beside the operator",
            {
                let map = config_map(SYSTEM_NAMESPACE, "aifactory-access");
                Request::apply(config_map_path(SYSTEM_NAMESPACE, "aifactory-access"), map)
            },
            &[PLACE],
        ),
        row(
            "a ConfigMap of the platform",
            Request::apply(config_map_path(PLATFORM, "aifactory-access"), config_map(PLATFORM, "aifactory-access")),
            &[PLACE],
        ),
        row(
            "a binding of the platform",
            Request::apply(binding_path(PLATFORM, "aif-x"), binding(PLATFORM, "aif-x", "aifactory-lead", "oidc:1")),
            &[PLACE, By::Policy("aifactory-hub-operator")],
        ),
        row("a credential rewritten", Request::merge(namespaced("v1", TEAM, "secrets", "credential"), data), &[By::Policy("aifactory-hub-operator")]),
        row(
            "one more reader of credentials",
            Request::json_patch(binding_path(TEAM, "aifactory-credentials"), subjects),
            &[By::Rbac, By::Policy("aifactory-hub-operator")],
        ),
        row(
            "the credentials' binding deleted",
            Request::delete(binding_path(TEAM, "aifactory-credentials")),
            &[PLACE, By::Policy("aifactory-hub-operator")],
        ),
    ]);
    all_refused(&operator, &rows).await?;
    Ok(())
}
