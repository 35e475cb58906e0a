//! NetworkPolicies of a site's Slurm namespace: who may reach which of Slurm's daemons.
//!
//! These policies do not separate grants within one Slurm cluster: their jobs share slurmd Pods.

use aifactory_api::labels;
use aifactory_api::slurm::{SlinkyAccess, SlurmService};
use serde_json::{Value, json};

use super::{NAMESPACE_NAME, cidr};
use crate::model::intent::SiteIntent;
use crate::model::object::{Object, ObjectKey, ObjectKind, Ownership};

/// What all names of these policies begin with.
pub const PREFIX: &str = "aif-slurm-";

/// The label by which Slinky marks its daemons.
const DAEMON: &str = "app.kubernetes.io/name";

/// The NetworkPolicies; none where the factory has no `access`.
pub fn slurm_policies(site: &SiteIntent, ownership: &Ownership) -> Vec<Object> {
    let Some(slinky) = site.slurm.as_ref().and_then(|slurm| slurm.slinky.as_ref()) else { return Vec::new() };
    let Some(access) = &slinky.access else { return Vec::new() };
    let policy = |name: &str, pods: Value, ingress: Vec<Value>| {
        let key = ObjectKey::namespaced(ObjectKind::NETWORK_POLICY, &slinky.namespace, format!("{PREFIX}{name}"));
        let spec = json!({"podSelector": pods, "policyTypes": ["Ingress"], "ingress": ingress, "egress": []});
        Object::new(key, ownership, json!({"spec": spec}))
    };
    let daemon = |name: &str| json!({"matchLabels": {DAEMON: name}});
    let from = |daemons: &[&str]| daemons.iter().map(|name| json!({"podSelector": daemon(name)})).collect::<Vec<_>>();
    let tcp = |port: u16| json!([{"protocol": "TCP", "port": port}]);
    // srun, PMIx and NCCL use arbitrary ports.
    let any_tcp = json!([{"protocol": "TCP"}]);
    let mut rest = vec![namespace(&access.operator_namespace), namespace(labels::SYSTEM_NAMESPACE)];
    rest.extend(blocks(&access.rest_cidrs));
    rest.extend(tenants(access, SlurmService::Rest));
    let mut login = blocks(&access.login_cidrs);
    login.extend(tenants(access, SlurmService::Login));
    let mut login_rules = vec![json!({"from": from(&["slurmctld", "slurmd"]), "ports": any_tcp})];
    // Without a peer a rule would open the port to everybody.
    if !login.is_empty() {
        login_rules.push(json!({"from": login, "ports": tcp(22)}));
    }
    vec![
        policy("default-deny", json!({}), Vec::new()),
        policy(
            "slurmctld",
            daemon("slurmctld"),
            vec![json!({"from": from(&["slurmd", "login", "slurmdbd", "slurmrestd", "slurmctld"]), "ports": tcp(6817)})],
        ),
        policy(
            "slurmd",
            daemon("slurmd"),
            vec![json!({"from": from(&["slurmctld"]), "ports": tcp(6818)}), json!({"from": from(&["slurmd", "login"]), "ports": any_tcp})],
        ),
        policy("slurmdbd", daemon("slurmdbd"), vec![json!({"from": from(&["slurmctld", "slurmrestd", "login"]), "ports": tcp(6819)})]),
        // A database beside Slurm, whatever its labels.
        policy("database", json!({}), vec![json!({"from": from(&["slurmdbd"]), "ports": tcp(3306)})]),
        policy("slurmrestd", daemon("slurmrestd"), vec![json!({"from": rest, "ports": tcp(6820)})]),
        policy("login", daemon("login"), login_rules),
    ]
}

fn namespace(name: &str) -> Value {
    json!({"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: name}}})
}

fn blocks(cidrs: &[String]) -> Vec<Value> {
    cidrs.iter().filter_map(|text| cidr::parse(text)).map(|range| json!({"ipBlock": {"cidr": range.to_string()}})).collect()
}

/// Namespaces of grants that are in force; a locked one reaches nothing.
fn tenants(access: &SlinkyAccess, service: SlurmService) -> Option<Value> {
    access.tenants.contains(&service).then(|| {
        json!({"namespaceSelector": {
            "matchLabels": {(labels::TENANT): "true"},
            "matchExpressions": [{"key": (labels::STATE), "operator": "NotIn", "values": [labels::STATE_LOCKED]}],
        }})
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

    use super::*;

    fn of(access: Value) -> Vec<Object> {
        let site: SiteIntent = serde_json::from_value(json!({
            "version": 1, "hub": "hub", "factory": {"kind": "AIFactory", "namespace": "example", "name": "example"}, "factory_uid": "1",
            "site": "bissen", "expected_uid": null, "accepted_uid": null, "release": false, "protected": [], "dns": {}, "services": [],
            "access": {}, "policy": {}, "accelerators": [], "config": null,
            "slurm": {"clusterName": "bissen", "slinky": {
                "namespace": "slurm", "controllerRef": {"name": "slurm"}, "image": "example.org/slurmd:1", "access": access,
            }},
        }))
        .unwrap();
        let ownership = Ownership::new(&site.hub, &site.factory, &site.factory_uid);
        slurm_policies(&site, &ownership)
    }

    fn ingress(objects: &[Object], name: &str) -> Value {
        objects.iter().find(|object| object.key.name == format!("aif-slurm-{name}")).unwrap().content["spec"]["ingress"].clone()
    }

    #[test]
    fn nothing_is_written_without_access_in_the_factory() {
        assert_eq!(of(Value::Null), []);
    }

    #[test]
    fn each_daemon_is_reached_by_its_peers_only() {
        let objects = of(json!({}));
        assert_eq!(objects.len(), 7);
        assert!(objects.iter().all(|object| object.key.namespace == "slurm"));
        assert_eq!(ingress(&objects, "default-deny"), json!([]));
        assert_eq!(
            ingress(&objects, "slurmdbd"),
            json!([{
                "from": [
                    {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "slurmctld"}}},
                    {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "slurmrestd"}}},
                    {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "login"}}},
                ],
                "ports": [{"protocol": "TCP", "port": 6819}],
            }])
        );
        // Nobody logs in from outside, and only the two operators reach REST.
        assert_eq!(ingress(&objects, "login").as_array().unwrap().len(), 1);
        assert_eq!(
            ingress(&objects, "slurmrestd")[0]["from"],
            json!([
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "slinky"}}},
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "aifactory-system"}}},
            ])
        );
        // A rule without peers opens to everybody.
        for object in &objects {
            for rule in object.content["spec"]["ingress"].as_array().unwrap() {
                assert!(!rule["from"].as_array().unwrap().is_empty(), "{}", object.key);
            }
        }
    }

    #[test]
    fn login_and_rest_open_as_the_factory_specifies() {
        let objects = of(json!({"loginCIDRs": ["198.51.100.0/24"], "restCIDRs": ["203.0.113.7/32"], "tenants": ["Login"]}));
        let login = ingress(&objects, "login")[1].clone();
        assert_eq!(login["ports"], json!([{"protocol": "TCP", "port": 22}]));
        assert_eq!(login["from"][0], json!({"ipBlock": {"cidr": "198.51.100.0/24"}}));
        assert_eq!(login["from"][1]["namespaceSelector"]["matchLabels"], json!({"aifactory.dev/tenant": "true"}));
        let rest = ingress(&objects, "slurmrestd")[0]["from"].clone();
        assert_eq!(rest.as_array().unwrap().len(), 3);
        assert_eq!(rest[2], json!({"ipBlock": {"cidr": "203.0.113.7/32"}}));
    }
}
