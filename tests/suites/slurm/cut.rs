//! One of two sites is cut while both burn hours: together they stay within the grant.

use std::cell::Cell;
use std::time::{Duration, Instant};

use aifactory_api::{AccessGrant, GPUPool};
use aifactory_tests::slurm::{Cluster as Slurm, JobSpec};
use aifactory_tests::{Cut, run_beside};
use serde_json::{Value, json};

use crate::fixture::{condition, summary};
use crate::scene::{CYCLE, SITES, Scene, Work, grant, job, pool, until, used};

/// Device-minutes, which are canonical hours in this pool: of the whole grant at first and then, and how they are split.
const BEFORE: (i64, [i64; 2]) = (8, [4, 4]);
const AFTER: (i64, [i64; 2]) = (6, [5, 1]);
/// Jobs at each site, more than the budget holds.
const JOBS: usize = 30;
/// Those that begin before the cut; they use less than the smaller budget leaves to either site.
const FIRST: usize = 4;
/// How long a job runs; it asks for a minute.
const SECONDS: u32 = 10;
/// What Slurm may use beyond a limit: it compares whole minutes, so that one more job begins in a minute that has begun.
const BEYOND: i64 = SECONDS as i64 + 2;
/// How long no job begins before it is sure that none will.
const QUIET: Duration = Duration::from_secs(5);

fn spec((total, split): (i64, [i64; 2])) -> Value {
    let sites: Vec<Value> = SITES.iter().zip(split).map(|(name, hours)| json!({"name": name, "gpuHours": hours})).collect();
    json!({"pools": [{"name": "fast", "poolRef": {"name": "fast"}, "gpuHours": total, "maxGPUs": 8, "sites": sites}]})
}

#[test]
fn a_cut_site_and_the_rest_stay_within_the_grant() {
    run_beside(async {
        let scene = Scene::start("slurm-cut").await;
        let mut fast = pool("fast", "h100");
        fast["spec"]["accounting"] = json!({"canonicalGPUHours": 60, "perDeviceHours": 1});
        scene.world.apply(fast).await;
        scene.world.ready::<GPUPool>("fast").await;
        let mut made = grant("burn", 1);
        made["spec"]["pools"] = spec(BEFORE)["pools"].clone();
        scene.world.apply(made).await;
        let bound: AccessGrant = scene.world.ready("burn").await;
        let accounts = scene.accounts(&bound);
        let (granted, over) = (Cell::new(BEFORE.0), Cell::new(false));

        let story = async {
            let submit = async |jobs: usize| {
                for turn in 0..jobs {
                    for (slurm, account) in scene.slurm.iter().zip(&accounts) {
                        let user = ["alice", "bob"][turn % 2];
                        slurm.takes(user, &JobSpec { minutes: 1, seconds: SECONDS, ..job(account, 1) }).await;
                    }
                }
            };
            submit(FIRST).await;
            until("both burn", CYCLE, async || {
                let burnt = [burnt(&scene.slurm[0], &accounts[0]).await?, burnt(&scene.slurm[1], &accounts[1]).await?];
                if burnt.iter().all(|seconds| *seconds > 0) { Ok(()) } else { Err(format!("{burnt:?}").into()) }
            })
            .await;
            let cut = &scene.slurm[1];
            cut.proxy().cut(Cut::Refuse).await;
            let at_cut = Instant::now();
            scene.world.patch_grant("burn", json!({"spec": spec(AFTER)})).await;
            granted.set(AFTER.0);
            let named = until("status names the cut site", CYCLE, async || {
                let grant: AccessGrant = scene.world.api().get("burn").await?;
                let conditions = grant.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
                let reached = condition(&conditions, "SitesReachable");
                let current = reached.observed_generation == grant.metadata.generation;
                if current && reached.status == "False" && reached.message.contains(SITES[1]) && !reached.message.contains(SITES[0]) {
                    Ok(grant)
                } else {
                    Err(summary(&conditions).into())
                }
            })
            .await;
            eprintln!("named {:?} after the cut: {}", at_cut.elapsed(), summary(&named.status.unwrap().conditions));

            submit(JOBS - FIRST).await;
            // Both go on until nothing fits any more: at the cut site all of its old part may be used.
            for (slurm, account) in scene.slurm.iter().zip(&accounts) {
                let mut since = Instant::now();
                until(&format!("nothing fits at {}", slurm.cluster_name()), Duration::from_secs(150), async || {
                    spent(slurm, account).await.inspect_err(|_| since = Instant::now())?;
                    if since.elapsed() >= QUIET { Ok(()) } else { Err("one may begin yet".into()) }
                })
                .await;
            }
            let seconds = [burnt(&scene.slurm[0], &accounts[0]).await.unwrap(), burnt(&scene.slurm[1], &accounts[1]).await.unwrap()];
            eprintln!("used up {:?} after the cut: {seconds:?} device-seconds", at_cut.elapsed());
            // The cut site did not receive its smaller part, and the other may have no more than what that leaves.
            assert!(seconds[1] > (BEFORE.1[1] - 1) * 60, "{seconds:?}: the cut site should go on");

            cut.proxy().restore().await;
            let restored = Instant::now();
            until("status agrees with both clusters", Duration::from_secs(60), async || {
                let grant: AccessGrant = scene.world.api().get("burn").await?;
                agrees(&grant, &scene.slurm, &accounts).await
            })
            .await;
            eprintln!("figures agree {:?} after the cut ended", restored.elapsed());
            over.set(true);
        };
        let watch = async {
            let mut looks = 0;
            while !over.get() {
                // What was granted is read first: it only gets smaller.
                let most = granted.get() * 60 + 2 * BEYOND;
                let seconds = [burnt(&scene.slurm[0], &accounts[0]).await.unwrap(), burnt(&scene.slurm[1], &accounts[1]).await.unwrap()];
                assert!(seconds.iter().sum::<i64>() <= most, "{seconds:?} device-seconds of {most}");
                looks += 1;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            eprintln!("{looks} looks at what both burn");
        };
        tokio::join!(story, watch);
    });
}

/// Device-seconds of all jobs of an account, as the cluster's own records say.
async fn burnt(slurm: &Slurm, account: &str) -> Result<i64, aifactory_tests::Observed> {
    let path = format!("/slurmdb/v0.0.44/jobs/?account={account}");
    let answer = slurm.rest("GET", &path, None).await?;
    let jobs = answer.pointer("/jobs").and_then(Value::as_array).ok_or("no jobs")?;
    let gpus = |job: &Value| {
        let allocated = job.pointer("/tres/allocated").and_then(Value::as_array).into_iter().flatten();
        allocated.filter(|tres| tres["type"] == "gres" && tres["name"] == "gpu").filter_map(|tres| tres["count"].as_i64()).sum::<i64>()
    };
    Ok(jobs.iter().map(|job| gpus(job) * job.pointer("/time/elapsed").and_then(Value::as_i64).unwrap_or_default()).sum())
}

/// Whether jobs wait for the budget and none runs.
async fn spent(slurm: &Slurm, account: &str) -> Result<(), aifactory_tests::Observed> {
    let answer = slurm.rest("GET", "/slurm/v0.0.44/jobs/", None).await?;
    let jobs = answer.pointer("/jobs").and_then(Value::as_array).ok_or("no jobs")?;
    let own = jobs.iter().filter(|job| job["account"] == account);
    let states: Vec<(String, String)> = own.map(|job| (job["job_state"].to_string(), job["state_reason"].to_string())).collect();
    let runs = states.iter().any(|(state, _)| state.contains("RUNNING") || state.contains("COMPLETING"));
    let held = states.iter().any(|(state, reason)| state.contains("PENDING") && reason.contains("QOSGrpGRESMinutes"));
    if held && !runs { Ok(()) } else { Err(format!("{states:?}").into()) }
}

/// Whether what status says of the whole and of each site is what the clusters' records say.
async fn agrees(grant: &AccessGrant, slurm: &[Slurm; 2], accounts: &[String; 2]) -> Result<(), aifactory_tests::Observed> {
    let status = grant.status.as_ref().ok_or("no status")?;
    let mut sum = 0;
    for (slurm, account) in slurm.iter().zip(accounts) {
        let seconds = burnt(slurm, account).await?;
        sum += seconds;
        let row = status.sites.iter().find(|row| row.name == slurm.cluster_name()).ok_or("no row")?;
        let budget = row.budgets.first().ok_or("no budget")?;
        if budget.used != Some(seconds / 60) {
            return Err(format!("{} says {:?} of {seconds} s", row.name, budget.used).into());
        }
    }
    // A canonical hour is a device-minute here, and four decimals are shown.
    let wanted = sum as f64 / 60.0;
    match used(grant) {
        Some(used) if (used - wanted).abs() < 0.001 => {
            eprintln!("status says {used} of {}", status.pools[0].gpu_hours.granted);
            Ok(())
        }
        other => Err(format!("{other:?} of {wanted}").into()),
    }
}
