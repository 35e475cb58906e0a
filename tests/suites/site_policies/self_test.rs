//! Dry runs that must be refused: the way in which the operator itself finds out that the policies are in force.

use serde_json::json;

use crate::admission::objects::*;
use crate::admission::{By, Request, Row};
use crate::node_sets::{node_set, node_set_path};
use crate::scene::cluster_node;

pub const SYSTEM: &str = "aifactory-system";

/// One dry run a policy, as far as the operator has the right to try. The first three need nothing at the site but the roles.
pub fn rows(node: &str, slurm: &str) -> Vec<Row> {
    let row = |what, request: Request, by| Row::new("self-test", what, request.dry_run(), &[By::Policy(by)]);
    let quota = ours("v1", "ResourceQuota", SYSTEM, "aifactory", json!({"spec": {"hard": {"pods": "0"}}}));
    let labels = json!({"metadata": {"labels": {"aifactory.dev/tenant": null}}});
    vec![
        row(
            "a Namespace without our prefix",
            Request::apply(namespace_path("self-test"), tenant("self-test", "Locked", &[])),
            "aifactory-site-cluster-scoped",
        ),
        row(
            "a Namespace that is no tenant's",
            Request::apply(namespace_path("aif-self-test"), with(tenant("aif-self-test", "Locked", &[]), labels)),
            "aifactory-site-namespaces",
        ),
        row("a quota outside tenants", Request::apply(quota_path(SYSTEM, "aifactory"), quota), "aifactory-site-namespaced"),
        row(
            "a foreign label on a Node",
            Request::merge(cluster_node(node), json!({"metadata": {"labels": {"example.org/self-test": "true"}}})),
            "aifactory-site-nodes",
        ),
        row(
            "a NodeSet with a container",
            Request::apply(
                node_set_path(slurm, "self-test"),
                node_set(slurm, "self-test", json!({"template": {"spec": {"containers": [{"name": "x", "image": "x"}]}}})),
            ),
            "aifactory-site-nodesets",
        ),
        row(
            "a NodeSet with any image",
            Request::apply(node_set_path(slurm, "self-test"), node_set(slurm, "self-test", json!({"slurmd": {"image": "example.net/self-test:1"}}))),
            "aifactory-site-nodeset-images",
        ),
        row(
            "a ClusterNetworkPolicy for everybody",
            Request::apply(
                crate::cluster_wide::network_path("aif-self-test"),
                crate::cluster_wide::network("aif-self-test", json!({"namespaces": {}}), "Deny"),
            ),
            "aifactory-site-network",
        ),
    ]
}
