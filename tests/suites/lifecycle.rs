//! The main job, end to end on real API servers: three resources become objects on two sites, and stay true.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod fixture;

use std::time::Duration;

use aifactory_api::AccessGrant;
use fixture::{World, condition, grant, ours};

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_becomes_objects_on_both_sites_and_rests() {
    let world = World::start("lifecycle").await;
    world.apply(grant("alpha")).await;
    let bound = world.ready::<AccessGrant>("alpha").await;
    let status = bound.status.as_ref().unwrap();
    assert_eq!(status.phase.as_deref(), Some("Active"));
    assert_eq!(status.summary.as_ref().unwrap().sites, "2/2");
    assert_eq!(condition(&status.conditions, "Usable").status, "True");
    assert_eq!(condition(&status.conditions, "NetworkIsolated").status, "True");
    let tenant = world.tenant(&bound);
    for site in world.federation.sites() {
        let found = ours(site).await;
        for wanted in [
            format!("Namespace /{tenant}"),
            format!("NetworkPolicy {tenant}/aif-default-deny"),
            format!("NetworkPolicy {tenant}/aif-dns"),
            format!("NetworkPolicy {tenant}/aif-namespace"),
            format!("NetworkPolicy {tenant}/aif-egress"),
            format!("ResourceQuota {tenant}/aifactory"),
            format!("ResourceQuota {tenant}/aifactory-affinity"),
            format!("LimitRange {tenant}/aifactory"),
            format!("ServiceAccount {tenant}/aifactory"),
            format!("ConfigMap {tenant}/aifactory-access"),
        ] {
            assert!(found.contains(&wanted), "{wanted} is not at {}: {found:?}", site.name());
        }
        assert_eq!(found.iter().filter(|object| object.starts_with("RoleBinding")).count(), 3);
    }
    world.counted().await;
    world.at_rest(Duration::from_secs(15)).await;
    world.operator.restart().await.unwrap();
    world.operator.await_ready(fixture::PATIENCE).await.unwrap();
    world.at_rest(Duration::from_secs(10)).await;
}
