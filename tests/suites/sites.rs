//! Sites that are down, cut, given up, in a country where data may not be, or another cluster than they were.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

#[path = "sites/abandoned.rs"]
mod abandoned;
#[path = "sites/claims.rs"]
mod claims;
#[path = "sites/credentials.rs"]
mod credentials;
mod fixture;
#[path = "sites/hostile.rs"]
mod hostile;
#[path = "sites/members.rs"]
mod members;
#[path = "sites/outage.rs"]
mod outage;
#[path = "sites/residency.rs"]
mod residency;

use std::time::Duration;

use aifactory_api::{AIFactory, AccessGrant};
use aifactory_tests::{Cluster, ClusterOptions, Federation, Lent, Mark, Requests, Shared, eventually};
use fixture::{Conditioned, FACTORY, PATIENCE, World, summary};
use jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

/// A site that belongs to nobody, for those who fight about it.
const FREE: &str = "belval";

static SHARED: Shared<World> = Shared::new();

/// The federation of the scenarios that leave it as they found it, one scenario at a time.
async fn shared() -> Lent<'static, World> {
    let start = async || {
        let free = ClusterOptions::site(FREE).kwok(false).scheduler(false);
        let federation = Federation::builder().name("sites").sites(["bissen", "bettembourg"]).site(free).start().await.unwrap();
        let world = World::on(federation, fixture::options()).await;
        world.factory().await;
        world
    };
    SHARED.lend(start).await
}

/// Waits until an object of a namespace is as wanted.
async fn until<K: Conditioned>(world: &World, namespace: &str, name: &str, what: &str, wanted: impl Fn(&K) -> bool) -> K {
    let api: Api<K> = Api::namespaced(world.hub().admin(), namespace);
    eventually(PATIENCE, format!("{} {name}: {what}", K::kind(&())), async || {
        let object = api.get(name).await?;
        if wanted(&object) { Ok(object) } else { Err(summary(object.conditions()).into()) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.log_tail()))
}

/// Whether a condition of the present generation has this status and reason.
fn has_condition<K: Conditioned>(object: &K, type_: &str, status: &str, reason: &str) -> bool {
    object.conditions().iter().any(|condition| {
        condition.type_ == type_
            && condition.status == status
            && condition.reason == reason
            && condition.observed_generation == object.meta().generation
    })
}

fn message<'a, K: Conditioned>(object: &'a K, type_: &str) -> &'a str {
    &fixture::condition(object.conditions(), type_).message
}

async fn patch_factory(world: &World, patch: Value) {
    world.api::<AIFactory>().patch(FACTORY, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn annotate_factory(world: &World, key: &str, value: Option<&str>) {
    patch_factory(world, json!({"metadata": {"annotations": {key: value}}})).await;
}

/// A site of a grant's status: its phase, and its message.
fn at_site(grant: &AccessGrant, site: &str) -> (String, String) {
    let sites = grant.status.as_ref().map(|status| status.sites.as_slice()).unwrap_or_default();
    let found = sites.iter().find(|found| found.name == site);
    found.map(|found| (found.phase.to_string(), found.message.clone().unwrap_or_default())).unwrap_or_default()
}

/// The namespace of a grant, wherever it has one.
fn tenant_of(grant: &AccessGrant) -> String {
    let sites = &grant.status.as_ref().unwrap().sites;
    sites.iter().find_map(|site| site.access.as_ref()?.kubernetes.as_ref()).unwrap().namespace.clone()
}

/// What the operator wrote at a site since the mark.
fn written(site: &Cluster, mark: Mark) -> Requests {
    site.audit().since(mark).unwrap().only(|request| request.user.contains("aifactory")).writes()
}

/// Nobody writes anything at a site for a while. The hub may still count.
async fn sites_rest(world: &World, time: Duration) {
    fixture::written_down(&world.federation).await;
    let marks = world.federation.sites().iter().map(|site| (site, site.audit().mark().unwrap())).collect();
    fixture::assert_no_writes(&world.federation, &world.operator, marks, time).await;
}

/// Milliseconds from a moment until the last of these requests was answered.
fn last_answer(requests: &Requests, since: Timestamp) -> i64 {
    let answered = requests.iter().map(|request| request.answered.parse::<Timestamp>().unwrap()).max().unwrap();
    answered.duration_since(since).as_millis().try_into().unwrap()
}
