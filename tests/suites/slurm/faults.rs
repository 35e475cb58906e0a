//! Each fault gives its own reason, and blocks neither another site nor another grant.

use std::time::Duration;

use aifactory_api::{AIFactory, AccessGrant};
use aifactory_tests::run_beside;
use aifactory_tests::slurm::Daemon;
use serde_json::json;

use crate::fixture::{FACTORY, NAMESPACE};
use crate::scene::{Scene, grant, key, site, until};

const NOTICED: Duration = Duration::from_secs(60);

async fn reason(scene: &Scene, wanted: &str) -> String {
    reason_at(scene, FACTORY, "bettembourg", wanted).await
}

async fn reason_at(scene: &Scene, factory: &str, site: &str, wanted: &str) -> String {
    until(&format!("{site} says {wanted}"), NOTICED, async || {
        let factory: AIFactory = scene.world.api().get(factory).await.unwrap();
        let row = factory.status.clone().unwrap_or_default().sites.into_iter().find(|row| row.name == site).ok_or("no row")?;
        if row.reason.as_deref() == Some(wanted) { Ok(row.message.unwrap_or_default()) } else { Err(format!("{row:?}").into()) }
    })
    .await
}

#[test]
fn each_fault_has_its_own_message() {
    run_beside(async {
        let scene = Scene::start("slurm-faults").await;
        let slurm = &scene.slurm[1];
        let healthy = async |name: &str| {
            scene.world.ready::<AIFactory>(FACTORY).await;
            let mut there = grant(name, 1);
            there["spec"]["pools"][0]["sites"] = json!([{"name": "bissen"}]);
            scene.world.apply(there).await;
            scene.world.ready::<AccessGrant>(name).await;
        };
        // While bettembourg is in trouble, a grant at bissen binds.
        let elsewhere = async |name: &str| {
            let mut there = grant(name, 1);
            there["spec"]["pools"][0]["sites"] = json!([{"name": "bissen"}]);
            scene.world.apply(there).await;
            scene.world.ready::<AccessGrant>(name).await;
        };
        healthy("before").await;

        slurm.freeze(Daemon::Database).await.unwrap();
        eprintln!("frozen: {}", reason(&scene, "SlurmDatabaseDown").await);
        elsewhere("frozen").await;
        slurm.thaw(Daemon::Database).await.unwrap();
        scene.world.ready::<AIFactory>(FACTORY).await;

        slurm.stop(Daemon::Slurmdbd).await.unwrap();
        eprintln!("slurmdbd: {}", reason(&scene, "SlurmDatabaseDown").await);
        slurm.start_daemon(Daemon::Slurmdbd).await.unwrap();
        scene.world.ready::<AIFactory>(FACTORY).await;

        slurm.stop(Daemon::Slurmctld).await.unwrap();
        eprintln!("slurmctld: {}", reason(&scene, "SlurmControllerDown").await);
        slurm.start_daemon(Daemon::Slurmctld).await.unwrap();
        scene.world.ready::<AIFactory>(FACTORY).await;

        slurm.stop(Daemon::Rest).await.unwrap();
        eprintln!("slurmrestd: {}", reason(&scene, "SiteUnreachable").await);
        slurm.start_daemon(Daemon::Rest).await.unwrap();
        scene.world.ready::<AIFactory>(FACTORY).await;

        // A wrong key.
        let mut wrong = key(slurm);
        wrong["data"]["jwt.key"] = json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        scene.world.apply(wrong).await;
        eprintln!("wrong key: {}", reason(&scene, "SlurmTokenRefused").await);
        elsewhere("wrong-key").await;
        scene.world.apply(key(slurm)).await;
        scene.world.ready::<AIFactory>(FACTORY).await;

        // Another cluster's name; how a site is reached does not change while the site is in use, so it is another site's.
        let mut other = scene.factory();
        other["metadata"]["name"] = json!("remich");
        other["spec"]["sites"] = json!([site(slurm)]);
        other["spec"]["sites"][0]["name"] = json!("remich");
        other["spec"]["sites"][0]["slurm"]["clusterName"] = json!("remich");
        scene.world.apply(other).await;
        eprintln!("wrong name: {}", reason_at(&scene, "remich", "remich", "SlurmClusterMismatch").await);
        scene.world.delete_confirmed::<AIFactory>("remich").await;
        scene.world.gone::<AIFactory>("remich").await;

        // No parent account, and a token that has expired.
        let mut factory = scene.factory();
        factory["spec"]["sites"][1]["slurm"]["rest"]["parentAccount"] = json!("nobody");
        scene.world.apply(factory).await;
        eprintln!("no parent: {}", reason(&scene, "ParentAccountMissing").await);
        let mut factory = scene.factory();
        let expired = slurm.expired_token("slurm");
        scene.world.apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "expired", "namespace": NAMESPACE}, "stringData": {"token": expired}})).await;
        let rest = &mut factory["spec"]["sites"][1]["slurm"]["rest"];
        rest.as_object_mut().unwrap().remove("keySecretRef");
        rest["tokenSecretRef"] = json!({"name": "expired", "key": "token"});
        scene.world.apply(factory).await;
        eprintln!("expired: {}", reason(&scene, "SlurmTokenRefused").await);
        scene.world.apply(scene.factory()).await;
        healthy("after").await;
    });
}
