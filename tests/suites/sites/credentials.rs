//! A site's credential is replaced: by a new one, a bad one, one of another place, and one of another cluster.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use aifactory_api::{AIFactory, AccessGrant, labels};
use aifactory_tests::{Cluster, Cut, Kubeconfig, Request, credential_name, eventually, run};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::fixture::{self, FACTORY, NAMESPACE, PATIENCE, World, grant, ours};
use crate::{has_condition, message, shared, sites_rest, until, written};

/// A changed Secret is in use within this time.
const IN_USE: i64 = 5000;

#[test]
fn a_rotated_credential_is_in_use_within_seconds() {
    run(async {
        let world = shared().await;
        let site = world.site("bissen");
        let begun = site.audit().mark().unwrap();
        let token = put(&world, site.site_kubeconfig().await.unwrap()).await;
        let certificate = put(
            &world,
            site.kubeconfig_until("aifactory:hub", &[], Some(std::time::SystemTime::now() + Duration::from_secs(7200)))
                .unwrap()
                .at(site.proxy().address()),
        )
        .await;
        let expiring = until::<AIFactory>(&world, NAMESPACE, FACTORY, "tells when the credential expires", |factory| {
            factory.status.as_ref().unwrap().sites[0].credential.as_ref().is_some_and(|credential| credential.expires_at.is_some())
        })
        .await;
        assert!(has_condition(&expiring, "Ready", "True", "AsSpecified"));

        // A line that is dead, and a Secret that leads past it.
        site.proxy().cut(Cut::Silent).await;
        until::<AIFactory>(&world, NAMESPACE, FACTORY, "notices that the site is silent", |factory| {
            has_condition(factory, "SitesReachable", "False", "SiteUnreachable")
        })
        .await;
        let elsewhere = put(&world, site.site_kubeconfig().await.unwrap().at(site.address())).await;
        site.proxy().restore().await;

        // A bad one, and the way back.
        let edited_at = Timestamp::now();
        world.federation.put_credential(NAMESPACE, &credential_name("bissen"), "users: [{name: x, user: {exec: {command: sh}}}]").await.unwrap();
        let bad = until::<AIFactory>(&world, NAMESPACE, FACTORY, "refuses the credential", |factory| {
            has_condition(factory, "Ready", "False", "CredentialInvalid")
        })
        .await;
        let refused = Timestamp::now().duration_since(edited_at).as_millis();
        assert!(refused <= IN_USE.into(), "{refused} ms");
        assert!(has_condition(&bad, "Stalled", "True", "CredentialInvalid"));
        let again = put(&world, site.site_kubeconfig().await.unwrap()).await;
        world.ready::<AIFactory>(FACTORY).await;
        eprintln!(
            "in use after: token {token} ms, certificate {certificate} ms, past a dead line {elsewhere} ms, after a bad one {again} ms; the bad one refused after {refused} ms"
        );
        world.counted().await;
        world.at_rest(Duration::from_secs(3)).await;
        assert!(written(site, begun).is_empty(), "{}", written(site, begun).summary());
    });
}

#[test]
fn a_factory_that_names_another_secret_lets_the_former_go() {
    run(async {
        let world = shared().await;
        let site = world.site("bissen");
        world.federation.put_credential(NAMESPACE, "bissen-next", &site.site_kubeconfig().await.unwrap().to_yaml().unwrap()).await.unwrap();
        let mut factory = fixture::factory();
        factory["spec"]["sites"][0]["kubernetes"]["push"]["kubeconfigSecretRef"]["name"] = json!("bissen-next");
        world.apply(factory).await;
        held(&world, "bissen-next", true).await;
        held(&world, &credential_name("bissen"), false).await;
        world.ready::<AIFactory>(FACTORY).await;
        // The new worker is sent its intents without any event.
        world.apply(grant("renamed")).await;
        world.ready::<AccessGrant>("renamed").await;
        world.apply(fixture::factory()).await;
        held(&world, &credential_name("bissen"), true).await;
        held(&world, "bissen-next", false).await;
        world.ready::<AIFactory>(FACTORY).await;
        let mark = site.audit().mark().unwrap();
        world.patch_grant("renamed", json!({"spec": {"state": "Revoked"}})).await;
        until::<AccessGrant>(&world, NAMESPACE, "renamed", "ended", |grant| has_condition(grant, "AccessRemoved", "True", "AccessGone")).await;
        assert!(!written(site, mark).accepted().is_empty());
        world.delete_grant("renamed").await;
        world.gone::<AccessGrant>("renamed").await;
        sites_rest(&world, Duration::from_secs(3)).await;
    });
}

#[test]
fn a_credential_of_another_cluster_is_not_used() {
    run(async {
        let world = shared().await;
        let (site, other) = (world.site("bissen"), world.site("bettembourg"));
        world.apply(grant("steady")).await;
        world.ready::<AccessGrant>("steady").await;
        let (before, there) = (ours(site).await, ours(other).await);
        let (mark, other_mark) = (site.audit().mark().unwrap(), other.audit().mark().unwrap());
        let seen = credentials(other);
        world
            .federation
            .put_credential(NAMESPACE, &credential_name("bissen"), &other.site_kubeconfig().await.unwrap().to_yaml().unwrap())
            .await
            .unwrap();
        let begun = Instant::now();
        let changed = until::<AIFactory>(&world, NAMESPACE, FACTORY, "sees another cluster", |factory| {
            has_condition(factory, "Ready", "False", "SiteIdentityChanged")
        })
        .await;
        eprintln!("another cluster noticed after {:?}", begun.elapsed());
        let text = message(&changed, "Ready");
        assert!(text.starts_with("bissen: another cluster answers") && text.contains(labels::ACCEPT_IDENTITY), "{text}");
        assert!(has_condition(&changed, "Stalled", "True", "SiteIdentityChanged"));

        // Neither a revocation nor a restart makes it write there.
        world.patch_grant("steady", json!({"spec": {"state": "Paused"}})).await;
        until::<AccessGrant>(&world, NAMESPACE, "steady", "paused where it can be", |grant| crate::at_site(grant, "bettembourg").0 == "Paused").await;
        world.operator.restart().await.unwrap();
        world.operator.await_ready(PATIENCE).await.unwrap();
        eventually(PATIENCE, "the operator asks again after its restart", async || {
            if world.operator.log()?.matches("another cluster answers").count() >= 2 { Ok(()) } else { Err("not yet".into()) }
        })
        .await
        .unwrap();
        until::<AIFactory>(&world, NAMESPACE, FACTORY, "still sees another cluster", |factory| {
            has_condition(factory, "Ready", "False", "SiteIdentityChanged")
        })
        .await;
        let foreign = other
            .audit()
            .since(other_mark)
            .unwrap()
            .only(|request| !request.credential.is_empty() && !seen.contains(&request.credential) && of_site(request));
        assert!(!foreign.is_empty(), "the credential was tried");
        let wrote = foreign.only(|request| !matches!(request.verb.as_str(), "get" | "list" | "watch"));
        assert!(wrote.is_empty(), "{}", wrote.summary());
        assert!(written(site, mark).is_empty(), "{}", written(site, mark).summary());
        assert_eq!((ours(site).await, ours(other).await.len()), (before, there.len()));

        let back = put(&world, site.site_kubeconfig().await.unwrap()).await;
        eprintln!("the right one in use after {back} ms");
        world.ready::<AIFactory>(FACTORY).await;
        world.ready::<AccessGrant>("steady").await;
        world.delete_grant("steady").await;
        world.gone::<AccessGrant>("steady").await;
        sites_rest(&world, Duration::from_secs(3)).await;
    });
}

/// Replaces the credential of bissen; milliseconds until it is used.
async fn put(world: &World, kubeconfig: Kubeconfig) -> i64 {
    let site = world.site("bissen");
    let seen = credentials(site);
    let begun = Timestamp::now();
    world.federation.put_credential(NAMESPACE, &credential_name("bissen"), &kubeconfig.to_yaml().unwrap()).await.unwrap();
    let first = eventually(PATIENCE, "the new credential is used", async || {
        let all = site.audit().all()?;
        let first = all.iter().find(|request| of_site(request) && !request.credential.is_empty() && !seen.contains(&request.credential));
        first.map(|request| request.received.parse::<Timestamp>().unwrap()).ok_or_else(|| "not yet".into())
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()));
    let after: i64 = first.duration_since(begun).as_millis().try_into().unwrap();
    assert!(after <= IN_USE, "in use only after {after} ms\n{}", world.log_tail());
    after
}

/// The credentials with which the operator has come to a site so far.
fn credentials(site: &Cluster) -> BTreeSet<String> {
    site.audit().all().unwrap().iter().filter(|request| of_site(request)).map(|request| request.credential.clone()).collect()
}

fn of_site(request: &Request) -> bool {
    request.user.contains("aifactory")
}

/// Waits until a Secret carries our finalizer, or none.
async fn held(world: &World, name: &str, wanted: bool) {
    let secrets: Api<Secret> = Api::namespaced(world.hub().admin(), NAMESPACE);
    eventually(PATIENCE, format!("Secret {name} held: {wanted}"), async || {
        let found = secrets.get(name).await?;
        let held = found.finalizers().iter().any(|finalizer| finalizer == labels::FINALIZER);
        if held == wanted { Ok(()) } else { Err(format!("{:?}", found.finalizers()).into()) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()));
}
