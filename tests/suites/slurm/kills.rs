//! The operator is killed again and again while grants come, change and go at two clusters.

use std::cell::Cell;
use std::time::{Duration, Instant};

use aifactory_api::AccessGrant;
use aifactory_tests::slurm::JobSpec;
use aifactory_tests::{Operator, run_beside};
use futures::future::join_all;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::chance::Chance;
use crate::fixture::{self, POOL, at};
use crate::sampler;
use crate::scene::{CYCLE, Scene, Work, grant, job, until, used};

const GRANTS: usize = 50;
const KILLS: usize = 20;
/// How long the changes take when they are spread over the kills.
const SPAN: Duration = Duration::from_secs(25);
/// Kinds of life; see [`life`].
const KINDS: usize = 9;

#[test]
fn a_kill_at_any_moment_lets_nobody_run_outside_a_budget() {
    run_beside(async {
        let mut scene = Scene::start("slurm-kills").await;
        scene.world.operator.kill();
        // What is told apart here is the end of a process; its lease shall not end before.
        let options = fixture::options().name("killed").lease("15s", "10s", "1s");
        scene.world.operator = Operator::start(&scene.world.federation, options).await.unwrap();
        let scene = scene;

        // A grant that nobody touches, with a job at each cluster.
        scene.world.apply(grant("still", 40)).await;
        let still: AccessGrant = scene.world.ready("still").await;
        let mut jobs = Vec::new();
        for slurm in &scene.slurm {
            let account = scene.account(&still, slurm);
            let id = slurm.takes("alice", &JobSpec { seconds: 290, ..job(&account, 1) }).await;
            jobs.push((slurm, id, start(&slurm.wait_job(id, "RUNNING", CYCLE).await.unwrap().raw)));
        }

        let over = Cell::new(false);
        let changes = async {
            let calm = Instant::now();
            everything(&scene, "calm", &mut Chance::seeded(0), Duration::from_millis(1)).await;
            settled(&scene, "calm").await;
            eprintln!("without kills: {:?}", calm.elapsed());

            let begun = Instant::now();
            let mut pauses = Chance::seeded(50);
            tokio::join!(kills(&scene), everything(&scene, "kill", &mut pauses, SPAN));
            let last = Instant::now();
            settled(&scene, "kill").await;
            eprintln!("{KILLS} kills within {:?}, all true {:?} after the last", last.duration_since(begun), last.elapsed());
            over.set(true);
        };
        let [first, second] = &scene.slurm;
        let ((), one, other) = tokio::join!(changes, sampler::watch(first, &over), sampler::watch(second, &over));
        for seen in [one, other] {
            assert!(seen.faults.is_empty(), "{:#?}", seen.faults);
            eprintln!("{} looks at {} associations", seen.looks, seen.rows);
            assert!(seen.looks > 50 && seen.rows > 50 * GRANTS, "too few to tell");
        }

        for (slurm, id, began) in &jobs {
            let job = slurm.job(*id).await.unwrap();
            assert_eq!((job.state.as_str(), start(&job.raw)), ("RUNNING", *began), "job {id} of {}", slurm.cluster_name());
            slurm.cancel(*id).await;
        }
        // Nothing is left to do for a new operator that reads all anew.
        scene.world.operator.kill();
        for slurm in &scene.slurm {
            slurm.requests().clear();
        }
        scene.world.operator.restart().await.unwrap();
        scene.world.operator.await_ready(fixture::PATIENCE).await.unwrap();
        until("the new operator has read both clusters", fixture::PATIENCE, async || {
            let mut seconds = 0;
            for (slurm, id, _) in &jobs {
                seconds += slurm.elapsed(*id).await;
            }
            let grant: AccessGrant = scene.world.api().get("still").await?;
            let wanted = seconds as f64 / 3600.0;
            match used(&grant) {
                Some(used) if (used - wanted).abs() < 0.0002 => Ok(()),
                other => Err(format!("{other:?} of {wanted}").into()),
            }
        })
        .await;
        scene.world.counted().await;
        for slurm in &scene.slurm {
            assert_eq!(slurm.requests().writes(), [], "{}", slurm.cluster_name());
        }
        scene.at_rest(Duration::from_secs(5)).await;
    });
}

/// When a job began; one that was requeued began later.
fn start(job: &Value) -> i64 {
    job.pointer("/start_time/number").and_then(Value::as_i64).unwrap_or_else(|| panic!("{job}"))
}

async fn kills(scene: &Scene) {
    let leases: Api<Lease> = Api::namespaced(scene.world.hub().admin(), "aifactory-system");
    let mut moments = Chance::seeded(4);
    for _ in 0..KILLS {
        tokio::time::sleep(moments.moment(Duration::from_millis(2500))).await;
        scene.world.operator.kill();
        // Nobody else waits for the lease of the dead, and nothing is learned by waiting.
        leases.delete("aifactory-operator", &DeleteParams::default()).await.ok();
        scene.world.operator.restart().await.unwrap();
    }
}

/// Creates, changes and ends all grants, each with pauses of its own that fill `span` together.
async fn everything(scene: &Scene, prefix: &str, chance: &mut Chance, span: Duration) {
    let third = span / 3;
    let lives = (0..GRANTS).map(|index| {
        let pauses = [chance.moment(third), chance.moment(third), chance.moment(third)];
        life(scene, format!("{prefix}-{index:02}"), index % KINDS, pauses)
    });
    join_all(lives).await;
}

/// What happens to one grant.
async fn life(scene: &Scene, name: String, kind: usize, pauses: [Duration; 3]) {
    let world = &scene.world;
    let mut made = grant(&name, 20);
    if kind == 8 {
        made["spec"]["expiry"] = json!({"retention": "0s", "afterRetention": "Delete"});
    }
    tokio::time::sleep(pauses[0]).await;
    world.apply(made.clone()).await;
    tokio::time::sleep(pauses[1]).await;
    let hours = |hours: i64| json!([{"name": POOL, "poolRef": {"name": POOL}, "gpuHours": hours, "maxGPUs": 8}]);
    let suspended = json!([{"id": "p-1", "role": "Lead"}, {"id": "p-2", "state": "Suspended"}, {"id": "p-3"}]);
    // The end of what never began leaves nothing: both runs end what is in force.
    if matches!(kind, 4..=8) {
        // As long as it is killed every second or two an operator gets nowhere, or nearly so.
        until(&format!("{name} is at both clusters"), 4 * fixture::PATIENCE, async || {
            let grant: AccessGrant = world.api().get(&name).await?;
            let status = grant.status.unwrap_or_default();
            let both = status.sites.len() == 2 && status.sites.iter().all(|site| site.access.is_some());
            if both && status.phase == Some(aifactory_api::grant::GrantPhase::Active) {
                Ok(())
            } else {
                Err(format!("{:?} {:?}", status.phase, status.sites).into())
            }
        })
        .await;
    }
    match kind {
        0 => {}
        1 => drop(world.patch_grant(&name, json!({"spec": {"pools": hours(40)}})).await),
        2 => drop(world.patch_grant(&name, json!({"spec": {"pools": hours(10), "members": suspended}})).await),
        3 => {
            world.patch_grant(&name, json!({"spec": {"state": "Paused"}})).await;
            tokio::time::sleep(pauses[2]).await;
            world.patch_grant(&name, json!({"spec": {"state": "Active", "members": suspended, "pools": hours(30)}})).await;
        }
        4 => drop(world.patch_grant(&name, json!({"spec": {"notAfter": at(-1)}})).await),
        5 => world.delete_grant(&name).await,
        6 => {
            world.delete_grant(&name).await;
            tokio::time::sleep(pauses[2]).await;
            world.gone::<AccessGrant>(&name).await;
            world.apply(made).await;
        }
        _ => drop(world.patch_grant(&name, json!({"spec": {"state": "Revoked"}})).await),
    }
}

/// Waits until every grant is what it shall be at both clusters.
async fn settled(scene: &Scene, prefix: &str) {
    for index in 0..GRANTS {
        let name = format!("{prefix}-{index:02}");
        if index % KINDS == 5 { scene.world.gone::<AccessGrant>(&name).await } else { drop(scene.world.ready::<AccessGrant>(&name).await) }
    }
    if prefix == "kill" {
        for slurm in &scene.slurm {
            until(&format!("{} is the same without kills and with them", slurm.cluster_name()), CYCLE, async || {
                let lines = Scene::picture(slurm).await;
                let (calm, kill) = (plain(&lines, "calm"), plain(&lines, "kill"));
                assert!(calm.len() > 3 * GRANTS, "{calm:#?}");
                let differ: Vec<&String> =
                    calm.iter().filter(|line| !kill.contains(line)).chain(kill.iter().filter(|line| !calm.contains(line))).collect();
                if differ.is_empty() && calm.len() == kill.len() { Ok(()) } else { Err(format!("{differ:#?}").into()) }
            })
            .await;
        }
    }
}

/// The lines of a picture about the grants whose names begin with `prefix`, free of names, identities and moments.
fn plain(lines: &[String], prefix: &str) -> Vec<String> {
    let mut plain: Vec<String> = lines
        .iter()
        .filter(|line| line.contains(&format!(": grant-{prefix}-")))
        .map(|line| line.split(['|', ',']).map(|cell| value(cell, prefix)).collect::<Vec<_>>().join("|"))
        .collect();
    plain.sort();
    plain
}

fn value(cell: &str, prefix: &str) -> String {
    let parts = cell.split("; ").map(|part| match part.split_once('=') {
        Some((key @ ("uid" | "since" | "ended-at" | "cancel-at" | "queue-ended-at" | "cancelled-at" | "locked-at" | "retained-until"), _)) => {
            key.to_owned()
        }
        Some(("ended-because", text)) => text.split(':').next().unwrap_or_default().to_owned(),
        _ => part.replace(&format!("{prefix}-"), ""),
    });
    let parts = parts.map(|part| match part.rsplit_once('-') {
        Some((name, hash)) if name.contains("grant-") && hash.len() == 10 => name.to_owned(),
        _ => part,
    });
    parts.collect::<Vec<_>>().join("; ")
}
