//! A Slurm cluster belongs to one site of one factory, until that one lets it go.

use std::time::Duration;

use aifactory_api::{AIFactory, AccessGrant, GPUPool};
use aifactory_tests::run_beside;
use aifactory_tests::slurm::{Cluster as Slurm, JobSpec};
use serde_json::{Value, json};

use crate::fixture::{FACTORY, NAMESPACE, PATIENCE, POOL, condition, summary};
use crate::scene::{CYCLE, Scene, Work, access, grant, job, site, until};

/// Longer than what is read anew at rest takes to come again.
const RESYNC: Duration = Duration::from_secs(35);

/// Factory and site that the claim on a cluster names.
pub async fn holder(slurm: &Slurm) -> Option<(String, String)> {
    let text = slurm.sacctmgr(&["-nP", "show", "account", "format=account,descr"]).await.unwrap();
    let claim = text.lines().find(|line| line.starts_with(&format!("aifactory-claim-{}-", slurm.cluster_name())))?;
    let field = |key: &str| claim.split("; ").find_map(|part| part.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default().to_owned();
    Some((field("factory"), field("site")))
}

fn held_by(factory: &str, site: &str) -> Option<(String, String)> {
    Some((format!("AIFactory/{NAMESPACE}/{factory}"), site.to_owned()))
}

/// Another factory of the same hub that names the first cluster, with no pool and no grant.
fn rival(scene: &Scene) -> Value {
    let mut factory = scene.factory();
    factory["metadata"]["name"] = json!("rival");
    factory["spec"]["sites"] = json!([site(&scene.slurm[0])]);
    factory["spec"]["sites"][0]["name"] = json!("elsewhere");
    factory
}

/// Waits until a factory is not Ready since another one has a cluster; returns the message.
async fn refused(scene: &Scene, name: &str) -> String {
    until(&format!("factory {name} is told whose the cluster is"), PATIENCE, async || {
        let factory: AIFactory = scene.world.api().get(name).await?;
        let conditions = factory.status.unwrap_or_default().conditions;
        let ready = conditions.iter().find(|found| found.type_ == "Ready").ok_or("no condition")?;
        if (ready.status.as_str(), ready.reason.as_str()) == ("False", "SiteClaimed") {
            Ok(ready.message.clone())
        } else {
            Err(summary(&conditions).into())
        }
    })
    .await
}

#[test]
fn a_second_factory_on_the_same_slurm_is_refused_and_touches_nothing() {
    run_beside(async {
        let scene = Scene::start("slurm-claims").await;
        let slurm = &scene.slurm[0];
        scene.world.apply(grant("vision", 20)).await;
        let bound: AccessGrant = scene.world.ready("vision").await;
        let account = access(&bound, slurm.cluster_name()).account.clone();
        assert_eq!(holder(slurm).await, held_by(FACTORY, "bissen"));
        let running = slurm.takes("alice", &JobSpec { seconds: 280, ..job(&account, 1) }).await;
        slurm.wait_job(running, "RUNNING", CYCLE).await.unwrap();
        let before = Scene::picture(slurm).await;

        // The second factory comes, and the operator starts anew.
        scene.world.apply(rival(&scene)).await;
        let message = refused(&scene, "rival").await;
        assert!(message.contains(&format!("belongs to site bissen of AIFactory {NAMESPACE}/{FACTORY} of hub ")), "{message}");
        scene.unwritten(tokio::time::sleep(RESYNC)).await;
        scene.world.operator.kill();
        scene.world.operator.restart().await.unwrap();
        scene.world.ready::<AIFactory>(FACTORY).await;
        scene.world.ready::<AccessGrant>("vision").await;
        refused(&scene, "rival").await;
        scene.unwritten(tokio::time::sleep(RESYNC)).await;
        assert_eq!(Scene::picture(slurm).await, before);
        assert_eq!(slurm.job(running).await.unwrap().state, "RUNNING");
        slurm.cancel(running).await;

        // The first lets the cluster go, and the second gets it.
        scene.world.delete_grant("vision").await;
        scene.world.gone::<AccessGrant>("vision").await;
        scene.world.delete_confirmed::<GPUPool>(POOL).await;
        scene.world.gone::<GPUPool>(POOL).await;
        let mut factory = scene.factory();
        factory["spec"]["sites"][0]["stage"] = json!("Decommissioned");
        scene.world.apply(factory).await;
        let ready: AIFactory = scene.world.ready("rival").await;
        assert_eq!(condition(&ready.status.unwrap().conditions, "OrphansFound").status, "False");
        assert_eq!(holder(slurm).await, held_by("rival", "elsewhere"));
        // What the first keeps there for the retention is not the second's.
        assert!(!Scene::picture(slurm).await.is_empty());
        scene.world.apply(scene.factory()).await;
        let message = refused(&scene, FACTORY).await;
        assert!(message.contains(&format!("site elsewhere of AIFactory {NAMESPACE}/rival ")), "{message}");

        // And back.
        scene.world.delete_confirmed::<AIFactory>("rival").await;
        scene.world.gone::<AIFactory>("rival").await;
        scene.world.ready::<AIFactory>(FACTORY).await;
        assert_eq!(holder(slurm).await, held_by(FACTORY, "bissen"));
    });
}
