//! Budgets: what does not fit does not start, more hours start it, and nothing gets round it.

use aifactory_api::AccessGrant;
use aifactory_tests::run_beside;
use aifactory_tests::slurm::JobSpec;
use serde_json::json;

use crate::fixture::{POOL, condition};
use crate::scene::{CYCLE, Scene, Work, grant, job, until};

/// A grant on the first site alone: all of the budget is there.
fn at_first(name: &str, hours: i64) -> serde_json::Value {
    let mut grant = grant(name, hours);
    grant["spec"]["pools"][0]["sites"] = json!([{"name": "bissen", "gpuHours": hours}]);
    grant
}

#[test]
fn what_does_not_fit_waits_and_more_hours_start_it() {
    run_beside(async {
        let scene = Scene::start("slurm-budget").await;
        let slurm = &scene.slurm[0];
        for name in ["small", "other"] {
            scene.world.apply(at_first(name, 1)).await;
        }
        let small: AccessGrant = scene.world.ready("small").await;
        let other: AccessGrant = scene.world.ready("other").await;
        let account = scene.account(&small, slurm);

        // 60 device-minutes: one job reserves 40, the next would need 40 more. A type in the request changes nothing.
        let long = JobSpec { minutes: 40, seconds: 300, ..job(&account, 1) };
        let first = slurm.takes("alice", &long).await;
        slurm.wait_job(first, "RUNNING", CYCLE).await.unwrap();
        let second = slurm.takes("bob", &JobSpec { gres: Some("h100".into()), ..long.clone() }).await;
        until("the second is held", CYCLE, async || {
            let job = slurm.job(second).await?;
            if job.reason == "QOSGrpGRESMinutes" { Ok(()) } else { Err(job.reason.into()) }
        })
        .await;
        // Another grant is unaffected.
        let free = slurm.takes("alice", &job(&scene.account(&other, slurm), 1)).await;
        slurm.wait_job(free, "COMPLETED", CYCLE).await.unwrap();

        scene
            .world
            .patch_grant(
                "small",
                json!({"spec": {"pools": [{"name": POOL, "poolRef": {"name": POOL}, "gpuHours": 3, "maxGPUs": 8,
            "sites": [{"name": "bissen", "gpuHours": 3}]}]}}),
            )
            .await;
        slurm.wait_job(second, "RUNNING", CYCLE).await.unwrap();
        slurm.cancel(first).await;
        slurm.cancel(second).await;
    });
}

#[test]
fn a_budget_used_up_is_exhausted_and_comes_back() {
    run_beside(async {
        let scene = Scene::start("slurm-exhausted").await;
        let slurm = &scene.slurm[0];
        // One canonical hour is one device-minute here, so that a budget is used up within a minute.
        let mut pool = crate::scene::pool("fast", "h100");
        pool["spec"]["accounting"] = json!({"canonicalGPUHours": 60, "perDeviceHours": 1});
        scene.world.apply(pool).await;
        let mut short = at_first("short", 4);
        short["spec"]["pools"][0]["name"] = json!("fast");
        short["spec"]["pools"][0]["poolRef"] = json!({"name": "fast"});
        scene.world.apply(short.clone()).await;
        let bound: AccessGrant = scene.world.ready("short").await;
        let account = scene.account(&bound, slurm);
        // 4 GPUs for a minute are all of it.
        let job = slurm.takes("alice", &JobSpec { minutes: 1, seconds: 65, ..job(&account, 4) }).await;
        slurm.wait_job(job, "TIMEOUT", std::time::Duration::from_secs(150)).await.unwrap();
        let exhausted = scene.world.phase("short", "Exhausted").await;
        let conditions = &exhausted.status.as_ref().unwrap().conditions;
        assert_eq!(condition(conditions, "WithinBudget").status, "False");
        assert_eq!(condition(conditions, "Ready").status, "True");
        assert_eq!(condition(conditions, "Usable").status, "False");
        short["spec"]["pools"][0]["gpuHours"] = json!(8);
        short["spec"]["pools"][0]["sites"] = json!([{"name": "bissen", "gpuHours": 8}]);
        scene.world.apply(short).await;
        scene.world.phase("short", "Active").await;
        // Figures follow the records of jobs, which are read each half minute.
        until("what was used is still counted", CYCLE, async || {
            let used = crate::scene::used(&scene.world.api::<AccessGrant>().get("short").await?);
            if used >= Some(4.0) { Ok(()) } else { Err(format!("{used:?}").into()) }
        })
        .await;
    });
}
