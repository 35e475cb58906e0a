//! The operator and what belongs to people: it reads the credentials it was shown, and changes its own finalizer.

use serde_json::{Value, json};

use crate::admission::objects::{RBAC, binding, binding_path, config_map, config_map_path, namespace_path, service_account_path};
use crate::admission::request::{cluster, namespaced};
use crate::admission::{By, Request, Row, all_refused, passes};
use crate::scene::*;
use crate::{Outcome, run, scene};
use aifactory_tests::SYSTEM_NAMESPACE;

const CONFINED: By = By::Policy("aifactory-hub-operator");
const FINALIZER: &str = "aifactory.dev/finalizer";
const WORKPLACE: &str = "credentials";

#[test]
fn the_operator_puts_its_finalizer_on_and_off() -> Outcome {
    run(async {
        let scene = scene().await?;
        scene.team(WORKPLACE).await?;
        scene.grant(WORKPLACE, "grant", Some("Active")).await?;
        let (secret, role) = (secret_path(WORKPLACE, "credential"), binding_path(WORKPLACE, "aifactory-credentials"));
        let applied = |finalizers: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "credential", "finalizers": finalizers}});
        let strategic = json!({"metadata": {"finalizers": [FINALIZER]}});
        let added = json!([{"op": "add", "path": "/metadata/finalizers/-", "value": FINALIZER}]);
        let removed = |at: usize| {
            json!([
                {"op": "test", "path": format!("/metadata/finalizers/{at}"), "value": FINALIZER},
                {"op": "remove", "path": format!("/metadata/finalizers/{at}")},
            ])
        };
        let status = json!({"status": {"phase": "Active", "observedGeneration": 1}});
        for (what, request) in [
            ("the credential read", Request::get(secret.clone())),
            ("on by JSON patch", Request::json_patch(secret.clone(), added)),
            ("off by JSON patch", Request::json_patch(secret.clone(), removed(1))),
            ("on by apply", Request::apply(secret.clone(), applied(json!([FINALIZER])))),
            ("off by apply", Request::apply(secret.clone(), applied(json!([])))),
            // This kind of patch puts it first.
            ("on by strategic merge", Request::strategic(secret.clone(), strategic)),
            ("off once more", Request::json_patch(secret, removed(0))),
            ("on the binding", Request::json_patch(role.clone(), json!([{"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]}]))),
            ("off the binding", Request::json_patch(role, removed(0))),
            ("on a grant", Request::merge(grant_path(WORKPLACE, "grant"), json!({"metadata": {"finalizers": [FINALIZER]}}))),
            ("a grant's status", Request::merge(format!("{}/status", grant_path(WORKPLACE, "grant")), status)),
            ("off a grant", Request::json_patch(grant_path(WORKPLACE, "grant"), removed(0))),
        ] {
            passes(&scene.operator, what, &request).await?;
        }
        let found = passes(&scene.operator, "credential", &Request::get(secret_path(WORKPLACE, "credential"))).await?;
        assert_eq!(found["metadata"]["finalizers"], json!(["example.org/theirs"]), "others' finalizers stay");
        Ok(())
    })
}

fn secrets() -> Vec<Row> {
    let row = |what, change: Value| Row::new("credentials", what, Request::merge(secret_path(TEAM, "credential"), change), &[CONFINED]);
    let rbac = |what, request| Row::new("credentials", what, request, &[By::Rbac]);
    let secret = |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    vec![
        row("data", json!({"data": {"kubeconfig": "eQ=="}})),
        row("data in plain", json!({"stringData": {"kubeconfig": "y"}})),
        row("data removed", json!({"data": null})),
        row("labels", json!({"metadata": {"labels": {"team": "y"}}})),
        row("labels removed", json!({"metadata": {"labels": null}})),
        row("annotations", json!({"metadata": {"annotations": {"a": "b"}}})),
        row("owners", json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "1"}]}})),
        row("sealed", json!({"immutable": true})),
        row("others' finalizers replaced", json!({"metadata": {"finalizers": [FINALIZER]}})),
        row("others' finalizers removed", json!({"metadata": {"finalizers": null}})),
        row("a finalizer of others added", json!({"metadata": {"finalizers": ["example.org/theirs", "example.org/more"]}})),
        rbac("made", Request::apply(secret_path(TEAM, "new"), secret("new"))),
        rbac("made by POST", Request::post(secret_path(TEAM, ""), secret("new"))),
        rbac("replaced", Request::put(secret_path(TEAM, "credential"), secret("credential"))),
        rbac("deleted", Request::delete(secret_path(TEAM, "credential"))),
        rbac("listed", Request::get(secret_path(TEAM, ""))),
        rbac("all listed", Request::get(cluster("v1", "secrets", ""))),
        rbac("read where nobody let it", Request::get(secret_path("default", "credential"))),
        rbac("read beside the operator", Request::get(secret_path(SYSTEM_NAMESPACE, "credential"))),
    ]
}

fn bindings() -> Vec<Row> {
    let row = |what, patch: Value| {
        let request = Request::json_patch(binding_path(TEAM, "aifactory-credentials"), patch);
        Row::new("the credentials' binding", what, request, &[By::Rbac, CONFINED])
    };
    let rbac = |what, request| Row::new("the credentials' binding", what, request, &[By::Rbac]);
    let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "oidc:1"});
    vec![
        row("one more subject", json!([{"op": "add", "path": "/subjects/-", "value": subject}])),
        row("a label", json!([{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}])),
        row("a finalizer of others", json!([{"op": "add", "path": "/metadata/finalizers", "value": ["example.org/stay"]}])),
        rbac("deleted", Request::delete(binding_path(TEAM, "aifactory-credentials"))),
        rbac("another made", Request::apply(binding_path(TEAM, "aif-new"), binding(TEAM, "aif-new", "aifactory-credentials", "oidc:1"))),
        rbac(
            "made where nobody let it",
            Request::apply(
                binding_path("default", "aifactory-credentials"),
                binding("default", "aifactory-credentials", "aifactory-credentials", "oidc:1"),
            ),
        ),
        rbac("all listed", Request::get(cluster(RBAC, "rolebindings", ""))),
    ]
}

fn people() -> Vec<Row> {
    let row = |what, request, by: &[By]| Row::new("people's objects", what, request, by);
    let grant = grant_path(TEAM, "active");
    let spec = |change: Value| Request::merge(grant_path(TEAM, "active"), json!({"spec": change}));
    vec![
        row("more time", spec(json!({"notAfter": "2028-03-01T00:00:00Z"})), &[CONFINED]),
        row("a state", spec(json!({"state": "Revoked"})), &[CONFINED]),
        row(
            "one more member",
            spec(json!({"members": [{"id": "p-1", "role": "Lead", "kubernetes": {"kind": "User", "name": "oidc:1"}}]})),
            &[CONFINED],
        ),
        row("a finalizer of others", Request::merge(grant.clone(), json!({"metadata": {"finalizers": ["example.org/stay"]}})), &[CONFINED]),
        row("a grant made", Request::apply(grant_path(TEAM, "new"), crate::scene::grant("new")), &[By::Rbac]),
        row("a grant replaced", Request::put(grant.clone(), crate::scene::grant("active")), &[By::Rbac]),
        row("a grant deleted", Request::delete(grant), &[By::Rbac]),
        row("all grants deleted", Request::delete(grant_path(TEAM, "")), &[By::Rbac]),
        row("a namespace deleted", Request::delete(namespace_path(TEAM)), &[By::Rbac]),
        row("a namespace labelled", Request::merge(namespace_path(TEAM), json!({"metadata": {"labels": {"a": "b"}}})), &[By::Rbac]),
        row("a CRD deleted", Request::delete(definition_path("accessgrants")), &[By::Rbac]),
        row("a ConfigMap", Request::apply(config_map_path(TEAM, "x"), config_map(TEAM, "x")), &[By::Rbac]),
        row(
            "another ConfigMap beside the operator",
            Request::apply(config_map_path(SYSTEM_NAMESPACE, "x"), config_map(SYSTEM_NAMESPACE, "x")),
            &[By::Rbac],
        ),
        row("all ConfigMaps", Request::get(config_map_path(SYSTEM_NAMESPACE, "")), &[By::Rbac]),
        row("another Lease", Request::get(namespaced("coordination.k8s.io/v1", "kube-system", "leases", "kube-scheduler")), &[By::Rbac]),
        row("a token", Request::post(format!("{}/token", service_account_path(SYSTEM_NAMESPACE, "aifactory-operator")), json!({})), &[By::Rbac]),
        row("Pods", Request::get(cluster("v1", "pods", "")), &[By::Rbac]),
        row(
            "a policy deleted",
            Request::delete(cluster("admissionregistration.k8s.io/v1", "validatingadmissionpolicies", "aifactory-hub-operator")),
            &[By::Rbac],
        ),
    ]
}

#[test]
fn the_operator_changes_nothing_else() -> Outcome {
    run(async {
        let scene = scene().await?;
        all_refused(&scene.operator, &[secrets(), bindings(), people()].concat()).await?;
        Ok(())
    })
}

/// Were RBAC wider, the policy would still hold: the operator's name in a group that RBAC allows everything.
#[test]
fn the_operator_is_confined_where_rbac_allows_all() -> Outcome {
    run(async {
        let scene = scene().await?;
        let widened = scene.hub().client_as("system:serviceaccount:aifactory-system:aifactory-operator", &["system:masters"]).await?;
        let sure = |row: &Row| row.when_rbac_allows_all();
        let mut rows: Vec<Row> = [secrets(), bindings(), people()].concat().iter().filter_map(sure).collect();
        let row = |what, request| Row::new("widened", what, request, &[CONFINED]);
        rows.extend([
            row("a Secret made", Request::post(secret_path(TEAM, ""), json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}}))),
            row("a Secret deleted", Request::delete(secret_path(TEAM, "credential"))),
            row("a binding made", Request::apply(binding_path(TEAM, "aif-x"), binding(TEAM, "aif-x", "aifactory-credentials", "oidc:1"))),
            row("the binding deleted", Request::delete(binding_path(TEAM, "aifactory-credentials"))),
            row("a grant made", Request::apply(grant_path(TEAM, "new"), crate::scene::grant("new"))),
        ]);
        all_refused(&widened, &rows).await?;
        Ok(())
    })
}
