//! What belongs to somebody else: never touched, and named where it is in the way or gives more than a grant gives.

use aifactory_api::name::tenant_namespace;
use aifactory_api::{AccessGrant, Kind, OwnerRef, labels};
use aifactory_plan::model::object::{ObjectKey, ObjectKind};
use aifactory_tests::{Cluster, eventually, run};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::fixture::{self, NAMESPACE, PATIENCE, World, condition};
use crate::{SITE, api, content, end, key, rest, shared, tenant, warned};

#[test]
fn a_foreign_object_of_our_name_is_left_alone_until_it_is_handed_over() {
    run(async {
        let scene = shared().await;
        let (world, site) = (&scene.world, scene.world.site(SITE));
        let name = future_namespace(world, "taken").await;
        let namespace = ObjectKey::cluster(ObjectKind::Namespace, name.clone());
        let inside = [
            (
                key(ObjectKind::NetworkPolicy, &name, "aif-default-deny"),
                json!({"spec": {"podSelector": {"matchLabels": {"guarded": "yes"}}, "policyTypes": ["Ingress"], "ingress": [{}]}}),
            ),
            (key(ObjectKind::LimitRange, &name, "aifactory"), json!({"spec": {"limits": [{"type": "Container", "default": {"memory": "1Gi"}}]}})),
            (key(ObjectKind::ConfigMap, &name, "aifactory-access"), json!({"data": {"server": "https://elsewhere.example.eu", "theirs": "1"}})),
        ];
        theirs(site, &namespace, json!({})).await;
        for (key, body) in &inside {
            theirs(site, key, body.clone()).await;
        }
        let before = untouched(site, &namespace).await;

        world.apply(fixture::grant("taken")).await;
        let message = in_the_way(world, &namespace).await;
        assert!(message.contains(&format!("kubectl label namespace {name} aifactory.dev/managed=true")), "{message}");
        warned(world, "taken", "ForeignObject", &[SITE, &name]).await;
        assert_eq!(untouched(site, &namespace).await, before);
        rest(world).await;

        // Handed over one by one, as the messages say.
        hand_over(site, &namespace).await;
        for (key, _) in &inside {
            let before = untouched(site, key).await;
            let message = in_the_way(world, key).await;
            let (_, _, kind, _) = key.kind.gvk();
            let way = format!("kubectl label {} {} -n {name} aifactory.dev/managed=true", kind.to_lowercase(), key.name);
            assert!(message.contains(&way), "{message}, not {way}");
            assert_eq!(untouched(site, key).await, before);
            hand_over(site, key).await;
        }
        world.ready::<AccessGrant>("taken").await;
        let policy = api(site, &inside[0].0).get("aif-default-deny").await.unwrap();
        assert_eq!(policy.data["spec"], json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}), "nothing of what it opened is left");
        let note = api(site, &inside[2].0).get("aifactory-access").await.unwrap();
        assert_eq!(note.data["data"]["server"], "https://api.bissen.example.eu:6443");
        assert_eq!(note.data["data"]["theirs"], "1");
        rest(world).await;
        end(world, "taken").await;
    });
}

#[test]
fn an_object_that_lost_our_label_is_named_and_not_taken_back() {
    run(async {
        let scene = shared().await;
        let (world, site) = (&scene.world, scene.world.site(SITE));
        let tenant = tenant(world, "unlabelled").await;
        let limits = key(ObjectKind::LimitRange, &tenant, "aifactory");
        let away = json!({"metadata": {"labels": {labels::MANAGED: null}}, "spec": {"limits": [{"type": "Pod", "max": {"cpu": "1"}}]}});
        api(site, &limits).patch("aifactory", &PatchParams::default(), &Patch::Merge(away)).await.unwrap();
        let before = content(&api(site, &limits).get("aifactory").await.unwrap());
        in_the_way_of(world, "unlabelled", &limits).await;
        assert_eq!(content(&api(site, &limits).get("aifactory").await.unwrap()), before);
        hand_over(site, &limits).await;
        world.ready::<AccessGrant>("unlabelled").await;
        let back = api(site, &limits).get("aifactory").await.unwrap();
        assert_eq!(back.data["spec"]["limits"][0]["default"]["memory"], "4Gi");
        end(world, "unlabelled").await;
    });
}

#[test]
fn bindings_and_policies_that_widen_a_grant_are_named() {
    run(async {
        let scene = shared().await;
        let (world, site) = (&scene.world, scene.world.site(SITE));
        let tenant = tenant(world, "widened").await;
        let wider = [
            (
                key(ObjectKind::RoleBinding, &tenant, "debug"),
                json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
                    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "somebody"}]}),
                "ForeignBinding",
            ),
            (
                key(ObjectKind::NetworkPolicy, &tenant, "open"),
                json!({"spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}}),
                "ForeignPolicy",
            ),
        ];
        for (key, body, reason) in &wider {
            theirs(site, key, body.clone()).await;
            let told = warned(world, "widened", reason, &[SITE, &tenant, &key.name]).await;
            assert!(told.contains("left alone"), "{told}");
        }
        let message = told_at(world, "widened", "ForeignPolicy").await;
        assert!(message.contains(": debug.") && message.contains(": open."), "{message}");
        let grant = world.ready::<AccessGrant>("widened").await;
        let isolated = condition(&grant.status.as_ref().unwrap().conditions, "NetworkIsolated").clone();
        assert_eq!((isolated.status.as_str(), isolated.reason.as_str()), ("False", "ForeignPolicy"), "{isolated:?}");
        for (key, body, _) in &wider {
            let found = untouched(site, key).await;
            assert!(body.as_object().unwrap().iter().all(|(part, value)| found[part] == *value), "{found}");
        }
        rest(world).await;

        for (key, _, _) in &wider {
            api(site, key).delete(&key.name, &Default::default()).await.unwrap();
        }
        eventually(PATIENCE, "nothing is named any more", async || {
            let sites = world.api::<AccessGrant>().get("widened").await?.status.unwrap_or_default().sites;
            let messages: Vec<_> = sites.iter().filter_map(|site| site.message.clone()).collect();
            if messages.is_empty() { Ok(()) } else { Err(messages.join("; ").into()) }
        })
        .await
        .unwrap();
        assert_eq!(condition(&world.ready::<AccessGrant>("widened").await.status.unwrap().conditions, "NetworkIsolated").status, "True");
        end(world, "widened").await;
    });
}

/// The namespace that a grant of this name will have.
async fn future_namespace(world: &World, grant: &str) -> String {
    let hub = Api::<ConfigMap>::namespaced(world.hub().admin(), "aifactory-system").get("aifactory-hub").await.unwrap();
    tenant_namespace(&hub.data.unwrap()["id"], &OwnerRef::new(Kind::AccessGrant, NAMESPACE, grant))
}

/// Somebody else makes an object.
async fn theirs(site: &Cluster, key: &ObjectKey, body: Value) {
    let mut object = body;
    object["apiVersion"] = json!(key.kind.api_version());
    object["kind"] = json!(key.kind.gvk().2);
    object["metadata"] = json!({"name": key.name});
    if !key.namespace.is_empty() {
        object["metadata"]["namespace"] = json!(key.namespace);
    }
    site.apply(&object.to_string()).await.unwrap();
}

/// The content of an object that has nothing of ours.
async fn untouched(site: &Cluster, key: &ObjectKey) -> Value {
    let found = api(site, key).get(&key.name).await.unwrap();
    assert!(found.managed_fields().iter().all(|entry| entry.manager.as_deref() != Some(labels::SITE_MANAGER)), "{key}: {:?}", found.managed_fields());
    assert!(found.labels().keys().chain(found.annotations().keys()).all(|name| !name.starts_with("aifactory.dev/")), "{key}");
    content(&found)
}

async fn hand_over(site: &Cluster, key: &ObjectKey) {
    let label = json!({"metadata": {"labels": {labels::MANAGED: "true"}}});
    api(site, key).patch(&key.name, &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
}

/// Waits until the grant names an object in its way; returns the message.
async fn in_the_way(world: &World, key: &ObjectKey) -> String {
    in_the_way_of(world, "taken", key).await
}

async fn in_the_way_of(world: &World, grant: &str, key: &ObjectKey) -> String {
    let message = told_at(world, grant, &key.to_string()).await;
    assert!(message.contains("exists and is not ours; it is left alone"), "{message}");
    message
}

/// Waits until what the grant says of the site contains this.
async fn told_at(world: &World, grant: &str, words: &str) -> String {
    eventually(PATIENCE, format!("{grant} says {words:?} of {SITE}"), async || {
        let status = world.api::<AccessGrant>().get(grant).await?.status.unwrap_or_default();
        let message = status.sites.iter().find(|found| found.name == SITE).and_then(|found| found.message.clone()).unwrap_or_default();
        if message.contains(words) { Ok(message) } else { Err(message.into()) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()))
}
