//! Pause, suspension, revocation and the end, with jobs running; what is kept, and what comes back.

use std::time::{Duration, Instant};

use aifactory_api::AccessGrant;
use aifactory_tests::run_beside;
use aifactory_tests::slurm::{Cluster, Daemon, JobSpec};
use serde_json::{Value, json};

use crate::fixture::condition;
use crate::scene::{CYCLE, Scene, Work, grant, job, until, used};

#[test]
fn paused_resumed_suspended_and_revoked() {
    run_beside(async {
        let scene = Scene::start("slurm-ending").await;
        let slurm = &scene.slurm[0];
        let mut wanted = grant("vision", 20);
        wanted["spec"]["expiry"] = json!({"runningWork": "Cancel", "gracePeriod": "5s", "retention": "1h"});
        scene.world.apply(wanted.clone()).await;
        let bound: AccessGrant = scene.world.ready("vision").await;
        let account = scene.account(&bound, slurm);
        let long = || JobSpec { seconds: 280, ..job(&account, 1) };
        let refused = async |user: &str| slurm.refuses(user, &job(&account, 1)).await;

        // Paused: what runs goes on, nothing new begins.
        let running = slurm.takes("alice", &long()).await;
        slurm.wait_job(running, "RUNNING", CYCLE).await.unwrap();
        scene.world.patch_grant("vision", json!({"spec": {"state": "Paused"}})).await;
        scene.world.phase("vision", "Paused").await;
        scene.world.ready::<AccessGrant>("vision").await;
        assert_eq!(refused("alice").await, 2050);
        assert_eq!(slurm.job(running).await.unwrap().state, "RUNNING");
        scene.world.patch_grant("vision", json!({"spec": {"state": "Active"}})).await;
        scene.world.phase("vision", "Active").await;
        scene.world.ready::<AccessGrant>("vision").await;
        let bobs = slurm.takes("bob", &long()).await;
        slurm.wait_job(bobs, "RUNNING", CYCLE).await.unwrap();

        // One member suspended: bob can not submit, his work ends after the grace period, alice's goes on.
        let begun = Instant::now();
        scene.world.patch_grant("vision", json!({"spec": {"members": [{"id": "p-1", "role": "Lead"}, {"id": "p-2", "state": "Suspended"}]}})).await;
        until("bob is refused", CYCLE, async || match slurm.submit("bob", job(&account, 1)).await {
            Err(_) => Ok(()),
            Ok(id) => {
                slurm.cancel(id).await;
                Err("still taken".into())
            }
        })
        .await;
        eprintln!("a suspended member was refused after {:?}", begun.elapsed());
        slurm.wait_job(bobs, "CANCELLED", CYCLE).await.unwrap();
        assert_eq!(slurm.job(running).await.unwrap().state, "RUNNING");

        // Revoked: alice can not submit, and her work ends as `expiry` says.
        let begun = Instant::now();
        scene.world.patch_grant("vision", json!({"spec": {"state": "Revoked"}})).await;
        let revoked: AccessGrant = scene.world.until("vision", "AccessRemoved", "True").await;
        eprintln!("access gone at both clusters after {:?}", begun.elapsed());
        assert_ne!(refused("alice").await, 0);
        slurm.wait_job(running, "CANCELLED", CYCLE).await.unwrap();
        assert_eq!(condition(&revoked.status.as_ref().unwrap().conditions, "AccessRemoved").reason, "AccessGone");

        // Hours are counted to the end, and are still there for a grant made again with the same name and code.
        until("hours", Duration::from_secs(60), async || {
            let grant: AccessGrant = scene.world.api().get("vision").await.unwrap();
            if used(&grant).is_some_and(|used| used > 0.0) { Ok(()) } else { Err("none".into()) }
        })
        .await;
        scene.world.delete_grant("vision").await;
        scene.world.gone::<AccessGrant>("vision").await;
        assert!(!Scene::picture(slurm).await.is_empty());
        scene.world.apply(wanted).await;
        let again: AccessGrant = scene.world.ready("vision").await;
        assert_eq!(scene.account(&again, slurm), account);
        until("hours are kept", Duration::from_secs(60), async || {
            let grant: AccessGrant = scene.world.api().get("vision").await.unwrap();
            if used(&grant).is_some_and(|used| used > 0.0) { Ok(()) } else { Err("none".into()) }
        })
        .await;
        let job = slurm.takes("alice", &job(&account, 1)).await;
        slurm.wait_job(job, "COMPLETED", CYCLE).await.unwrap();
    });
}

#[test]
fn revoked_while_the_database_is_down() {
    run_beside(async {
        let scene = Scene::start("slurm-revoked-down").await;
        scene.world.apply(grant("vision", 20)).await;
        let bound: AccessGrant = scene.world.ready("vision").await;
        let accounts = scene.accounts(&bound);
        scene.slurm[1].stop(Daemon::Slurmdbd).await.unwrap();
        scene.world.patch_grant("vision", json!({"spec": {"state": "Revoked"}})).await;
        let waiting = until("the other site is named", CYCLE, async || {
            let grant: AccessGrant = scene.world.api().get("vision").await.unwrap();
            let found = grant.status.clone().unwrap().conditions.into_iter().find(|found| found.type_ == "AccessRemoved").unwrap();
            if found.status == "False" && found.message.contains("bettembourg") && !found.message.contains("bissen:") {
                Ok(found)
            } else {
                Err(format!("{found:?}").into())
            }
        })
        .await;
        eprintln!("{}", waiting.message);
        assert_ne!(scene.slurm[0].refuses("alice", &job(&accounts[0], 1)).await, 0);
        scene.slurm[1].start_daemon(Daemon::Slurmdbd).await.unwrap();
        scene.world.until::<AccessGrant>("vision", "AccessRemoved", "True").await;
        assert_ne!(scene.slurm[1].refuses("alice", &job(&accounts[1], 1)).await, 0);
    });
}

#[test]
fn access_is_gone_only_when_slurmctld_has_heard_of_it() {
    run_beside(async {
        let scene = Scene::start("slurm-unheard").await;
        scene.world.apply(grant("vision", 20)).await;
        let bound: AccessGrant = scene.world.ready("vision").await;
        let accounts = scene.accounts(&bound);
        // What a removal leaves behind whose message to slurmctld was lost: slurmdbd was started anew, and slurmctld had not registered there yet.
        scene.world.operator.kill();
        scene.world.patch_grant("vision", json!({"spec": {"state": "Revoked"}})).await;
        let slurm = &scene.slurm[1];
        slurm.freeze(Daemon::Slurmctld).await.unwrap();
        slurm.stop(Daemon::Slurmdbd).await.unwrap();
        slurm.start_daemon(Daemon::Slurmdbd).await.unwrap();
        for user in ["alice", "bob"] {
            let (user, account) = (format!("name={user}"), format!("account={}", accounts[1]));
            slurm.sacctmgr(&["delete", "user", "where", &user, &account, "cluster=bettembourg"]).await.unwrap();
        }
        slurm.thaw(Daemon::Slurmctld).await.unwrap();
        let stale = until("slurmctld takes a job of somebody without an association", CYCLE, async || {
            slurm.submit("alice", JobSpec { seconds: 600, ..job(&accounts[1], 1) }).await.map_err(|error| format!("{error:?}").into())
        })
        .await;
        assert_eq!(in_force(slurm, &accounts[1]).await, ["alice", "bob"]);
        scene.world.operator.restart().await.unwrap();
        let slurm = &scene.slurm[1];
        until("status says what to do", CYCLE, async || {
            let grant: AccessGrant = scene.world.api().get("vision").await.unwrap();
            let found = condition(&grant.status.unwrap().conditions, "AccessRemoved").clone();
            let told =
                found.status == "False" && found.message.contains("user alice partition h100") && found.message.contains("scontrol reconfigure");
            if told { Ok(()) } else { Err(format!("{found:?}").into()) }
        })
        .await;
        assert_eq!(in_force(slurm, &accounts[1]).await, ["alice", "bob"]);
        slurm.scontrol(&["reconfigure"]).await.unwrap();
        scene.world.until::<AccessGrant>("vision", "AccessRemoved", "True").await;
        assert_eq!(in_force(slurm, &accounts[1]).await, Vec::<String>::new());
        assert_ne!(slurm.refuses("alice", &job(&accounts[1], 1)).await, 0);
        slurm.cancel(stale).await;
    });
}

/// The users whom slurmctld lets submit jobs under an account, whatever the database says.
async fn in_force(slurm: &Cluster, account: &str) -> Vec<String> {
    let answer = slurm.rest("GET", &format!("/slurm/v0.0.44/shares?accounts={account}"), None).await.unwrap();
    let shares = answer.pointer("/shares/shares").and_then(Value::as_array).cloned().unwrap_or_default();
    shares.iter().filter(|share| share["parent"] == account).map(|share| share["name"].as_str().unwrap_or_default().to_owned()).collect()
}
