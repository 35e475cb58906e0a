//! Two factories that name one cluster: it belongs to the first, until that one lets it go.

use std::time::Duration;

use aifactory_api::AIFactory;
use aifactory_tests::{credential_name, run};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::fixture::{self, World, site};
use crate::{FREE, has_condition, message, shared, sites_rest, until, written};

#[test]
fn a_cluster_belongs_to_the_factory_that_came_first() {
    run(async {
        let world = shared().await;
        for namespace in ["north", "south"] {
            world.federation.admit_factory(namespace).await.unwrap();
        }
        first_and_second(&world, "north", "south").await;
        first_and_second(&world, "south", "north").await;
        released(&world, "north").await;
    });
}

/// The first gets the cluster, the second gets a condition that names its owner, and gets the cluster when the first is gone.
async fn first_and_second(world: &World, first: &str, second: &str) {
    let cluster = world.site(FREE);
    if api(world, first).get_opt(first).await.unwrap().is_none() {
        world.apply(factory(first)).await;
    }
    until::<AIFactory>(world, first, first, "has the cluster", |factory| has_condition(factory, "Ready", "True", "AsSpecified")).await;
    let mark = cluster.audit().mark().unwrap();
    world.apply(factory(second)).await;
    let refused =
        until::<AIFactory>(world, second, second, "is told whose it is", |factory| has_condition(factory, "Ready", "False", "SiteClaimed")).await;
    let text = message(&refused, "Ready");
    assert!(text.contains(&format!("belongs to site {FREE:?} of AIFactory {first}/{first} of hub ")), "{text}");
    assert!(has_condition(&refused, "Stalled", "True", "SiteClaimed"));
    assert_eq!(refused.status.as_ref().unwrap().sites[0].cluster_uid, None);
    sites_rest(world, Duration::from_secs(3)).await;
    assert_eq!(claim(world).await, format!("{first}/{first}"));
    assert!(written(cluster, mark).is_empty(), "{}", written(cluster, mark).summary());

    // The refused one goes without a trace, and comes back.
    api(world, second).delete(second, &DeleteParams::default()).await.unwrap();
    gone(world, second).await;
    assert!(written(cluster, mark).is_empty(), "{}", written(cluster, mark).summary());
    world.apply(factory(second)).await;
    until::<AIFactory>(world, second, second, "is told again", |factory| has_condition(factory, "Ready", "False", "SiteClaimed")).await;

    api(world, first).delete(first, &DeleteParams::default()).await.unwrap();
    gone(world, first).await;
    until::<AIFactory>(world, second, second, "gets the cluster", |factory| has_condition(factory, "Ready", "True", "AsSpecified")).await;
    assert_eq!(claim(world).await, format!("{second}/{second}"));
    sites_rest(world, Duration::from_secs(3)).await;
}

/// A site that is decommissioned is released; one that is taken into use again is claimed again.
async fn released(world: &World, name: &str) {
    let stage = async |stage: &str| {
        let mut factory = factory(name);
        factory["spec"]["sites"][0]["stage"] = json!(stage);
        world.apply(factory).await;
    };
    stage("Decommissioned").await;
    claimed_by(world, "").await;
    stage("Production").await;
    claimed_by(world, &format!("{name}/{name}")).await;
    until::<AIFactory>(world, name, name, "has the cluster again", |factory| has_condition(factory, "Ready", "True", "AsSpecified")).await;
    api(world, name).delete(name, &DeleteParams::default()).await.unwrap();
    gone(world, name).await;
    claimed_by(world, "").await;
}

async fn claimed_by(world: &World, wanted: &str) {
    aifactory_tests::eventually(fixture::PATIENCE, format!("claimed by {wanted:?}"), async || {
        let found = claim(world).await;
        if found == wanted { Ok(()) } else { Err(found.into()) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()));
}

async fn gone(world: &World, name: &str) {
    let api = api(world, name);
    aifactory_tests::eventually(fixture::PATIENCE, format!("AIFactory {name} is gone"), async || match api.get_opt(name).await? {
        None => Ok(()),
        Some(found) => Err(fixture::summary(&found.status.unwrap_or_default().conditions).into()),
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()));
    let secrets: Api<Secret> = Api::namespaced(world.hub().admin(), name);
    let secret = secrets.get(&credential_name(FREE)).await.unwrap();
    assert!(secret.finalizers().is_empty(), "the credential is let go: {:?}", secret.finalizers());
}

async fn claim(world: &World) -> String {
    let maps: Api<ConfigMap> = Api::namespaced(world.site(FREE).admin(), "aifactory-system");
    let claim = maps.get("aifactory-claim").await.unwrap();
    claim.data.unwrap_or_default().remove("factory").unwrap_or_default()
}

fn api(world: &World, namespace: &str) -> Api<AIFactory> {
    Api::namespaced(world.hub().admin(), namespace)
}

fn factory(name: &str) -> Value {
    json!({
        "apiVersion": "aifactory.dev/v1alpha1", "kind": "AIFactory",
        "metadata": {"name": name, "namespace": name},
        "spec": {"type": "Factory", "sites": [site(FREE, "LU", "10.62")]},
    })
}
