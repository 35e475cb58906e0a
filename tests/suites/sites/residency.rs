//! Data that may be in one country only.

use std::time::Duration;

use aifactory_api::{AIFactory, AccessGrant};
use aifactory_tests::{Cluster, eventually, run};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

use crate::fixture::{self, FACTORY, NAMESPACE, PATIENCE, World, grant, ours};
use crate::{at_site, has_condition, last_answer, message, shared, sites_rest, tenant_of, until, written};

/// Longest time between the end of a permission and the end of access.
const TAKEN_AWAY: i64 = 10_000;

#[test]
fn data_that_must_stay_in_france_never_comes_to_germany() {
    run(async {
        let world = shared().await;
        let (near, far) = (world.site("bissen"), world.site("bettembourg"));
        countries(&world, "FR", "DE").await;
        world.ready::<AIFactory>(FACTORY).await;

        let mark = far.audit().mark().unwrap();
        let mut wanted = grant("resident");
        wanted["spec"]["data"] = json!({"residency": ["FR"]});
        world.apply(wanted).await;
        let refused = until::<AccessGrant>(&world, NAMESPACE, "resident", "bound in France only", |grant| {
            at_site(grant, "bissen").0 == "Bound" && at_site(grant, "bettembourg").0 == "Refused"
        })
        .await;
        let tenant = tenant_of(&refused);
        assert_eq!(at_site(&refused, "bettembourg").1, "ResidencyNotAllowed: data.residency allows FR, and site bettembourg is in DE");
        assert!(has_condition(&refused, "Authorised", "False", "ResidencyNotAllowed"));
        assert_eq!(message(&refused, "Authorised"), "data.residency allows FR, and site bettembourg is in DE");
        assert_eq!(fixture::condition(&refused.status.as_ref().unwrap().conditions, "Usable").status, "True");
        sites_rest(&world, Duration::from_secs(3)).await;
        never(far, &tenant, mark).await;

        // The site moves to France, as far as the factory says.
        countries(&world, "FR", "FR").await;
        world.ready::<AccessGrant>("resident").await;
        assert_eq!(members(far, &tenant).await, 3);

        // And back: what was given is taken away.
        let (mark, from) = (far.audit().mark().unwrap(), Timestamp::now());
        countries(&world, "FR", "DE").await;
        let taken = taken_away(far, &tenant, mark, from).await;
        until::<AccessGrant>(&world, NAMESPACE, "resident", "locked there", |grant| {
            has_condition(grant, "Authorised", "False", "ResidencyNotAllowed") && at_site(grant, "bettembourg").0 == "Locked"
        })
        .await;
        assert_eq!(members(near, &tenant).await, 3, "the site in France goes on");

        // The other way round for the site that was right from the start.
        let (mark, from) = (near.audit().mark().unwrap(), Timestamp::now());
        countries(&world, "DE", "DE").await;
        let taken_too = taken_away(near, &tenant, mark, from).await;
        eprintln!("access gone {taken} ms and {taken_too} ms after the country was edited");
        let nowhere = world.phase("resident", "Refused").await;
        assert_eq!(fixture::condition(&nowhere.status.as_ref().unwrap().conditions, "Usable").status, "False");
        world.counted().await;
        let living: Api<ConfigMap> = Api::namespaced(world.hub().admin(), "aifactory-system");
        eventually(PATIENCE, "no grant lives", async || {
            let data = living.get("aifactory-living-grants").await?.data.unwrap_or_default();
            if data.contains_key(NAMESPACE) { Err(format!("{data:?}").into()) } else { Ok(()) }
        })
        .await
        .unwrap();
        world.at_rest(Duration::from_secs(3)).await;

        world.delete_grant("resident").await;
        world.gone::<AccessGrant>("resident").await;
        countries(&world, "LU", "LU").await;
        world.ready::<AIFactory>(FACTORY).await;
    });
}

/// Applies the factory with its sites in these countries.
async fn countries(world: &World, near: &str, far: &str) {
    let mut factory = fixture::factory();
    for (index, country) in [near, far].into_iter().enumerate() {
        factory["spec"]["sites"][index]["country"] = json!(country);
    }
    world.apply(factory).await;
}

/// Nothing of a grant was ever there, not even for a moment.
async fn never(site: &Cluster, tenant: &str, mark: aifactory_tests::Mark) {
    let touched = written(site, mark).only(|request| request.namespace == tenant || request.name == tenant);
    assert!(touched.is_empty(), "{}", touched.summary());
    assert!(!ours(site).await.iter().any(|object| object.contains(tenant)));
}

/// Members who can start work.
async fn members(site: &Cluster, tenant: &str) -> usize {
    let bindings: Api<RoleBinding> = Api::namespaced(site.admin(), tenant);
    let all = bindings.list(&ListParams::default()).await.unwrap().items;
    all.iter().filter(|binding| matches!(binding.role_ref.name.as_str(), "aifactory-lead" | "aifactory-member" | "aifactory-reader")).count()
}

/// Milliseconds until nobody could start work any more.
async fn taken_away(site: &Cluster, tenant: &str, mark: aifactory_tests::Mark, from: Timestamp) -> i64 {
    let bindings: Api<RoleBinding> = Api::namespaced(site.admin(), tenant);
    eventually(PATIENCE, "nobody can start work", async || {
        let all = bindings.list(&ListParams::default()).await?.items;
        let working: Vec<_> = all.iter().filter(|binding| matches!(binding.role_ref.name.as_str(), "aifactory-lead" | "aifactory-member")).collect();
        if working.is_empty() { Ok(()) } else { Err(format!("{} bindings", working.len()).into()) }
    })
    .await
    .unwrap();
    let removals =
        written(site, mark).accepted().only(|request| request.namespace == tenant && request.verb == "delete" && request.resource == "rolebindings");
    let taken = last_answer(&removals, from);
    assert!(taken <= TAKEN_AWAY, "{taken} ms");
    taken
}
