//! Attacks by NodeSets, which are Pods of the Slurm namespace.

use serde_json::{Value, json};

use crate::admission::objects::*;
use crate::admission::request::namespaced;
use crate::admission::{By, Request, Row};
use crate::scene::{BOUND, PLATFORM, SLURM};

const PLACE: By = By::Policy("aifactory-site-namespaced");
const SHAPE: By = By::Policy("aifactory-site-nodesets");
const IMAGES: By = By::Policy("aifactory-site-nodeset-images");

/// A NodeSet as the operator writes it, with changes to its spec.
pub fn node_set(namespace: &str, name: &str, change: Value) -> Value {
    let spec = json!({
        "controllerRef": {"name": "slurm"},
        "replicas": 2,
        "extraConf": "Gres=gpu:h100:4 Features=h100",
        "partition": {"enabled": true, "config": "State=UP MaxTime=24:00:00"},
        "slurmd": {
            "image": "example.org/slurmd:26.05",
            "resources": {"limits": {"cpu": "64", "memory": "480Gi", "nvidia.com/gpu": "4"}},
        },
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%"}},
        "template": {"spec": {
            "nodeSelector": {"aifactory.dev/pool": "h100"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Equal", "value": "h100", "effect": "NoSchedule"}],
        }},
    });
    ours(SLINKY, "NodeSet", namespace, name, json!({"spec": with(spec, change)}))
}

/// What a site's administrator, or slurm-operator, may add to a NodeSet of ours.
pub fn additions() -> Value {
    json!({
        "logfile": {"image": "example.org/alpine:3"},
        "slurmd": {"env": [{"name": "SITE", "value": "x"}]},
        "template": {
            "metadata": {"labels": {"example.org/site": "x"}, "annotations": {"example.org/site": "x"}},
            "spec": {"volumes": [{"name": "scratch", "emptyDir": {}}]},
        },
    })
}

pub fn node_set_path(namespace: &str, name: &str) -> String {
    namespaced(SLINKY, namespace, "nodesets", name)
}

pub fn rows() -> Vec<Row> {
    let row = |what, request, by: &[By]| Row::new("node sets", what, request, by);
    let spec = |change: Value| Request::apply(node_set_path(SLURM, "new"), node_set(SLURM, "new", change));
    let pod = |change: Value| spec(json!({"template": {"spec": change}}));
    let slurmd = |change: Value| spec(json!({"slurmd": change}));
    let tolerating = |toleration: Value| pod(json!({"tolerations": [toleration]}));
    let extended = |change: Value| Request::merge(node_set_path(SLURM, "extended"), json!({"spec": change}));
    let unlabelled = json!({"metadata": {"labels": null}});
    vec![
        row("where Slurm is not", Request::apply(node_set_path(PLATFORM, "h100"), node_set(PLATFORM, "h100", json!({}))), &[PLACE]),
        row("in a tenant's namespace", Request::apply(node_set_path(BOUND, "aif-h100"), node_set(BOUND, "aif-h100", json!({}))), &[PLACE]),
        row("without our label", Request::apply(node_set_path(SLURM, "new"), with(node_set(SLURM, "new", json!({})), unlabelled)), &[PLACE]),
        row("another's adopted", Request::merge(node_set_path(SLURM, "theirs"), json!({"metadata": {"labels": our_labels()}})), &[PLACE]),
        row("another's deleted", Request::delete(node_set_path(SLURM, "theirs")), &[PLACE]),
        row("scaled", Request::merge(format!("{}/scale", node_set_path(SLURM, "h100")), json!({"spec": {"replicas": 0}})), &[By::Rbac])
            .widened(PLACE),
        row("status", Request::merge(format!("{}/status", node_set_path(SLURM, "h100")), json!({"status": {"replicas": 9}})), &[By::Rbac])
            .widened(PLACE),
        row("a policy of the site's name", Request::apply(network_policy_path(SLURM, "any"), default_deny(SLURM, "any")), &[PLACE]),
        row("a policy of a tenant's name", Request::apply(network_policy_path(SLURM, "aif-dns"), default_deny(SLURM, "aif-dns")), &[PLACE]),
        row(
            "a policy where Slurm is not",
            Request::apply(network_policy_path(PLATFORM, "aif-slurm-x"), default_deny(PLATFORM, "aif-slurm-x")),
            &[PLACE],
        ),
        row("another's policy deleted", Request::delete(network_policy_path(SLURM, "aif-slurm-theirs")), &[PLACE]),
        row(
            "a quota where Slurm is",
            Request::apply(
                quota_path(SLURM, "aif-slurm-x"),
                ours("v1", "ResourceQuota", SLURM, "aif-slurm-x", json!({"spec": {"hard": {"pods": "0"}}})),
            ),
            &[PLACE],
        ),
        row("the host's files", pod(json!({"volumes": [{"name": "host", "hostPath": {"path": "/"}}]})), &[SHAPE]),
        row("the host's network", pod(json!({"hostNetwork": true})), &[SHAPE]),
        row("a ServiceAccount", pod(json!({"serviceAccountName": "slurm-operator"})), &[SHAPE]),
        row("one more container", pod(json!({"containers": [{"name": "x", "image": "example.net/x"}]})), &[SHAPE]),
        row("an init container", pod(json!({"initContainers": [{"name": "x", "image": "example.net/x"}]})), &[SHAPE]),
        row("a node by name", pod(json!({"nodeName": "plain"})), &[SHAPE]),
        row("a priority", pod(json!({"priorityClassName": "system-node-critical"})), &[SHAPE]),
        row("any taint tolerated", tolerating(json!({"operator": "Exists"})), &[SHAPE]),
        row(
            "another pool's taint tolerated",
            tolerating(json!({"key": "nvidia.com/gpu", "operator": "Equal", "value": "a100", "effect": "NoSchedule"})),
            &[SHAPE],
        ),
        row("an addition of the site's changed", extended(json!({"logfile": {"image": "example.net/x"}})), &[SHAPE]),
        row("an environment of the site's changed", extended(json!({"slurmd": {"env": [{"name": "SITE", "value": "y"}]}})), &[SHAPE]),
        row(
            "a volume of the site's changed",
            extended(json!({"template": {"spec": {"volumes": [{"name": "scratch", "hostPath": {"path": "/"}}]}}})),
            &[SHAPE],
        ),
        row("a label of the site's changed", extended(json!({"template": {"metadata": {"labels": {"example.org/site": "y"}}}})), &[SHAPE]),
        row("a label beside the site's", extended(json!({"template": {"metadata": {"labels": {"example.org/other": "y"}}}})), &[SHAPE]),
        row("any node", pod(json!({"nodeSelector": {"aifactory.dev/pool": null}})), &[SHAPE]),
        row("any node, tolerating nothing", pod(json!({"nodeSelector": {"aifactory.dev/pool": null}, "tolerations": []})), &[SHAPE]),
        row("a command", slurmd(json!({"command": ["sh"]})), &[SHAPE]),
        row("arguments", slurmd(json!({"args": ["-L", "/etc/passwd"]})), &[SHAPE]),
        row("an environment from Secrets", slurmd(json!({"envFrom": [{"secretRef": {"name": "slurm-key"}}]})), &[SHAPE]),
        row("privileges", slurmd(json!({"securityContext": {"privileged": true}})), &[SHAPE]),
        row("claimed devices", slurmd(json!({"resources": {"claims": [{"name": "x"}]}})), &[SHAPE]),
        row("a container for logs", spec(json!({"logfile": {"image": "example.net/x"}})), &[SHAPE]),
        row("a command for logs", spec(json!({"logfile": {"image": "example.org/slurmd:26.05", "command": ["sh"]}})), &[SHAPE]),
        row("logins", spec(json!({"ssh": {"enabled": true, "sssdConfRef": {"name": "x", "key": "y"}}})), &[SHAPE]),
        row("volumes", spec(json!({"volumeClaimTemplates": [{"metadata": {"name": "x"}}]})), &[SHAPE]),
        row("labels of the controller", spec(json!({"template": {"metadata": {"labels": {"app.kubernetes.io/name": "slurmctld"}}}})), &[SHAPE]),
        row("the jobs of others", spec(json!({"partition": {"config": "State=UP Alternate=theirs"}})), &[SHAPE]),
        row("other nodes in the partition", spec(json!({"partition": {"config": "State=UP Nodes=ALL"}})), &[SHAPE]),
        row("out of the quotes", spec(json!({"extraConf": "Gres=gpu:h100:4' --conf-server 'example.net"})), &[SHAPE]),
        row("two spaces, which Slinky 1.2 does not survive", spec(json!({"extraConf": "Gres=gpu:h100:4  Features=h100"})), &[SHAPE]),
        row("an image from elsewhere", slurmd(json!({"image": "example.net/slurmd:1"})), &[IMAGES]).words("imagePrefixes"),
        row("an image whose name begins alike", slurmd(json!({"image": "example.org/slurmd-of-mine:1"})), &[IMAGES]),
        row("an image of a host whose name begins alike", slurmd(json!({"image": "mirror.example.org.example.net/x:1"})), &[IMAGES]),
        row("no image", slurmd(json!({"image": null})), &[IMAGES]),
    ]
}
