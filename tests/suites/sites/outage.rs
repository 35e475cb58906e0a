//! A site that does not answer: from the start, and while grants are bound there.

use std::time::{Duration, Instant};

use aifactory_api::{AIFactory, AccessGrant, GPUPool};
use aifactory_plan::engine::tenancy::{has_our_name, lets_work};
use aifactory_tests::{Cluster, Cut, Federation, Request, eventually, run};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DynamicObject, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::fixture::{self, FACTORY, NAMESPACE, PATIENCE, POOL, World, condition, factory, grant, ours, pool};
use crate::{at_site, has_condition, last_answer, message, shared, sites_rest, tenant_of, until, written};

const SECOND: i64 = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_is_down_from_the_start_holds_up_nobody() {
    let federation = Federation::builder().name("down").sites(["bissen", "bettembourg"]).start().await.unwrap();
    federation.site("bettembourg").unwrap().proxy().cut(Cut::Refuse).await;
    let world = World::on(federation, fixture::options()).await;
    for object in [factory(), pool(POOL), grant("early")] {
        world.apply(object).await;
    }
    let down = until::<AIFactory>(&world, NAMESPACE, FACTORY, "says that a site is down", |down| {
        has_condition(down, "SitesReachable", "False", "SiteUnreachable")
    })
    .await;
    // Until the other site's policies are in force, that is a trouble that only a person can mend, and named first.
    let down = match has_condition(&down, "Ready", "False", "SiteUnreachable") {
        true => down,
        false => {
            until(&world, NAMESPACE, FACTORY, "names the site that is down", |down| has_condition(down, "Ready", "False", "SiteUnreachable")).await
        }
    };
    for type_ in ["Ready", "SitesReachable"] {
        let text = message(&down, type_);
        assert!(text.contains("bettembourg: the site does not answer") && text.contains("refused") && !text.contains("bissen"), "{type_}: {text}");
    }
    let bound = until::<AccessGrant>(&world, NAMESPACE, "early", "bound at the other site", |bound| at_site(bound, "bissen").0 == "Bound").await;
    let bound = match at_site(&bound, "bettembourg").0.as_str() {
        "Unknown" => bound,
        _ => until(&world, NAMESPACE, "early", "unknown at the site that is down", |bound| at_site(bound, "bettembourg").0 == "Unknown").await,
    };
    let status = bound.status.as_ref().unwrap();
    assert_eq!(status.phase, Some(aifactory_api::grant::GrantPhase::Active));
    assert_eq!(condition(&status.conditions, "Usable").status, "True");
    assert!(has_condition(&bound, "Ready", "False", "SiteUnreachable"), "{}", fixture::summary(&status.conditions));
    assert!(
        at_site(&bound, "bettembourg").1.contains("never reached since the operator started (SiteUnreachable: "),
        "{:?}",
        at_site(&bound, "bettembourg")
    );
    let tenant = tenant_of(&bound);
    assert!(ours(world.site("bissen")).await.contains(&format!("Namespace /{tenant}")));
    assert_eq!(ours(world.site("bettembourg")).await, Vec::<String>::new());
    world.counted().await;
    world.at_rest(Duration::from_secs(5)).await;

    let (process, back) = (world.operator.id(), Instant::now());
    world.site("bettembourg").proxy().restore().await;
    world.ready::<AccessGrant>("early").await;
    world.ready::<AIFactory>(FACTORY).await;
    world.ready::<GPUPool>(POOL).await;
    eprintln!("the site is served {:?} after it came up", back.elapsed());
    assert_eq!(world.operator.id(), process);
    assert!(world.operator.exit_status().is_none());
    let of_tenant = |objects: Vec<String>| objects.into_iter().filter(|object| object.contains(&tenant)).collect::<Vec<_>>();
    assert_eq!(of_tenant(ours(world.site("bettembourg")).await), of_tenant(ours(world.site("bissen")).await));
    sites_rest(&world, Duration::from_secs(3)).await;
}

#[test]
fn a_grant_revoked_while_a_site_refuses_connections() {
    run(revoked("refused", Cut::Refuse));
}

#[test]
fn a_grant_revoked_while_a_site_is_silent() {
    run(revoked("silent", Cut::Silent));
}

async fn revoked(name: &str, cut: Cut) {
    let world = shared().await;
    let mut wanted = grant(name);
    wanted["spec"]["expiry"] = json!({"runningWork": "Cancel", "gracePeriod": "0s"});
    world.apply(wanted).await;
    let tenant = tenant_of(&world.ready::<AccessGrant>(name).await);
    let (near, far) = (world.site("bissen"), world.site("bettembourg"));
    for site in [near, far] {
        work(site, &tenant).await;
    }

    far.proxy().cut(cut).await;
    let begun = Instant::now();
    let lost = until::<AccessGrant>(&world, NAMESPACE, name, "names the site that is lost", |lost| {
        has_condition(lost, "SitesReachable", "False", "SiteUnreachable")
    })
    .await;
    let noticed = begun.elapsed();
    assert!(noticed < Duration::from_secs(15), "noticed only after {noticed:?}");
    assert!(has_condition(&lost, "Ready", "True", "AsSpecified"), "a site lost after it had confirmed changes nothing of Ready");
    assert!(message(&lost, "SitesReachable").contains("bettembourg: last contact "), "{}", message(&lost, "SitesReachable"));

    let (mark, from) = (near.audit().mark().unwrap(), Timestamp::now());
    world.patch_grant(name, json!({"spec": {"state": "Revoked"}})).await;
    let ended = eventually(PATIENCE, "access is gone and the end of work is ordered", async || {
        let written = written(near, mark).accepted().only(|request| request.namespace == tenant);
        let ends_work = |request: &Request| request.verb == "deletecollection" && request.resource == "pods";
        match (written.iter().rposition(ends_access), written.iter().position(ends_work)) {
            (Some(access), Some(work)) if access < work => {
                Ok(last_answer(&written.only(|request| ends_access(request) || request.verb == "deletecollection"), from))
            }
            _ => Err(written.summary().into()),
        }
    })
    .await
    .unwrap();
    eprintln!("{cut:?}: noticed after {noticed:?}; access gone and end of work ordered after {ended} ms");
    assert!(ended <= SECOND, "{ended} ms");
    assert!(!may_work(near, &tenant).await);
    until_no_work(near, &tenant).await;

    let waiting = until::<AccessGrant>(&world, NAMESPACE, name, "waits for the site", |waiting| {
        has_condition(waiting, "AccessRemoved", "False", "AwaitingSite")
    })
    .await;
    let waiting = match at_site(&waiting, "bissen").0.as_str() {
        "Locked" => waiting,
        _ => until(&world, NAMESPACE, name, "locked at the other site", |waiting| at_site(waiting, "bissen").0 == "Locked").await,
    };
    let text = message(&waiting, "AccessRemoved");
    assert!(text.starts_with("not confirmed by: bettembourg: last contact 20") && !text.contains("bissen"), "{text}");
    assert_eq!(at_site(&waiting, "bettembourg").0, "Unknown");
    assert_eq!(waiting.status.as_ref().unwrap().phase, Some(aifactory_api::grant::GrantPhase::Revoked));
    assert!(may_work(far, &tenant).await, "nobody could tell the site yet");
    sites_rest(&world, Duration::from_secs(3)).await;

    far.proxy().restore().await;
    let back = Instant::now();
    let removed =
        until::<AccessGrant>(&world, NAMESPACE, name, "access is gone everywhere", |gone| has_condition(gone, "AccessRemoved", "True", "AccessGone"))
            .await;
    assert!(!may_work(far, &tenant).await);
    eprintln!("{cut:?}: gone everywhere {:?} after the site came back", back.elapsed());
    until_no_work(far, &tenant).await;
    drop(removed);
    let settled = world.ready::<AccessGrant>(name).await;
    assert!(has_condition(&settled, "Ready", "True", "Revoked"));
    for site in [near, far] {
        let namespace = Api::<Namespace>::all(site.admin()).get(&tenant).await.unwrap();
        assert_eq!(namespace.labels()["aifactory.dev/state"], "Locked", "{}", site.name());
    }
    world.ready::<AIFactory>(FACTORY).await;
    world.delete_grant(name).await;
    world.gone::<AccessGrant>(name).await;
    sites_rest(&world, Duration::from_secs(2)).await;
}

/// Whether it takes a binding away under which somebody could work; who leads gets another one for the retention once no work is left.
fn ends_access(request: &Request) -> bool {
    let name = &request.name;
    request.verb == "delete" && request.resource == "rolebindings" && has_our_name(name) && lets_work(name)
}

/// A member's Pod.
async fn work(site: &Cluster, tenant: &str) {
    let pods: Api<Pod> = Api::namespaced(site.client_as("oidc:2", &[]).await.unwrap(), tenant);
    let pod = serde_json::from_value(json!({"metadata": {"name": "train"}, "spec": {
        "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "main", "image": "example.org/train:1",
            "resources": {"limits": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "1"}},
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
    }}))
    .unwrap();
    eventually(PATIENCE, "a member's Pod is taken", async || Ok(pods.create(&PostParams::default(), &pod).await?)).await.unwrap();
}

/// Whether the member may start work, as the site itself says.
async fn may_work(site: &Cluster, tenant: &str) -> bool {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"namespace": tenant, "verb": "create", "resource": "pods"}}});
    let request = http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
        .header("Content-Type", "application/json")
        .body(review.to_string().into_bytes())
        .unwrap();
    let answer: DynamicObject = site.client_as("oidc:2", &[]).await.unwrap().request(request).await.unwrap();
    answer.data["status"]["allowed"] == true
}

async fn until_no_work(site: &Cluster, tenant: &str) {
    let pods: Api<Pod> = Api::namespaced(site.admin(), tenant);
    eventually(PATIENCE, format!("no work is left at {}", site.name()), async || match pods.get_opt("train").await? {
        None => Ok(()),
        Some(pod) => Err(format!("{:?}", pod.metadata.deletion_timestamp).into()),
    })
    .await
    .unwrap();
}
