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
        let namespace = ObjectKey::cluster(ObjectKind::NAMESPACE, name.clone());
        let inside = [
            (
                key(ObjectKind::NETWORK_POLICY, &name, "aif-default-deny"),
                json!({"spec": {"podSelector": {"matchLabels": {"guarded": "yes"}}, "policyTypes": ["Ingress"], "ingress": [{}]}}),
            ),
            (key(ObjectKind::LIMIT_RANGE, &name, "aifactory"), json!({"spec": {"limits": [{"type": "Container", "default": {"memory": "1Gi"}}]}})),
            (key(ObjectKind::CONFIG_MAP, &name, "aifactory-access"), json!({"data": {"server": "https://elsewhere.example.eu", "theirs": "1"}})),
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

        // Handed over as the message says; in a namespace of ours these names are ours.
        hand_over(site, &namespace).await;
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
fn what_lost_our_label_or_all_that_we_wrote_on_it_comes_back() {
    run(async {
        let scene = shared().await;
        let (world, site) = (&scene.world, scene.world.site(SITE));
        let tenant = tenant(world, "unlabelled").await;
        let bindings = api(site, &key(ObjectKind::ROLE_BINDING, &tenant, ""));
        let binding = bindings.list(&kube::api::ListParams::default().labels("aifactory.dev/managed=true")).await.unwrap().items[0].name_any();
        let objects = [
            ObjectKey::cluster(ObjectKind::NAMESPACE, tenant.clone()),
            key(ObjectKind::LIMIT_RANGE, &tenant, "aifactory"),
            key(ObjectKind::RESOURCE_QUOTA, &tenant, "aifactory"),
            key(ObjectKind::NETWORK_POLICY, &tenant, "aif-default-deny"),
            key(ObjectKind::ROLE_BINDING, &tenant, &binding),
        ];
        let label = json!({"metadata": {"labels": {labels::MANAGED: null}}});
        let annotations = json!({"metadata": {"labels": {labels::MANAGED: null, labels::OWNER: null},
            "annotations": {labels::OWNER: null, labels::OWNER_UID: null, labels::HUB: null}}});
        for key in &objects {
            // A Namespace without our annotations is nobody's.
            let edits = if key.kind == ObjectKind::NAMESPACE { vec![&label] } else { vec![&label, &annotations] };
            for edit in edits {
                let before = content(&api(site, key).get(&key.name).await.unwrap());
                api(site, key).patch(&key.name, &PatchParams::default(), &Patch::Merge(edit)).await.unwrap();
                eventually(PATIENCE, format!("{key} is as it was"), async || {
                    let now = content(&api(site, key).get(&key.name).await?);
                    if now == before { Ok(()) } else { Err(now.to_string().into()) }
                })
                .await
                .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()));
            }
        }
        world.ready::<AccessGrant>("unlabelled").await;
        rest(world).await;
        end(world, "unlabelled").await;
    });
}

/// A Namespace from which somebody has taken all that we wrote on it, when access is to go.
#[test]
fn a_namespace_without_its_marks_keeps_nobody_in() {
    run(async {
        let scene = shared().await;
        let (world, site) = (&scene.world, scene.world.site(SITE));
        let tenant = tenant(world, "bare").await;
        let namespace = ObjectKey::cluster(ObjectKind::NAMESPACE, tenant.clone());
        let api_of = api(site, &namespace);
        let found = api_of.get(&tenant).await.unwrap();
        let ours = |keys: Vec<&String>| -> serde_json::Map<String, Value> {
            keys.into_iter().filter(|key| key.contains("aifactory.dev/")).map(|key| (key.clone(), Value::Null)).collect()
        };
        let bare = json!({"metadata": {"labels": ours(found.labels().keys().collect()), "annotations": ours(found.annotations().keys().collect())}});
        api_of.patch(&tenant, &PatchParams::default(), &Patch::Merge(bare)).await.unwrap();
        in_the_way_of(world, "bare", &namespace).await;
        world.patch_grant("bare", json!({"spec": {"state": "Revoked"}})).await;
        eventually(PATIENCE, "access is gone", async || {
            let status = world.api::<AccessGrant>().get("bare").await?.status.unwrap_or_default();
            let removed = condition(&status.conditions, "AccessRemoved").clone();
            if removed.status == "True" { Ok(()) } else { Err(format!("{removed:?}").into()) }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()));
        let bindings = api(site, &key(ObjectKind::ROLE_BINDING, &tenant, "")).list(&Default::default()).await.unwrap();
        let roles: Vec<String> = bindings.iter().map(|binding| binding.data["roleRef"]["name"].to_string()).collect();
        assert!(roles.iter().all(|role| role.contains("aifactory-reader")), "{roles:?}");
        hand_over(site, &namespace).await;
        eventually(PATIENCE, "the Namespace is locked", async || {
            let state = api_of.get(&tenant).await?.labels().get(labels::STATE).cloned();
            if state.as_deref() == Some("Locked") { Ok(()) } else { Err(format!("{state:?}").into()) }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()));
        end(world, "bare").await;
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
                key(ObjectKind::ROLE_BINDING, &tenant, "debug"),
                json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
                    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "somebody"}]}),
                "ForeignBinding",
            ),
            (
                key(ObjectKind::NETWORK_POLICY, &tenant, "open"),
                json!({"spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}}),
                "ForeignPolicy",
            ),
        ];
        for (key, body, reason) in &wider {
            theirs(site, key, body.clone()).await;
            let warning = warned(world, "widened", reason, &[SITE, &tenant, &key.name]).await;
            assert!(warning.contains("left alone"), "{warning}");
        }
        let message = message_at(world, "widened", "ForeignPolicy").await;
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
    let message = message_at(world, grant, &key.to_string()).await;
    assert!(message.contains("exists and is not ours; it is left alone"), "{message}");
    message
}

/// Waits until what the grant says of the site contains this.
async fn message_at(world: &World, grant: &str, words: &str) -> String {
    eventually(PATIENCE, format!("{grant} says {words:?} of {SITE}"), async || {
        let status = world.api::<AccessGrant>().get(grant).await?.status.unwrap_or_default();
        let message = status.sites.iter().find(|found| found.name == SITE).and_then(|found| found.message.clone()).unwrap_or_default();
        if message.contains(words) { Ok(message) } else { Err(message.into()) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()))
}
