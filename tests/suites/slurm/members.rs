//! Who a member is in Slurm, and what a site that is a Slurm alone is left with.

use std::time::{Duration, Instant};

use aifactory_api::{AIFactory, AccessGrant, GPUPool};
use aifactory_tests::run_beside;
use base64::Engine as _;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::fixture::{FACTORY, NAMESPACE, POOL};
use crate::scene::{CYCLE, Scene, Work, grant, job, key, until};

#[test]
fn a_member_without_a_local_user_waits_until_the_site_names_one() {
    run_beside(async {
        let scene = Scene::start("slurm-members").await;
        let slurm = &scene.slurm[0];
        let mut wanted = grant("vision", 20);
        wanted["spec"]["members"] = json!([{"id": "p-1", "role": "Lead"}, {"id": "p-9"}, {"id": "p-2", "slurm": {"user": "root-not"}}]);
        scene.world.apply(wanted).await;
        let waiting: AccessGrant = scene.world.ready("vision").await;
        let account = scene.account(&waiting, slurm);
        let site = |grant: &AccessGrant| grant.status.as_ref().unwrap().sites.iter().find(|site| site.name == "bissen").unwrap().clone();
        let members = site(&waiting).members.unwrap();
        assert_eq!((members.wanted, members.bound, members.waiting), (3, 2, 1));
        let message = site(&waiting).message.unwrap();
        assert!(message.contains("LocalAccountMissing") && message.contains("p-9"), "{message}");
        assert_eq!(slurm.refuses("erin", &job(&account, 1)).await, 2045);
        // The site's own map wins over what the grant says of p-2.
        slurm.takes("bob", &job(&account, 1)).await;

        let mut named = key(slurm);
        let text = "p-1: alice\np-2: bob\np-9: erin\n";
        named["data"]["aifactory-slurm-users"] = json!(base64::engine::general_purpose::STANDARD.encode(text));
        scene.world.apply(named).await;
        let begun = Instant::now();
        until("erin may submit", Duration::from_secs(20), async || match slurm.submit("erin", job(&account, 1)).await {
            Ok(_) => Ok(()),
            Err(refused) => Err(format!("{refused:?}").into()),
        })
        .await;
        eprintln!("a member named by the site works after {:?}", begun.elapsed());
    });
}

#[test]
fn a_slurm_alone_is_let_go() {
    run_beside(async {
        let scene = Scene::start("slurm-let-go").await;
        scene.world.apply(grant("vision", 20)).await;
        scene.world.ready::<AccessGrant>("vision").await;
        let secrets: Api<Secret> = Api::namespaced(scene.world.hub().admin(), NAMESPACE);
        assert!(!secrets.get("bissen-slurm").await.unwrap().finalizers().is_empty());
        scene.world.delete_grant("vision").await;
        scene.world.gone::<AccessGrant>("vision").await;
        scene.world.delete_confirmed::<GPUPool>(POOL).await;
        scene.world.gone::<GPUPool>(POOL).await;
        scene.world.delete_confirmed::<AIFactory>(FACTORY).await;
        scene.world.gone::<AIFactory>(FACTORY).await;
        until("nobody holds the Secret", CYCLE, async || {
            let left = secrets.get("bissen-slurm").await?.finalizers().to_vec();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}").into()) }
        })
        .await;
        // What was used stays known for the retention, locked.
        let kept = Scene::picture(&scene.slurm[0]).await;
        assert!(kept.iter().any(|line| line.starts_with("qos: grant-vision-")), "{kept:#?}");
        for slurm in &scene.slurm {
            assert_eq!(crate::claims::holder(slurm).await, None, "the claim on {} is given up", slurm.cluster_name());
        }
    });
}
