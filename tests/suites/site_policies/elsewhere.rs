//! Attacks outside our Namespaces, and on what stands beside us in them.

use serde_json::{Value, json};

use crate::admission::objects::*;
use crate::admission::request::namespaced;
use crate::admission::{By, Request, Row};
use crate::scene::{BOUND, EXHAUSTED, FOREIGN, LOCKED, PLATFORM, SLURM, STRIPPED, pod_spec};

const PLACE: By = By::Policy("aifactory-site-namespaced");

pub fn outside() -> Vec<Row> {
    let row = |what, request, by: &[By]| Row::new("outside our namespaces", what, request, by);
    let access = |namespace: &str| Request::apply(config_map_path(namespace, "aifactory-access"), config_map(namespace, "aifactory-access"));
    let system = "aifactory-system";
    let mut rows = vec![
        row("a ConfigMap in kube-system", access("kube-system"), &[PLACE]),
        row("a ConfigMap in default", access("default"), &[PLACE]),
        row("a ConfigMap beside Slurm", access(SLURM), &[PLACE]),
        row("a ConfigMap of the platform", access(PLATFORM), &[PLACE]),
        row("a ConfigMap where only the prefix is ours", access(FOREIGN), &[PLACE]),
        row("a ConfigMap in aifactory-system", access(system), &[PLACE]),
        row(
            "a quota that stops the platform",
            Request::apply(
                quota_path(PLATFORM, "aifactory"),
                ours("v1", "ResourceQuota", PLATFORM, "aifactory", json!({"spec": {"hard": {"pods": "0"}}})),
            ),
            &[PLACE],
        ),
        row(
            "a policy that cuts off kube-system",
            Request::apply(network_policy_path("kube-system", "aif-default-deny"), default_deny("kube-system", "aif-default-deny")),
            &[PLACE],
        ),
        row("a ServiceAccount deleted", Request::delete(service_account_path(PLATFORM, "thing")), &[PLACE]),
        row("the default ServiceAccount deleted", Request::delete(service_account_path(PLATFORM, "default")), &[PLACE]),
        row("all ServiceAccounts deleted", Request::delete(service_account_path(PLATFORM, "")), &[By::Rbac]).widened(PLACE),
        row(
            "the site's policy rewritten",
            Request::merge(config_map_path(system, "aifactory-site-policy"), json!({"data": {"allowDeletion": "true"}})),
            &[By::Rbac],
        )
        .widened(PLACE),
        row("the site's policy deleted", Request::delete(config_map_path(system, "aifactory-site-policy")), &[By::Rbac]).widened(PLACE),
        row("the claim deleted", Request::delete(config_map_path(system, "aifactory-claim")), &[By::Rbac]).widened(PLACE),
        row(
            "the claim unmarked",
            Request::merge(config_map_path(system, "aifactory-claim"), json!({"metadata": {"labels": {"aifactory.dev/managed": null}}})),
            &[PLACE],
        ),
        row(
            "a Lease",
            Request::apply(
                namespaced("coordination.k8s.io/v1", "kube-system", "leases", "kube-scheduler"),
                ours("coordination.k8s.io/v1", "Lease", "kube-system", "kube-scheduler", json!({})),
            ),
            &[By::Rbac],
        )
        .widened(PLACE),
    ];
    // The platform's Namespace has a Pod and a Job; ending its work must find and spare them.
    for path in work_paths(PLATFORM).into_iter().take(2) {
        rows.push(row("the platform's work ended", Request::delete(path), &[PLACE]));
    }
    for path in work_paths(BOUND).into_iter().take(2) {
        rows.push(row("the work of a living grant ended", Request::delete(path), &[PLACE]));
    }
    let other = format!("{}?fieldSelector=metadata.name%3Dother", namespaced("v1", EXHAUSTED, "pods", ""));
    rows.push(row("a Pod of an open pool, whatever the annotation lists", Request::delete(other), &[PLACE]));
    for path in work_paths(EXHAUSTED).into_iter().skip(1).take(1) {
        rows.push(row("more than the Pods of a grant whose GPU-hours are used up", Request::delete(path), &[PLACE]));
    }
    rows
}

pub fn inside() -> Vec<Row> {
    let row = |what, request, by: &[By]| Row::new("in a tenant's namespace", what, request, by);
    let labels = json!({"metadata": {"labels": our_labels()}});
    let deny = |change: Value| Request::merge(network_policy_path(BOUND, "aif-default-deny"), json!({"metadata": change}));
    let pod = ours("v1", "Pod", BOUND, "aif-pod", json!({"spec": pod_spec()}));
    let role = ours(RBAC, "Role", BOUND, "aif-role", json!({"rules": []}));
    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    vec![
        row("kube-root-ca.crt", Request::merge(config_map_path(BOUND, "kube-root-ca.crt"), json!({"data": {"ca.crt": "x"}})), &[By::Rbac])
            .widened(PLACE),
        row("another ConfigMap", Request::apply(config_map_path(BOUND, "aif-other"), config_map(BOUND, "aif-other")), &[By::Rbac]).widened(PLACE),
        row("another's ServiceAccount deleted", Request::delete(service_account_path(BOUND, "theirs")), &[PLACE]),
        row("another's ServiceAccount adopted", Request::merge(service_account_path(BOUND, "theirs"), labels.clone()), &[PLACE]),
        row("the default ServiceAccount adopted", Request::merge(service_account_path(BOUND, "default"), labels.clone()), &[PLACE]),
        row(
            "an identity at a cloud",
            Request::merge(service_account_path(BOUND, "aifactory"), json!({"metadata": {"annotations": {"example.org/role-arn": "x"}}})),
            &[PLACE],
        ),
        row("another's policy deleted", Request::delete(network_policy_path(BOUND, "theirs")), &[PLACE]),
        row("another's policy adopted", Request::merge(network_policy_path(BOUND, "theirs"), labels.clone()), &[PLACE]),
        row(
            "another's policy adopted, that only begins like ours",
            Request::merge(network_policy_path(BOUND, "aif-other"), labels.clone()),
            &[PLACE],
        ),
        row("default deny deleted where our labels are gone", Request::delete(network_policy_path(STRIPPED, "aif-default-deny")), &[PLACE]),
        row(
            "a policy written where our labels are gone",
            Request::apply(network_policy_path(STRIPPED, "aif-dns"), default_deny(STRIPPED, "aif-dns")),
            &[PLACE],
        ),
        row("a ServiceAccount deleted where only the prefix is ours", Request::delete(service_account_path(FOREIGN, "default")), &[PLACE]),
        row("a policy without our prefix", Request::apply(network_policy_path(BOUND, "any"), default_deny(BOUND, "any")), &[PLACE]),
        row(
            "a policy without our label",
            Request::apply(network_policy_path(BOUND, "aif-any"), with(default_deny(BOUND, "aif-any"), json!({"metadata": {"labels": null}}))),
            &[PLACE],
        ),
        row("our label taken off", deny(json!({"labels": {"aifactory.dev/managed": null}})), &[PLACE]),
        row("a label of others", deny(json!({"labels": {"team": "x"}})), &[PLACE]),
        row("a finalizer", deny(json!({"finalizers": ["example.org/stay"]})), &[PLACE]),
        row(
            "an owner that is gone",
            deny(json!({"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "1"}]})),
            &[PLACE],
        ),
        row("a Pod", Request::post(namespaced("v1", BOUND, "pods", ""), pod), &[By::Rbac]).widened(PLACE),
        row("a Pod of a locked grant deleted by name", Request::delete(namespaced("v1", LOCKED, "pods", "any")), &[By::Rbac]),
        row(
            "a command in a Pod",
            Request::post(format!("{}/exec?command=sh&stdout=true", namespaced("v1", BOUND, "pods", "work")), json!({})),
            &[By::Rbac],
        ),
        row(
            "a Pod evicted",
            {
                let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "work", "namespace": BOUND}});
                Request::post(format!("{}/eviction", namespaced("v1", BOUND, "pods", "work")), eviction)
            },
            &[By::Rbac],
        )
        .widened(PLACE),
        row("a token", Request::post(format!("{}/token", service_account_path(BOUND, "aifactory")), token), &[By::Rbac]).widened(PLACE),
        row(
            "a Secret",
            Request::apply(namespaced("v1", BOUND, "secrets", "aif-secret"), ours("v1", "Secret", BOUND, "aif-secret", json!({}))),
            &[By::Rbac],
        )
        .widened(PLACE),
        row("a Role", Request::apply(namespaced(RBAC, BOUND, "roles", "aif-role"), role), &[By::Rbac]).widened(PLACE),
        row(
            "what a quota counts",
            Request::merge(format!("{}/status", quota_path(BOUND, "aifactory")), json!({"status": {"used": {"pods": "99"}}})),
            &[By::Rbac],
        )
        .widened(PLACE),
    ]
}
