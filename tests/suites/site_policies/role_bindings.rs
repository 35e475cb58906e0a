//! Attacks by RoleBindings: elsewhere, to other roles, of other subjects.

use serde_json::{Value, json};

use crate::admission::objects::*;
use crate::admission::{By, Request, Row};
use crate::scene::{BOUND, FOREIGN, PLATFORM, STRIPPED};

const PLACE: By = By::Policy("aifactory-site-namespaced");
const BINDINGS: By = By::Policy("aifactory-site-rolebindings");

pub fn rows() -> Vec<Row> {
    let row = |what, request, by: &[By]| Row::new("role bindings", what, request, by);
    let bound = |namespace: &str| Request::apply(binding_path(namespace, "aif-new"), binding(namespace, "aif-new", "aifactory-reader", "oidc:2"));
    let role = |role: &str| Request::apply(binding_path(BOUND, "aif-new"), binding(BOUND, "aif-new", role, "oidc:2"));
    let subject = |kind: &str, name: &str| {
        let subjects = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}]);
        Request::apply(binding_path(BOUND, "aif-new"), binding_to(BOUND, "aif-new", "aifactory-reader", subjects))
    };
    let account = |namespace: &str| {
        let subjects = json!([{"kind": "ServiceAccount", "name": "default", "namespace": namespace}]);
        Request::apply(binding_path(BOUND, "aif-new"), binding_to(BOUND, "aif-new", "aifactory-reader", subjects))
    };
    let lead = |op: &str, path: &str, value: Value| {
        Request::json_patch(binding_path(BOUND, "aif-lead-0123456789"), json!([{"op": op, "path": path, "value": value}]))
    };
    let escalation = [By::Rbac, BINDINGS];
    vec![
        row("in the platform's namespace", bound(PLATFORM), &[PLACE]),
        row("in kube-system", bound("kube-system"), &[PLACE]),
        row("in aifactory-system", bound("aifactory-system"), &[PLACE]),
        row("where only the prefix is ours", bound(FOREIGN), &[PLACE]),
        row("the platform's deleted", Request::delete(binding_path(PLATFORM, "theirs")), &[PLACE]),
        row("another's deleted in a tenant's namespace", Request::delete(binding_path(BOUND, "theirs")), &[PLACE]),
        row("another's deleted where our labels are gone", Request::delete(binding_path(STRIPPED, "theirs")), &[PLACE]),
        row("one of our name deleted where only the prefix is ours", Request::delete(binding_path(FOREIGN, "aif-lead-0123456789")), &[PLACE]),
        row("made where our labels are gone", bound(STRIPPED), &[PLACE]),
        row(
            "another's adopted in a tenant's namespace",
            Request::merge(binding_path(BOUND, "theirs"), json!({"metadata": {"labels": our_labels()}})),
            &[By::Rbac, PLACE, BINDINGS],
        )
        .widened(PLACE)
        .widened(BINDINGS),
        row("to cluster-admin", role("cluster-admin"), &escalation).widened(BINDINGS),
        row("to edit", role("edit"), &escalation).widened(BINDINGS),
        row("to the operator's own role", role("aifactory-site-operator"), &escalation).widened(BINDINGS),
        row("of everybody who is known", subject("Group", "system:authenticated"), &[BINDINGS]),
        row("of everybody", subject("Group", "system:unauthenticated"), &[BINDINGS]),
        row("of all ServiceAccounts", subject("Group", "system:serviceaccounts"), &[BINDINGS]),
        row("of somebody unknown", subject("User", "system:anonymous"), &[BINDINGS]),
        row("of a ServiceAccount as a user", subject("User", "system:serviceaccount:platform:thing"), &[BINDINGS]),
        row("of the operator itself", subject("User", "aifactory:hub"), &[BINDINGS]),
        row("of another's ServiceAccount", account(PLATFORM), &[BINDINGS]),
        row("of the tenant's ServiceAccount", account(BOUND), &[BINDINGS]),
        row(
            "of one more subject, later",
            lead("add", "/subjects/-", json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:authenticated"})),
            &[BINDINGS],
        ),
        row("to another role, later", lead("replace", "/roleRef/name", json!("aifactory-member")), &[By::Api(422)]),
    ]
}
