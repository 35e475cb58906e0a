//! What members, readers, keepers and administrators do all day, which must pass.

use serde_json::{Value, json};

use crate::admission::objects::*;
use crate::admission::request::{cluster, namespaced};
use crate::admission::{Request, passes};
use crate::scene::*;
use crate::{Outcome, run, scene};

#[test]
fn a_plain_gpu_pod_just_works() -> Outcome {
    run(async {
        let scene = scene().await?;
        let made = passes(&scene.member, "a plain Pod", &Request::post(pods(ONE), pod("plain", json!({})))).await?;
        assert_eq!(made["spec"]["nodeSelector"]["aifactory.dev/pool"], "h100");
        let tolerations = made["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        assert!(tolerations.contains(&toleration("h100")), "{tolerations:?}");
        let pod = scene.site().await_pod(ONE, "plain", "Running", LONG).await?;
        assert_eq!(pod.spec.and_then(|spec| spec.node_name).as_deref(), Some("h100-0"));
        Ok(())
    })
}

#[test]
fn what_the_member_wrote_stays() -> Outcome {
    run(async {
        let scene = scene().await?;
        let written = json!({"spec": {
            "nodeSelector": {"aifactory.dev/pool": "h100", "kubernetes.io/os": "linux"},
            "tolerations": [toleration("h100")],
        }});
        let made = passes(&scene.member, "a Pod that says it all", &Request::post(pods(ONE), pod("explicit", written))).await?;
        let ours = made["spec"]["tolerations"].as_array().into_iter().flatten().filter(|t| **t == toleration("h100")).count();
        assert_eq!(ours, 1, "{}", made["spec"]["tolerations"]);
        assert_eq!(made["spec"]["nodeSelector"], json!({"aifactory.dev/pool": "h100", "kubernetes.io/os": "linux"}));
        let chosen = json!({"spec": {"nodeSelector": {"aifactory.dev/pool": "a100"}, "tolerations": [toleration("a100")]}});
        passes(&scene.lead, "a Pod in one of two pools", &Request::post(pods(TWO), pod("chosen", chosen))).await?;
        scene.site().await_pod(TWO, "chosen", "Running", LONG).await?;
        Ok(())
    })
}

#[test]
fn members_work() -> Outcome {
    run(async {
        let scene = scene().await?;
        let volume = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        let apps = |resource: &str| namespaced("apps/v1", ONE, resource, "");
        let named = |object: Value, name: &str| with(object, json!({"metadata": {"name": name}}));
        let mounts = json!({"spec": {"volumes": [
            {"name": "a", "emptyDir": {}}, {"name": "b", "configMap": {"name": "work"}}, {"name": "c", "persistentVolumeClaim": {"claimName": "work"}},
            {"name": "d", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}, {"name": "e", "secret": {"secretName": "work"}},
        ]}});
        for (what, request) in [
            ("a Secret", Request::post(namespaced("v1", ONE, "secrets", ""), named(plain("Secret", json!({})), "work"))),
            ("a ConfigMap", Request::post(config_map_path(ONE, ""), named(plain("ConfigMap", json!({})), "work"))),
            ("a claim", Request::post(claims(ONE), named(claim(), "work"))),
            ("a Service", Request::post(namespaced("v1", ONE, "services", ""), named(service_object(), "work"))),
            ("a Pod with volumes", Request::post(pods(ONE), pod("mounts", mounts))),
            ("a Job", Request::post(namespaced("batch/v1", ONE, "jobs", ""), job("job", json!({}), json!({})))),
            ("a Deployment", Request::post(apps("deployments"), workload("Deployment", "deployment", json!({}), json!({})))),
            (
                "a StatefulSet",
                Request::post(
                    apps("statefulsets"),
                    workload("StatefulSet", "stateful", json!({"serviceName": "work", "volumeClaimTemplates": [volume]}), json!({})),
                ),
            ),
            ("a Deployment scaled", Request::merge(format!("{}/deployment/scale", apps("deployments")), json!({"spec": {"replicas": 2}}))),
            ("a label of their own", Request::merge(config_map_path(ONE, "work"), json!({"metadata": {"labels": {"team": "x"}}}))),
            ("a ConfigMap deleted in the foreground", Request::delete(format!("{}?propagationPolicy=Foreground", config_map_path(ONE, "work")))),
            ("a Pod deleted", Request::delete(format!("{}/mounts", pods(ONE)))),
            ("our ConfigMap read", Request::get(config_map_path(ONE, "aifactory-access"))),
            ("the quota read", Request::get(quota_path(ONE, ""))),
            ("Events read", Request::get(namespaced("v1", ONE, "events", ""))),
            ("the own namespace read", Request::get(namespace_path(ONE))),
        ] {
            passes(&scene.member, what, &request).await?;
        }
        let admin = scene.admin();
        aifactory_tests::eventually(LONG, "the workloads' Pods run", async || {
            let list = Request::get(pods(ONE)).send(&admin).await?;
            for label in ["deployment", "stateful"] {
                let runs = list["items"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|pod| pod["metadata"]["labels"]["app"] == label && pod["spec"]["nodeName"] == "h100-0");
                // A claim without a storage class is never bound here, so that the StatefulSet's Pod waits for its volume.
                let made = list["items"].as_array().into_iter().flatten().any(|pod| pod["metadata"]["labels"]["app"] == label);
                if !(runs || label == "stateful" && made) {
                    return Err(format!("{label} has no Pod").into());
                }
            }
            Ok(())
        })
        .await?;
        Ok(())
    })
}

#[test]
fn roles_differ() -> Outcome {
    run(async {
        let scene = scene().await?;
        let may = async |client, verb: &str, group: &str, resource: &str, subresource: &str| {
            let attributes = json!({"namespace": ONE, "verb": verb, "group": group, "resource": resource, "subresource": subresource});
            let review =
                json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": attributes}});
            let answer = Request::post(cluster("authorization.k8s.io/v1", "selfsubjectaccessreviews", ""), review).send(client).await?;
            Ok::<_, kube::Error>(answer["status"]["allowed"] == true)
        };
        let (lead, member, reader, keeper) = (&scene.lead, &scene.member, &scene.reader, &scene.keeper);
        for (verb, group, resource, subresource, allowed) in [
            ("create", "", "pods", "exec", [true, true, false, true]),
            ("create", "", "pods", "attach", [true, true, false, false]),
            ("create", "", "pods", "portforward", [true, true, false, false]),
            ("get", "", "pods", "log", [true, true, true, true]),
            ("create", "", "pods", "", [true, true, false, true]),
            ("update", "", "pods", "", [true, true, false, false]),
            ("get", "", "secrets", "", [true, true, false, false]),
            ("list", "", "persistentvolumeclaims", "", [true, true, true, true]),
            ("create", "", "persistentvolumeclaims", "", [true, true, false, false]),
            ("create", "batch", "jobs", "", [true, true, false, false]),
            ("list", "rbac.authorization.k8s.io", "rolebindings", "", [true, false, false, false]),
            ("update", "networking.k8s.io", "networkpolicies", "", [false, false, false, false]),
            ("create", "", "serviceaccounts", "token", [false, false, false, false]),
            ("impersonate", "", "serviceaccounts", "", [false, false, false, false]),
        ] {
            let seen = [
                may(lead, verb, group, resource, subresource).await?,
                may(member, verb, group, resource, subresource).await?,
                may(reader, verb, group, resource, subresource).await?,
                may(keeper, verb, group, resource, subresource).await?,
            ];
            assert_eq!(seen, allowed, "lead, member, reader, keeper: {verb} {resource}/{subresource}");
        }
        Ok(())
    })
}

#[test]
fn a_keeper_copies_data_out() -> Outcome {
    run(async {
        let scene = scene().await?;
        let site = scene.site();
        site.add_node(aifactory_tests::GpuNode::new("ordinary", 0).offered(false)).await?;
        passes(&scene.keeper, "a Pod without GPU", &Request::post(pods(LOCKED), cpu_pod("copy"))).await?;
        let pod = site.await_pod(LOCKED, "copy", "Running", LONG).await?;
        assert_eq!(pod.spec.and_then(|spec| spec.node_name).as_deref(), Some("ordinary"), "not on a pool's nodes");
        for (what, request) in [
            ("claims", Request::get(claims(LOCKED))),
            ("our ConfigMap", Request::get(config_map_path(LOCKED, "aifactory-access"))),
            ("the Pod deleted", Request::delete(format!("{}/copy", pods(LOCKED)))),
        ] {
            passes(&scene.keeper, what, &request).await?;
        }
        Ok(())
    })
}

/// The policies are for tenants: whoever administers the site, its controllers and its Nodes go on.
#[test]
fn the_site_goes_on() -> Outcome {
    run(async {
        let scene = scene().await?;
        let admin = scene.admin();
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "new", "labels": {"team": "site"}}});
        let stays = plain("ConfigMap", json!({"metadata": {"name": "sites", "finalizers": ["example.org/stay"]}}));
        for (what, request) in [
            ("a Node made", Request::post(cluster("v1", "nodes", ""), node)),
            ("a Node changed", Request::merge(cluster("v1", "nodes", "new"), json!({"spec": {"unschedulable": true}}))),
            ("a Node deleted", Request::delete(cluster("v1", "nodes", "new"))),
            ("a finalizer of the site's", Request::post(config_map_path(TWO, ""), stays)),
            ("its finalizer off", Request::merge(config_map_path(TWO, "sites"), json!({"metadata": {"finalizers": null}}))),
            ("our ConfigMap deleted", Request::delete(config_map_path(TWO, "aifactory-access"))),
            ("a Pod elsewhere", {
                let free = with(pod("free", json!({})), json!({"spec": {"nodeName": "h100-0", "tolerations": [{"operator": "Exists"}]}}));
                Request::post(pods("default"), free)
            }),
        ] {
            aifactory_tests::eventually(LONG, what, async || request.send(&admin).await.map(drop).map_err(Into::into)).await?;
        }
        Ok(())
    })
}

/// A class that the site offers to tenants, and its global default, which the API server fills in.
#[test]
fn priorities_that_the_site_gives() -> Outcome {
    run(async {
        let scene = scene().await?;
        let class = |name: &str, change: Value| {
            let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": 10});
            with(class, change).to_string()
        };
        scene.site().apply(&class("offered", json!({"metadata": {"labels": {"site.aifactory.dev/tenants": "true"}}}))).await?;
        scene.site().apply(&class("usual", json!({"globalDefault": true, "value": 1}))).await?;
        scene.site().apply(&class("internal", json!({}))).await?;
        let with_class = |name: &str| {
            Request::post(
                pods(TWO),
                pod(
                    "classy",
                    json!({"spec": {
            "priorityClassName": name, "nodeSelector": {"aifactory.dev/pool": "h100"}, "tolerations": [toleration("h100")]}}),
                ),
            )
            .dry_run()
        };
        for class in ["offered", "usual"] {
            aifactory_tests::eventually(LONG, class, async || with_class(class).send(&scene.member).await.map(drop).map_err(Into::into)).await?;
        }
        let refused = crate::Row::new("priority", "the site's own", with_class("internal"), &[crate::By::Policy("aifactory-tenant-priority")]);
        crate::admission::await_refused(&scene.member, &[refused.words("spec.priorityClassName internal")]).await?;
        Ok(())
    })
}
