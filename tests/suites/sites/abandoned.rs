//! A site that is given up, and comes back all the same.

use std::time::Duration;

use aifactory_api::{AIFactory, AccessGrant, labels};
use aifactory_tests::{Cut, eventually, run};
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

use crate::fixture::{FACTORY, NAMESPACE, PATIENCE, grant, ours};
use crate::{annotate_factory, has_condition, message, patch_factory, shared, sites_rest, tenant_of, until, written};

#[test]
fn what_an_abandoned_site_still_holds_is_an_orphan() {
    run(async {
        let world = shared().await;
        let far = world.site("bettembourg");
        world.apply(grant("left")).await;
        let tenant = tenant_of(&world.ready::<AccessGrant>("left").await);
        far.proxy().cut(Cut::Refuse).await;
        world.delete_grant("left").await;
        let waiting = until::<AccessGrant>(&world, NAMESPACE, "left", "waits for the site", |waiting| {
            has_condition(waiting, "AccessRemoved", "False", "AwaitingSite")
                && message(waiting, "AccessRemoved").starts_with("not confirmed by: bettembourg: last contact 20")
        })
        .await;
        assert!(waiting.metadata.deletion_timestamp.is_some());

        annotate_factory(&world, labels::ABANDON_SITE, Some("bettembourg")).await;
        world.gone::<AccessGrant>("left").await;
        let events: Api<Event> = Api::namespaced(world.hub().admin(), NAMESPACE);
        let event = eventually(PATIENCE, "an Event tells what is left", async || {
            let events = events.list(&ListParams::default()).await?.items;
            events.into_iter().find(|event| event.reason.as_deref() == Some("SiteAbandoned")).ok_or_else(|| "no such Event".into())
        })
        .await
        .unwrap();
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert!(event.note.as_ref().unwrap().contains("AccessGrant/example/left"), "{:?}", event.note);
        world.ready::<AIFactory>(FACTORY).await;
        sites_rest(&world, Duration::from_secs(2)).await;

        // The operator that ordered the end would go on with it; another one finds what is left without its grant. Reported, and nothing more.
        world.operator.restart().await.unwrap();
        let (before, mark) = (ours(far).await, far.audit().mark().unwrap());
        assert!(before.contains(&format!("Namespace /{tenant}")));
        far.proxy().restore().await;
        let found = until::<AIFactory>(&world, NAMESPACE, FACTORY, "names the orphan", |found| {
            has_condition(found, "OrphansFound", "True", "OrphansFound") && has_condition(found, "Ready", "False", "SiteAbandoned")
        })
        .await;
        assert_eq!(message(&found, "OrphansFound"), "bettembourg: AccessGrant/example/left");
        world.counted().await;
        world.at_rest(Duration::from_secs(3)).await;
        assert_eq!(ours(far).await, before);
        assert!(written(far, mark).is_empty(), "{}", written(far, mark).summary());

        // Locked: nobody gets in, no work starts, and what is stored stays.
        patch_factory(&world, json!({"spec": {"policy": {"orphans": "Lock"}}})).await;
        let bindings: Api<RoleBinding> = Api::namespaced(far.admin(), &tenant);
        let quotas: Api<ResourceQuota> = Api::namespaced(far.admin(), &tenant);
        eventually(PATIENCE, "the orphan is locked", async || {
            let left = bindings.list(&ListParams::default()).await?.items.len();
            let hard = quotas.get("aifactory").await?.spec.and_then(|spec| spec.hard).unwrap_or_default();
            let closed = ["requests.nvidia.com/gpu", "pods"].iter().all(|name| hard.get(*name).is_some_and(|amount| amount.0 == "0"));
            if left == 0 && closed { Ok(()) } else { Err(format!("{left} bindings, {hard:?}").into()) }
        })
        .await
        .unwrap();
        let locked = until::<AIFactory>(&world, NAMESPACE, FACTORY, "still names the orphan", |found| {
            has_condition(found, "OrphansFound", "True", "OrphansFound")
        })
        .await;
        assert_eq!(message(&locked, "OrphansFound"), "bettembourg: AccessGrant/example/left");
        sites_rest(&world, Duration::from_secs(3)).await;

        patch_factory(&world, json!({"spec": {"policy": {"orphans": "Delete"}}})).await;
        let namespaces: Api<Namespace> = Api::all(far.admin());
        eventually(PATIENCE, "the orphan is gone", async || match namespaces.get_opt(&tenant).await? {
            None => Ok(()),
            Some(found) => Err(format!("{:?}", found.status).into()),
        })
        .await
        .unwrap();
        until::<AIFactory>(&world, NAMESPACE, FACTORY, "knows of no orphan", |found| has_condition(found, "OrphansFound", "False", "NoOrphans"))
            .await;
        assert!(!ours(far).await.iter().any(|object| object.contains(&tenant)));

        patch_factory(&world, json!({"spec": {"policy": {"orphans": "Report"}}})).await;
        annotate_factory(&world, labels::ABANDON_SITE, None).await;
        world.ready::<AIFactory>(FACTORY).await;
        sites_rest(&world, Duration::from_secs(3)).await;
    });
}
