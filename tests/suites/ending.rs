//! The end of a grant on a short clock: notBefore, notAfter, work, data, pause, suspension, and taking it all back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod fixture;

use std::time::{Duration, Instant};

use aifactory_api::AccessGrant;
use aifactory_tests::{Cluster, eventually, run_beside};
use fixture::{World, at, grant};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_grant_begins_ends_and_leaves_in_time() {
    run_beside(async {
        let world = World::start("ending").await;
        let site = world.site("bissen");
        // Begins in 4 s, ends in 16 s; what runs is cancelled 3 s later, and data goes 6 s after the end.
        let mut object = grant("timed");
        object["spec"]["notBefore"] = json!(at(4));
        object["spec"]["notAfter"] = json!(at(16));
        object["spec"]["expiry"] = json!({"runningWork": "Cancel", "gracePeriod": "3s", "retention": "6s", "afterRetention": "Delete"});
        let until: Timestamp = at(16).parse().unwrap();
        // Another one whose work may finish and whose data stays.
        let mut keeper = object.clone();
        keeper["metadata"]["name"] = json!("keeper");
        keeper["spec"]["code"] = json!("EHPC-AIF-2026PG99-keeper");
        keeper["spec"]["expiry"] = json!({"runningWork": "Finish", "retention": "6s", "afterRetention": "Retain"});
        world.apply(object).await;
        world.apply(keeper).await;
        world.phase("timed", "Scheduled").await;
        assert!(
            world.ready::<AccessGrant>("timed").await.status.unwrap().sites.iter().all(|site| site.phase == aifactory_api::grant::SiteRowPhase::Gone)
        );

        let active = world.phase("timed", "Active").await;
        world.phase("keeper", "Active").await;
        let (timed, kept) = (tenant(&world, "timed").await, tenant(&world, "keeper").await);
        assert!(active.status.unwrap().phase.is_some());
        for namespace in [&timed, &kept] {
            run_forever(site, namespace).await;
        }
        // Across a restart.
        world.operator.restart().await.unwrap();

        working(site, &timed, false).await;
        let late = Timestamp::now().duration_since(until).as_secs_f64();
        eprintln!("access was gone {late:.2} s after notAfter");
        assert!((-0.1..=1.5).contains(&late), "{late}");
        world.phase("timed", "Expired").await;
        eventually(LONG, "the work is cancelled", async || {
            let jobs = Api::<Job>::namespaced(site.admin(), &timed).list(&ListParams::default()).await?.items.len();
            let pods = Api::<Pod>::namespaced(site.admin(), &timed).list(&ListParams::default()).await?.items.len();
            if jobs + pods == 0 { Ok(()) } else { Err(format!("{jobs} jobs, {pods} pods").into()) }
        })
        .await
        .unwrap();
        assert!(Timestamp::now().duration_since(until).as_secs_f64() >= 3.0, "not before the grace period is over");
        let namespaces: Api<Namespace> = Api::all(site.admin());
        eventually(LONG, "the data is deleted", async || match namespaces.get_opt(&timed).await? {
            None => Ok(()),
            Some(found) => Err(format!("{:?}", found.annotations()).into()),
        })
        .await
        .unwrap();
        assert!(Timestamp::now().duration_since(until).as_secs_f64() >= 6.0, "not before the retention is over");

        // Finish and Retain: the Job still runs, and the namespace is there.
        let jobs: Api<Job> = Api::namespaced(site.admin(), &kept);
        assert_eq!(jobs.get("forever").await.unwrap().status.unwrap().active, Some(1));
        assert_eq!(namespaces.get(&kept).await.unwrap().labels()["aifactory.dev/state"], "Locked");
        working(site, &kept, false).await;
    });
}

#[test]
fn pause_suspension_and_taking_back() {
    run_beside(async {
        let world = World::start("pausing").await;
        let site = world.site("bissen");
        world.apply(grant("alpha")).await;
        world.ready::<AccessGrant>("alpha").await;
        let namespace = tenant(&world, "alpha").await;

        world.patch_grant("alpha", json!({"spec": {"state": "Paused"}})).await;
        world.phase("alpha", "Paused").await;
        working(site, &namespace, false).await;
        world.patch_grant("alpha", json!({"spec": {"state": "Active"}})).await;
        world.ready::<AccessGrant>("alpha").await;
        working(site, &namespace, true).await;

        // A token that a member may have seen in a Pod stops when a member is suspended.
        let token = site.token(&namespace, "aifactory").await.unwrap();
        let member = site.kubeconfig(aifactory_tests::Credential::Token(token)).client().await.unwrap();
        let version = async || member.apiserver_version().await;
        let identity: Api<Pod> = Api::namespaced(member.clone(), &namespace);
        assert!(version().await.is_ok());
        assert!(matches!(identity.list(&ListParams::default()).await, Err(kube::Error::Api(status)) if status.code == 403));
        let suspended = Instant::now();
        let members = json!([
            {"id": "p-1", "role": "Lead", "kubernetes": {"kind": "User", "name": "oidc:1"}},
            {"id": "p-2", "role": "Member", "state": "Suspended", "kubernetes": {"kind": "User", "name": "oidc:2"}},
            {"id": "p-3", "role": "Reader", "kubernetes": {"kind": "User", "name": "oidc:3"}},
        ]);
        world.patch_grant("alpha", json!({"spec": {"members": members}})).await;
        eventually(LONG, "the token is refused", async || match identity.list(&ListParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 401 => Ok(()),
            other => Err(format!("{:?}", other.map(|list| list.items.len())).into()),
        })
        .await
        .unwrap();
        eprintln!("the token stopped {:?} after the suspension", suspended.elapsed());
        assert!(suspended.elapsed() <= Duration::from_secs(12), "{:?}", suspended.elapsed());
        let client = site.client_as("oidc:2", &[]).await.unwrap();
        let refused = Api::<Pod>::namespaced(client, &namespace).list(&ListParams::default()).await;
        assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 403));
        working(site, &namespace, true).await;
        world.ready::<AccessGrant>("alpha").await;

        // Deleted with confirmation: access goes, the object goes, data stays; the same code takes all of it back.
        let uid = Api::<Namespace>::all(site.admin()).get(&namespace).await.unwrap().uid();
        world.delete_grant("alpha").await;
        world.gone::<AccessGrant>("alpha").await;
        working(site, &namespace, false).await;
        let retained = Api::<Namespace>::all(site.admin()).get(&namespace).await.unwrap();
        assert!(retained.annotations().contains_key("aifactory.dev/retained-until"), "{:?}", retained.annotations());
        let mut other = grant("alpha");
        other["spec"]["code"] = json!("EHPC-AIF-2026PG99-another");
        world.apply(other).await;
        let refused = world.phase("alpha", "Refused").await;
        assert_eq!(fixture::condition(&refused.status.unwrap().conditions, "Authorised").reason, "PreviousIncarnation");
        world.delete_refused("alpha").await;
        world.apply(grant("alpha")).await;
        world.ready::<AccessGrant>("alpha").await;
        assert_eq!(Api::<Namespace>::all(site.admin()).get(&namespace).await.unwrap().uid(), uid, "the very same namespace");
        working(site, &namespace, true).await;
        world.counted().await;
        world.at_rest(Duration::from_secs(8)).await;
    });
}

trait DeleteRefused {
    async fn delete_refused(&self, name: &str);
}

impl DeleteRefused for World {
    /// A grant that gives no access needs no confirmation.
    async fn delete_refused(&self, name: &str) {
        self.api::<AccessGrant>().delete(name, &kube::api::DeleteParams::default()).await.unwrap();
        self.gone::<AccessGrant>(name).await;
    }
}

async fn tenant(world: &World, grant: &str) -> String {
    let api: Api<AccessGrant> = world.api();
    eventually(LONG, format!("{grant} has a namespace"), async || {
        let status = api.get(grant).await?.status.unwrap_or_default();
        let access = status
            .sites
            .iter()
            .find(|site| site.name == "bissen" && site.phase == aifactory_api::grant::SiteRowPhase::Bound)
            .and_then(|site| site.access.clone());
        access.and_then(|access| access.kubernetes).map(|access| access.namespace).ok_or_else(|| "not yet".into())
    })
    .await
    .unwrap()
}

/// Waits until members can, or can not, work.
async fn working(site: &Cluster, namespace: &str, wanted: bool) {
    let bindings: Api<RoleBinding> = Api::namespaced(site.admin(), namespace);
    eventually(LONG, format!("members work in {namespace}: {wanted}"), async || {
        let names: Vec<String> = bindings.list(&ListParams::default()).await?.into_iter().map(|binding| binding.role_ref.name).collect();
        let found = names.iter().any(|name| matches!(name.as_str(), "aifactory-lead" | "aifactory-member"));
        if found == wanted { Ok(()) } else { Err(format!("{names:?}").into()) }
    })
    .await
    .unwrap();
}

/// A Job that does not end by itself: KWOK completes Pods of Jobs, so it waits for a node that is not there.
async fn run_forever(site: &Cluster, namespace: &str) {
    let job: Value = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "forever"},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never",
            "nodeSelector": {"aifactory.dev/pool": "h100", "kubernetes.io/hostname": "nowhere"},
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "train", "image": "example.eu/train:1",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "resources": {"requests": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "1"}, "limits": {"memory": "1Gi", "nvidia.com/gpu": "1"}}}],
        }}},
    });
    let member = site.client_as("oidc:2", &[]).await.unwrap();
    let jobs: Api<Job> = Api::namespaced(member, namespace);
    jobs.create(&PostParams::default(), &serde_json::from_value(job).unwrap()).await.unwrap();
    eventually(LONG, "the Job has a Pod", async || {
        let pods = Api::<Pod>::namespaced(site.admin(), namespace).list(&ListParams::default()).await?.items.len();
        if pods == 1 { Ok(()) } else { Err(format!("{pods}").into()) }
    })
    .await
    .unwrap();
}
