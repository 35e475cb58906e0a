//! What RBAC gives, read from the files, and that the API server finds nothing to say about the policies' expressions.

use std::collections::BTreeSet;
use std::time::Duration;

use aifactory_tests::{Manifests, eventually, layout, run};
use serde_json::{Value, json};

use crate::admission::request::cluster;
use crate::admission::{Request, passes};
use crate::{Outcome, site};

/// Group, resource and verb.
type Right = (String, String, String);

/// The rights of every rule of every role that is bound to the operator, on site and hub.
fn rights_of(roles: &[&str]) -> Result<BTreeSet<Right>, Box<dyn std::error::Error>> {
    let mut rights = BTreeSet::new();
    let mut found = BTreeSet::new();
    for chart in ["charts/aifactory-site", "charts/aifactory-hub"] {
        for object in Manifests::read(&layout::root().join(chart))?.objects() {
            let object = serde_json::to_value(object)?;
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if !matches!(object["kind"].as_str(), Some("Role" | "ClusterRole")) || !roles.contains(&name.as_str()) {
                continue;
            }
            found.insert(name);
            for rule in object["rules"].as_array().into_iter().flatten() {
                for (group, resource, verb) in products(rule) {
                    rights.insert((group, resource, verb));
                }
            }
        }
    }
    assert_eq!(found.len(), roles.len(), "{found:?}");
    Ok(rights)
}

fn products(rule: &Value) -> Vec<Right> {
    let list = |key: &str| -> Vec<String> { rule[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect() };
    let mut all = Vec::new();
    for group in list("apiGroups") {
        for resource in list("resources") {
            for verb in list("verbs") {
                all.push((group.clone(), resource.clone(), verb));
            }
        }
    }
    all
}

#[test]
fn the_operators_roles_hold_nothing_that_opens_more() -> Outcome {
    let rights = rights_of(&["aifactory-site-operator", "aifactory-operator"])?;
    for (group, resource, verb) in &rights {
        let right = format!("{verb} {resource} ({group})");
        for part in [group, resource, verb] {
            assert_ne!(part, "*", "{right}");
        }
        assert!(!["escalate", "impersonate", "approve", "sign"].contains(&verb.as_str()), "{right}");
        assert!(!["secrets", "serviceaccounts/token", "nodes/status", "nodes/proxy", "users", "groups"].contains(&resource.as_str()), "{right}");
        assert!(!resource.starts_with("pods/"), "{right}");
        match resource.as_str() {
            "pods" => assert!(["list", "watch", "deletecollection"].contains(&verb.as_str()), "{right}"),
            "jobs" | "cronjobs" | "deployments" | "statefulsets" | "replicasets" => assert_eq!(verb, "deletecollection", "{right}"),
            "clusterroles" => assert_eq!(verb, "bind", "{right}"),
            "validatingadmissionpolicies" | "validatingadmissionpolicybindings" => assert_eq!(verb, "get", "{right}"),
            "nodes" => assert!(["get", "list", "watch", "patch"].contains(&verb.as_str()), "{right}"),
            "clusterrolebindings" | "roles" => return Err(format!("must not be given: {right}").into()),
            _ => assert_ne!(verb, "deletecollection", "{right}"),
        }
    }
    Ok(())
}

/// Bound by the site in its Slurm namespace: keys are made there, and never read.
#[test]
fn the_role_for_a_slurm_of_ours_reads_no_secret() -> Outcome {
    for (group, resource, verb) in rights_of(&["aifactory-slurm"])? {
        let right = format!("{verb} {resource} ({group})");
        match resource.as_str() {
            "secrets" => assert_eq!((group.as_str(), verb.as_str()), ("", "create"), "{right}"),
            "accountings" => assert!(["create", "patch"].contains(&verb.as_str()), "{right}"),
            "controllers" | "restapis" | "tokens" => assert!(["create", "patch", "delete"].contains(&verb.as_str()), "{right}"),
            _ => return Err(format!("must not be given: {right}").into()),
        }
    }
    Ok(())
}

#[test]
fn the_members_roles_hold_nothing_that_opens_more() -> Outcome {
    let read = ["get", "list", "watch"];
    for role in ["aifactory-lead", "aifactory-member", "aifactory-reader", "aifactory-keeper"] {
        for (group, resource, verb) in rights_of(&[role])? {
            let right = format!("{role}: {verb} {resource} ({group})");
            for part in [&group, &resource, &verb] {
                assert_ne!(part, "*", "{right}");
            }
            let guarded = ["networkpolicies", "resourcequotas", "limitranges", "roles", "rolebindings", "namespaces", "serviceaccounts", "events"];
            if guarded.contains(&resource.as_str()) {
                assert!(read.contains(&verb.as_str()), "{right}");
            }
            assert!(
                !resource.contains("token") && !resource.contains("ephemeralcontainers") && !resource.contains("binding")
                    || resource == "rolebindings",
                "{right}"
            );
            if role == "aifactory-reader" || role == "aifactory-keeper" {
                assert_ne!(resource, "secrets", "{right}");
                let copies_out = role == "aifactory-keeper" && resource.starts_with("pods");
                assert!(copies_out || read.contains(&verb.as_str()), "{right}");
            }
        }
    }
    Ok(())
}

#[test]
fn every_policy_is_bound_and_well_typed() -> Outcome {
    run(async {
        let scene = site().await?;
        let admin = scene.cluster.admin();
        let policies = cluster("admissionregistration.k8s.io/v1", "validatingadmissionpolicies", "");
        let bindings = cluster("admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings", "");
        let bound = Request::get(bindings).send(&admin).await?;
        let bound: BTreeSet<&str> = items(&bound)
            .filter(|binding| binding["spec"]["validationActions"] == json!(["Deny"]))
            .filter_map(|binding| binding["spec"]["policyName"].as_str())
            .collect();
        eventually(Duration::from_secs(60), "every policy is checked", async || {
            let list = Request::get(policies.clone()).send(&admin).await?;
            for policy in items(&list) {
                let name = policy["metadata"]["name"].as_str().unwrap_or_default();
                let status = &policy["status"];
                if status["observedGeneration"] != policy["metadata"]["generation"] {
                    return Err(format!("{name} is not checked yet").into());
                }
                assert!(status["typeChecking"]["expressionWarnings"].is_null(), "{name}: {status}");
                assert!(bound.contains(name), "{name} is not bound");
                assert_eq!(policy["spec"]["failurePolicy"], "Fail", "{name}");
                for validation in policy["spec"]["validations"].as_array().into_iter().flatten() {
                    assert_eq!(validation["reason"], "Forbidden", "{name}: {validation}");
                }
                let constraints = &policy["spec"]["matchConstraints"];
                if constraints["namespaceSelector"].as_object().is_some_and(|selector| !selector.is_empty()) {
                    for rule in constraints["resourceRules"].as_array().into_iter().flatten() {
                        assert_eq!(rule["scope"], "Namespaced", "{name}: a selector of namespaces does not keep cluster-scoped objects out");
                    }
                }
            }
            assert!(items(&list).count() >= 17);
            Ok(())
        })
        .await?;
        let list = Request::get(policies.clone()).send(&admin).await?;
        for name in items(&list).filter_map(|policy| policy["metadata"]["name"].as_str()) {
            for kind in ["validatingadmissionpolicies", "validatingadmissionpolicybindings"] {
                let path = cluster("admissionregistration.k8s.io/v1", kind, name);
                passes(&scene.operator, &format!("{kind} {name} looked at by the operator"), &Request::get(path)).await?;
            }
        }
        Ok(())
    })
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}
