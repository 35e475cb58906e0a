//! Attacks by Pods: to leave the granted pool, to take what was not granted, to stay for ever.

use serde_json::{Value, json};

use crate::admission::{By, Request, Row};
use crate::scene::*;

const PODS: By = By::Policy("aifactory-tenant-pods");
const PRIORITY: By = By::Policy("aifactory-tenant-priority");
const MARKS: By = By::Policy("aifactory-tenant-labels");
const FINALIZERS: By = By::Policy("aifactory-tenant-finalizers");

/// As a member (or a lead) of living grants.
pub fn rows() -> Vec<Row> {
    [placement(), resources(), standing()].concat()
}

fn row(what: &'static str, change: Value, by: &[By]) -> Row {
    row_in(ONE, what, change, by)
}

fn row_in(namespace: &str, what: &'static str, change: Value, by: &[By]) -> Row {
    Row::new("pods", what, Request::post(pods(namespace), pod("attack", change)), by)
}

fn placement() -> Vec<Row> {
    let selecting = |pool: &str| json!({"spec": {"nodeSelector": {"aifactory.dev/pool": pool}}});
    let tolerating = |toleration: Value| json!({"spec": {"tolerations": [toleration]}});
    let exists = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoSchedule"});
    let no_gpu = json!({"spec": {"containers": [container(json!({"limits": {"cpu": "1", "memory": "1Gi"}}))]}});
    let tolerations = "spec.tolerations may hold only";
    vec![
        row("a node by name", json!({"spec": {"nodeName": "h100-0"}}), &[PODS]).words("leave it out"),
        row("another's pool", selecting("a100"), &[PODS]).words("with one of the pools h100"),
        row("a pool that does not exist", selecting("none"), &[PODS]).words("nodeSelector: {aifactory.dev/pool: <pool>}"),
        row_in(TWO, "none of two pools", json!({}), &[PODS]).words("key: nvidia.com/gpu, operator: Equal, value: <pool>, effect: NoSchedule"),
        row_in(TWO, "none of two pools, without a GPU", no_gpu.clone(), &[PODS]).words("set spec.nodeSelector"),
        row_in(PAUSED, "a paused grant's pool", selecting("h100"), &[PODS]).words("no pool is granted here at present"),
        row_in(PAUSED, "a paused grant, without a GPU", no_gpu, &[PODS]).words("aifactory-access"),
        row("every taint tolerated", tolerating(json!({"operator": "Exists"})), &[PODS]).words(tolerations),
        row("every pool's taint tolerated", tolerating(exists("nvidia.com/gpu")), &[PODS]).words("operator: Equal, value: h100"),
        row("another pool's taint tolerated", tolerating(toleration("a100")), &[PODS]).words(tolerations),
        row("a pool's taint tolerated with any effect", tolerating(json!({"key": "nvidia.com/gpu", "value": "h100"})), &[PODS]).words(tolerations),
        row("a cordon tolerated", tolerating(exists("node.kubernetes.io/unschedulable")), &[PODS]).words(tolerations),
        row("the control plane's taint tolerated", tolerating(exists("node-role.kubernetes.io/control-plane")), &[PODS]).words(tolerations),
        row(
            "a node out of service tolerated",
            tolerating(json!({"key": "node.kubernetes.io/out-of-service", "operator": "Exists", "effect": "NoExecute"})),
            &[PODS],
        )
        .words(tolerations),
        row(
            "others kept off a node",
            json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "namespaceSelector": {}, "labelSelector": {}}]}}}}),
            &[By::Quota],
        )
        .words("aifactory-affinity"),
        Row::new(
            "pods",
            "one more toleration, later",
            Request::json_patch(
                format!("{}/standing", pods(ONE)),
                json!([{"op": "add", "path": "/spec/tolerations/-", "value": {"operator": "Exists"}}]),
            ),
            &[PODS],
        )
        .words(tolerations),
    ]
}

fn resources() -> Vec<Row> {
    let asking = |resource: &str| json!({"spec": {"containers": [container(json!({"limits": {"memory": "1Gi", (resource): "1"}}))]}});
    let initially = json!({"spec": {"initContainers": [
        {"name": "first", "image": "example.org/x", "resources": {"limits": {"example.org/fpga": "1"}},
         "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}});
    vec![
        row("a slice without quota", asking("nvidia.com/mig-1g.10gb"), &[PODS]).words("containers may not ask for nvidia.com/mig-1g.10gb"),
        row("another device", asking("example.org/fpga"), &[PODS]).words("nvidia.com/gpu are granted"),
        row("another device in an init container", initially, &[PODS]).words("example.org/fpga"),
        row("another vendor's GPU", asking("amd.com/gpu"), &[PODS]).words("amd.com/gpu"),
        row("a device class as a resource", asking("deviceclass.resource.kubernetes.io/gpu"), &[PODS]).words("may not ask for deviceclass"),
        row("an end that takes a year", json!({"spec": {"terminationGracePeriodSeconds": 31_536_000}}), &[PODS])
            .words("terminationGracePeriodSeconds is at most 600"),
        row("a resource claim", json!({"spec": {"resourceClaims": [{"name": "x", "resourceClaimTemplateName": "x"}]}}), &[PODS])
            .words("ask for accelerators in resources.limits"),
        row(
            "more GPUs than granted",
            json!({"spec": {"containers": [container(json!({"limits": {"memory": "1Gi", "nvidia.com/gpu": "65"}}))]}}),
            &[By::Quota],
        )
        .words("requests.nvidia.com/gpu"),
        row("the site's priority", json!({"spec": {"priorityClassName": "system-node-critical"}}), &[PRIORITY]).words("leave it out"),
        row("the site's other priority", json!({"spec": {"priorityClassName": "system-cluster-critical"}}), &[PRIORITY]).words("leave it out"),
    ]
}

fn standing() -> Vec<Row> {
    let volume = |volume: Value| json!({"spec": {"volumes": [volume]}});
    let claimed = volume(json!({"name": "x", "ephemeral": {"volumeClaimTemplate": {"spec": {
        "accessModes": ["ReadWriteOnce"], "volumeName": "theirs", "resources": {"requests": {"storage": "1Gi"}}}}}}));
    let network = volume(json!({"name": "x", "nfs": {"server": "192.0.2.1", "path": "/"}}));
    vec![
        row("the host's files", volume(json!({"name": "x", "hostPath": {"path": "/"}})), &[By::PodSecurity]).words("hostPath"),
        row("the host's network", json!({"spec": {"hostNetwork": true}}), &[By::PodSecurity]).words("hostNetwork"),
        row_in(BASELINE, "the host's processes", json!({"spec": {"hostPID": true}}), &[By::PodSecurity]).words("hostPID"),
        row_in(BASELINE, "storage past the network policies", network, &[PODS]).words("use a PersistentVolumeClaim"),
        row("storage of any driver", volume(json!({"name": "x", "csi": {"driver": "nfs.example.org"}})), &[PODS])
            .words("use a PersistentVolumeClaim"),
        row("another's volume in a Pod", claimed, &[PODS]).words("volumeName"),
        row("a finalizer", json!({"metadata": {"finalizers": ["example.org/stay"]}}), &[PODS, FINALIZERS]).words("leave it out"),
        row("our label", json!({"metadata": {"labels": {"aifactory.dev/managed": "true"}}}), &[MARKS]).words("leave them out"),
        row("our annotation", json!({"metadata": {"annotations": {"aifactory.dev/owner": "AccessGrant/x/y"}}}), &[MARKS]).words("leave them out"),
    ]
}

/// As a keeper, after the end of the grant.
pub fn locked_rows() -> Vec<Row> {
    let selecting = json!({"spec": {"nodeSelector": {"aifactory.dev/pool": "h100"}}});
    let tolerating = json!({"spec": {"tolerations": [toleration("h100")]}});
    let row = |what, change, words| row_in(LOCKED, what, change, &[PODS]).words(words);
    vec![
        row("a GPU after the end", json!({}), "may not ask for nvidia.com/gpu"),
        row("the pool after the end", selecting, "the grant has ended"),
        row("the pool's taint after the end", tolerating, "spec.tolerations"),
        Row::new(
            "pods",
            "a Job after the end",
            Request::post("/apis/batch/v1/namespaces/aif-locked-0123456789/jobs", job("j", json!({}), json!({}))),
            &[By::Rbac],
        ),
        Row::new("pods", "a Secret after the end", Request::get("/api/v1/namespaces/aif-locked-0123456789/secrets"), &[By::Rbac]),
    ]
}
