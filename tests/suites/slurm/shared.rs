//! Two clusters on one slurmdbd, as most centres have them: accounts and QOS are common to both, and each site keeps its own.

use std::time::Duration;

use aifactory_api::{AIFactory, AccessGrant, GPUPool};
use aifactory_tests::run_beside;
use aifactory_tests::slurm::{Cluster as Slurm, JobSpec};
use serde_json::json;

use crate::claims::holder;
use crate::fixture::{FACTORY, POOL};
use crate::scene::{CYCLE, SITES, Scene, Work, access, grant, job, pool, until};

/// More than two of the operator's full readings.
const RESYNCS: Duration = Duration::from_secs(65);

/// GPU-minutes and GPUs of a QOS.
async fn budget(slurm: &Slurm, qos: &str) -> String {
    slurm.sacctmgr(&["-nP", "show", "qos", qos, "format=grptresmins,grpsubmit"]).await.unwrap().trim().to_owned()
}

#[test]
fn two_sites_on_one_slurmdbd_keep_budgets_and_grants_of_their_own() {
    run_beside(async {
        let scene = Scene::on_one_database("slurm-shared").await;
        scene.world.apply(scene.factory()).await;
        scene.world.apply(pool(POOL, "h100")).await;
        scene.world.ready::<AIFactory>(FACTORY).await;
        scene.world.ready::<GPUPool>(POOL).await;
        let [first, second] = &scene.slurm;
        // bob's default in the second cluster is another one than in the first, where only the grant gives him an account at the beginning.
        for account in ["national", "regional"] {
            first.sacctmgr(&["add", "account", account]).await.unwrap();
        }
        for account in ["account=regional", "account=national"] {
            second.sacctmgr(&["add", "user", "bob", account, "cluster=bettembourg"]).await.unwrap();
        }

        let mut both = grant("both", 9);
        both["spec"]["pools"][0]["sites"] = json!([{"name": SITES[0], "gpuHours": 3}, {"name": SITES[1], "gpuHours": 6}]);
        let mut one = grant("one", 9);
        one["spec"]["pools"][0]["sites"] = json!([{"name": SITES[0]}]);
        one["spec"]["expiry"] = json!({"runningWork": "Cancel", "gracePeriod": "0s", "retention": "0s", "afterRetention": "Delete"});
        scene.world.apply(both).await;
        scene.world.apply(one.clone()).await;
        let both: AccessGrant = scene.world.ready("both").await;
        let only: AccessGrant = scene.world.ready("one").await;
        let qos = scene.slurm.each_ref().map(|slurm| scene.qos(&both, slurm));
        let account = access(&only, SITES[0]).account.clone();
        let running = first.takes("bob", &JobSpec { seconds: 280, ..job(&account, 1) }).await;
        first.wait_job(running, "RUNNING", CYCLE).await.unwrap();

        scene.unwritten(tokio::time::sleep(RESYNCS)).await;
        for slurm in [first, second] {
            assert_eq!((budget(slurm, &qos[0]).await, budget(slurm, &qos[1]).await), ("gres/gpu=180|".to_owned(), "gres/gpu=360|".to_owned()));
        }
        assert_eq!(first.job(running).await.unwrap().state, "RUNNING");
        let sites = [SITES[0], SITES[1]].map(|name| Some((format!("AIFactory/example/{FACTORY}"), name.to_owned())));
        assert_eq!([holder(first).await, holder(second).await], sites);

        // The grant of one site ends: what the other site has stays, and bob's default account in the other cluster too.
        first.sacctmgr(&["add", "user", "bob", "account=national", "cluster=bissen"]).await.unwrap();
        let theirs = async || {
            let format = "format=cluster,account,user,partition,qos,defaultqos,parentname";
            let text = second.sacctmgr(&["-nP", "show", "association", "cluster=bettembourg", format]).await.unwrap();
            let users =
                second.sacctmgr(&["-nP", "show", "user", "bob", "withassoc", "cluster=bettembourg", "format=user,defaultaccount,account"]).await;
            (text, users.unwrap())
        };
        let before = theirs().await;
        one["spec"]["state"] = json!("Revoked");
        scene.world.apply(one).await;
        until("account and QOS of the ended grant are deleted", CYCLE, async || {
            let left: Vec<String> = Scene::picture(first).await.into_iter().filter(|line| line.contains(": grant-one-")).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}").into()) }
        })
        .await;
        assert_eq!(first.job(running).await.unwrap().state, "CANCELLED");
        assert_eq!(theirs().await, before);
        scene.world.ready::<AccessGrant>("both").await;
        for slurm in [first, second] {
            let account = scene.account(&both, slurm);
            let done = slurm.takes("alice", &job(&account, 1)).await;
            slurm.wait_job(done, "COMPLETED", CYCLE).await.unwrap();
        }
    });
}
