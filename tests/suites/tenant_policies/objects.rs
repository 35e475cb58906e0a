//! Attacks by everything else that members write, and by what they may not write at all.

use serde_json::{Value, json};

use crate::admission::objects::*;
use crate::admission::request::{cluster, namespaced};
use crate::admission::{By, Request, Row};
use crate::scene::*;

const MARKS: By = By::Policy("aifactory-tenant-labels");
const FINALIZERS: By = By::Policy("aifactory-tenant-finalizers");

/// What members may write in a better way.
pub fn rows() -> Vec<Row> {
    let row = |what, request, by: &[By]| Row::new("objects", what, request, by);
    let services = namespaced("v1", ONE, "services", "");
    let service = |change: Value| Request::post(services.clone(), with(service_object(), json!({"spec": change})));
    let secret = json!({
        "type": "kubernetes.io/service-account-token",
        "metadata": {"annotations": {"kubernetes.io/service-account.name": "default"}},
    });
    let claimed = |change: Value| Request::post(claims(ONE), with(claim(), change));
    let volumes = By::Policy("aifactory-tenant-volume-claims");
    let access = config_map_path(ONE, "aifactory-access");
    vec![
        row("a Service that catches others' traffic", service(json!({"externalIPs": ["192.0.2.1"]})), &[By::Policy("aifactory-tenant-services")])
            .words("leave it out"),
        row(
            "a Service that does so later",
            Request::merge(namespaced("v1", ONE, "services", "standing"), json!({"spec": {"externalIPs": ["192.0.2.1"]}})),
            &[By::Policy("aifactory-tenant-services")],
        )
        .words("externalIPs"),
        row("a load balancer", service(json!({"type": "LoadBalancer"})), &[By::Quota]).words("services.loadbalancers"),
        row("a node port", service(json!({"type": "NodePort"})), &[By::Quota]).words("services.nodeports"),
        row(
            "a token that never expires",
            Request::post(namespaced("v1", ONE, "secrets", ""), plain("Secret", secret)),
            &[By::Policy("aifactory-tenant-secrets")],
        )
        .words("Pods get tokens of their own"),
        row("another's volume", claimed(json!({"spec": {"volumeName": "theirs"}})), &[volumes]).words("the storage class makes a volume"),
        row("another's volume by label", claimed(json!({"spec": {"selector": {"matchLabels": {"owner": "theirs"}}}})), &[volumes])
            .words("spec.selector"),
        row("more storage than granted", claimed(json!({"spec": {"resources": {"requests": {"storage": "2Ti"}}}})), &[By::Quota])
            .words("requests.storage"),
        row("a claim that stays", claimed(json!({"metadata": {"finalizers": ["example.org/stay"]}})), &[volumes, FINALIZERS]).words("leave it out"),
        row(
            "a ConfigMap that stays",
            Request::post(config_map_path(ONE, ""), plain("ConfigMap", json!({"metadata": {"finalizers": ["example.org/stay"]}}))),
            &[FINALIZERS],
        )
        .words("metadata.finalizers"),
        row(
            "a ConfigMap that stays, later",
            Request::merge(config_map_path(ONE, "standing"), json!({"metadata": {"finalizers": ["example.org/stay"]}})),
            &[FINALIZERS],
        )
        .words("metadata.finalizers"),
        row(
            "a ConfigMap that seems ours",
            Request::post(config_map_path(ONE, ""), plain("ConfigMap", json!({"metadata": {"labels": our_labels()}}))),
            &[MARKS],
        )
        .words("leave them out"),
        row(
            "a ConfigMap that seems ours, later",
            Request::merge(config_map_path(ONE, "standing"), json!({"metadata": {"labels": {"aifactory.dev/managed": "true"}}})),
            &[MARKS],
        )
        .words("leave them out"),
        row("our ConfigMap", Request::merge(access.clone(), json!({"data": {"server": "https://example.net"}})), &[MARKS])
            .words("belongs to the AI Factory operator"),
        row("our ConfigMap unmarked", Request::merge(access.clone(), json!({"metadata": {"labels": {"aifactory.dev/managed": null}}})), &[MARKS])
            .words("belongs to the AI Factory operator"),
        row("our ConfigMap deleted", Request::delete(access), &[MARKS]).words("ask whoever granted you access"),
    ]
}

/// What nobody but the operator and the site writes: even a lead is refused by RBAC.
pub fn forbidden_rows() -> Vec<Row> {
    let row = |what, request| Row::new("forbidden", what, request, &[By::Rbac]).words("cannot");
    let open = json!({"apiVersion": NETWORKING, "kind": "NetworkPolicy", "metadata": {"name": "open"}, "spec": {"podSelector": {}, "egress": [{}]}});
    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let bound = with(binding(ONE, "mine", "aifactory-lead", "oidc:friend"), json!({"metadata": {"labels": null}}));
    let to_node = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "standing"}, "target": {"kind": "Node", "name": "a100-0"}});
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "standing", "namespace": ONE}});
    let free = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}});
    let admission = "admissionregistration.k8s.io/v1";
    vec![
        row("a network policy that opens", Request::post(network_policy_path(ONE, ""), open)),
        row("default deny deleted", Request::delete(network_policy_path(ONE, "aif-default-deny"))),
        row("the quota raised", Request::merge(quota_path(ONE, "aifactory"), json!({"spec": {"hard": {"pods": "999"}}}))),
        row("the quota deleted", Request::delete(quota_path(ONE, "aifactory"))),
        row("the limits", Request::post(namespaced("v1", ONE, "limitranges", ""), plain("LimitRange", json!({})))),
        row("a friend bound", Request::post(binding_path(ONE, ""), bound)),
        row("a member unbound", Request::delete(binding_path(ONE, "aif-reader-0123456789"))),
        row("a Role", Request::post(namespaced(RBAC, ONE, "roles", ""), json!({"apiVersion": RBAC, "kind": "Role", "metadata": {"name": "mine"}}))),
        row("Pod Security loosened", Request::merge(namespace_path(ONE), free)),
        row("the namespace deleted", Request::delete(namespace_path(ONE))),
        row("a namespace made", Request::post(namespace_path(""), plain("Namespace", json!({})))),
        row("a token minted", Request::post(format!("{}/token", service_account_path(ONE, "default")), token)),
        row("a ServiceAccount", Request::post(service_account_path(ONE, ""), plain("ServiceAccount", json!({})))),
        row("a DaemonSet", Request::post(namespaced("apps/v1", ONE, "daemonsets", ""), workload("DaemonSet", "mine", json!({}), json!({})))),
        row("a ReplicaSet", Request::post(namespaced("apps/v1", ONE, "replicasets", ""), workload("ReplicaSet", "mine", json!({}), json!({})))),
        row("a Pod bound to a node", Request::post(format!("{}/standing/binding", pods(ONE)), to_node)),
        row("a Pod evicted", Request::post(format!("{}/standing/eviction", pods(ONE)), eviction)),
        row("a container for debugging", Request::merge(format!("{}/standing/ephemeralcontainers", pods(ONE)), json!({}))),
        row("a Pod's status", Request::merge(format!("{}/standing/status", pods(ONE)), json!({"status": {"phase": "Succeeded"}}))),
        row("a resource claim", Request::post(namespaced("resource.k8s.io/v1", ONE, "resourceclaims", ""), json!({}))),
        row("an Ingress", Request::post(namespaced(NETWORKING, ONE, "ingresses", ""), json!({}))),
        row("endpoints", Request::post(namespaced("discovery.k8s.io/v1", ONE, "endpointslices", ""), json!({}))),
        row("another tenant's Pods", Request::get(pods(OTHER))),
        row("another tenant's Secrets", Request::get(namespaced("v1", OTHER, "secrets", ""))),
        row("a Pod at another tenant's", Request::post(pods(OTHER), pod("mine", json!({})))),
        row("another tenant's namespace", Request::get(namespace_path(OTHER))),
        row("all namespaces", Request::get(namespace_path(""))),
        row("the Nodes", Request::get(cluster("v1", "nodes", ""))),
        row("the site's policy", Request::get(config_map_path("aifactory-system", "aifactory-site-policy"))),
        row("the admission policies", Request::get(cluster(admission, "validatingadmissionpolicies", ""))),
        row("a policy deleted", Request::delete(cluster(admission, "validatingadmissionpolicies", "aifactory-tenant-pods"))),
    ]
}

/// As a reader.
pub fn reader_rows() -> Vec<Row> {
    let row = |what, request| Row::new("reader", what, request, &[By::Rbac]).words("cannot");
    vec![
        row("a Pod", Request::post(pods(ONE), pod("mine", json!({})))),
        row("a Pod deleted", Request::delete(format!("{}/standing", pods(ONE)))),
        row("Secrets", Request::get(namespaced("v1", ONE, "secrets", ""))),
        row("a command", Request::post(format!("{}/standing/exec?command=sh&stdout=true", pods(ONE)), json!({}))),
        row("a ConfigMap", Request::post(config_map_path(ONE, ""), plain("ConfigMap", json!({})))),
        row("bindings", Request::get(binding_path(ONE, ""))),
    ]
}
