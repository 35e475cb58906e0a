//! Device-time on a real Slurm: what the operator counts is what the job records say, to the second.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aifactory_api::slurm::SlurmRest;
use aifactory_operator::client::ClientSettings;
use aifactory_operator::credential::AddressRules;
use aifactory_operator::lease::WriteGate;
use aifactory_operator::site::slurm::client::SlurmClient;
use aifactory_operator::site::slurm::error::SlurmError;
use aifactory_operator::site::slurm::token::Token;
use aifactory_operator::site::slurm::usage::{Cycle, Usage};
use aifactory_plan::model::id::{AccountName, ClusterName, QosName};
use aifactory_plan::model::report::EntryUsage;
use aifactory_tests::slurm::{Cluster, Daemon, JobSpec, Options};
use aifactory_tests::{eventually, run_beside};
use jiff::Timestamp;
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(90);
/// Slurm lets a requeued job wait two minutes, and a heterogeneous one may wait for long.
const AGAIN: Duration = Duration::from_secs(300);
const ACCOUNT: &str = "grant-usage";

struct Scene {
    slurm: Cluster,
    client: SlurmClient,
    since: Timestamp,
}

fn client(url: &str, key: &[u8]) -> SlurmClient {
    let rest: SlurmRest = serde_json::from_value(json!({"url": url, "keySecretRef": {"name": "s", "key": "jwt.key"}})).unwrap();
    let token = Token::new(&rest, &key.to_vec().into()).unwrap();
    let here = AddressRules::allowing(["127.0.0.0/8".parse().unwrap()]);
    SlurmClient::new(&rest, token, &ClientSettings { gate: WriteGate::always_open(), addresses: Some(here), requests: None }).unwrap()
}

impl Scene {
    async fn start(name: &str) -> Self {
        let since = Timestamp::now();
        let slurm = Cluster::start(Options::new(name)).await.unwrap();
        slurm.create_account(ACCOUNT, "eu-aif").await.unwrap();
        slurm.create_association("alice", ACCOUNT, None).await.unwrap();
        let client = client(&slurm.rest_url(), slurm.jwt_key());
        Self { slurm, client, since }
    }

    async fn cycle(&self, usage: &mut Usage) -> Cycle {
        let accounts = BTreeMap::from([(AccountName::new(ACCOUNT), self.since)]);
        usage.cycle(&self.client, &ClusterName::new(self.slurm.cluster_name()), &accounts, Timestamp::now()).await
    }

    async fn used(&self, usage: &mut Usage) -> EntryUsage {
        let cycle = self.cycle(usage).await;
        assert_eq!(cycle.problem, None);
        cycle.of(&AccountName::new(ACCOUNT), &QosName::new("normal")).cloned().unwrap()
    }

    /// The records as they are, times not cut.
    async fn records(&self) -> Vec<Value> {
        let (from, to) = (self.since.as_second(), Timestamp::now().as_second() + 60);
        let flags = "skip_steps=1&show_duplicates=1&disable_truncate_usage_time=1";
        let path = format!("/slurmdb/v0.0.44/jobs/?account={ACCOUNT}&start_time={from}&end_time={to}&{flags}");
        self.slurm.rest("GET", &path, None).await.unwrap()["jobs"].as_array().unwrap().clone()
    }

    /// Waits until every job is over in the records, and adds them up.
    async fn over(&self, runs: usize) -> i64 {
        eventually(AGAIN, "every job is over", async || {
            let records = self.records().await;
            let over = |job: &Value| job["time"]["end"].as_i64().unwrap() > 0 && (requeued(job) || job["state"]["current"][0] != "PENDING");
            if records.len() == runs && records.iter().all(over) {
                Ok(records.iter().map(|job| gpus(job) * job["time"]["elapsed"].as_i64().unwrap()).sum())
            } else {
                Err(format!("{} records of {runs}", records.len()).into())
            }
        })
        .await
        .unwrap()
    }

    /// Submits what a job specification does not know.
    async fn submit(&self, body: Value) -> u32 {
        let (status, answer) = self.slurm.rest_as("alice", "POST", "/slurm/v0.0.44/job/submit", Some(&body)).await.unwrap();
        assert_eq!(status, 200, "{answer}");
        u32::try_from(answer["job_id"].as_u64().unwrap()).unwrap()
    }
}

fn requeued(job: &Value) -> bool {
    job["state"]["current"].as_array().unwrap().iter().any(|state| state == "REQUEUED")
}

fn gpus(job: &Value) -> i64 {
    let allocated = job["tres"]["allocated"].as_array().unwrap();
    allocated.iter().filter(|tres| tres["type"] == "gres" && tres["name"] == "gpu").map(|tres| tres["count"].as_i64().unwrap()).sum()
}

fn body(more: Value) -> Value {
    let mut job = json!({"name": "t", "account": ACCOUNT, "partition": "a100", "current_working_directory": "/tmp", "standard_output": "/dev/null",
        "environment": ["PATH=/usr/bin:/bin"], "time_limit": {"set": true, "number": 1}, "tres_per_node": "gres/gpu:1"});
    job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    job
}

/// Reads until something is so.
async fn until(scene: &Scene, usage: &mut Usage, what: &str, wished: impl Fn(&EntryUsage) -> bool) -> EntryUsage {
    let begun = Instant::now();
    loop {
        let found = scene.used(usage).await;
        if wished(&found) {
            return found;
        }
        assert!(begun.elapsed() < LONG, "{what}: {found:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[test]
fn every_kind_of_job_is_counted_to_the_second() {
    run_beside(async {
        let scene = Scene::start("usage").await;
        let mut usage = Usage::new();
        assert_eq!(scene.used(&mut usage).await.used, 0);

        let spec = JobSpec { gpus: 2, seconds: 12, ..JobSpec::new(ACCOUNT, "h100") };
        let suspended = scene.slurm.submit("alice", spec.clone()).await.unwrap();
        let again = scene.slurm.submit("alice", JobSpec { gpus: 1, ..spec.clone() }).await.unwrap();
        let cancelled = scene.slurm.submit("alice", JobSpec { gpus: 1, seconds: 600, ..spec }).await.unwrap();
        for id in [suspended, again, cancelled] {
            scene.slurm.wait_job(id, "RUNNING", LONG).await.unwrap();
        }
        let running = until(&scene, &mut usage, "time goes by", |usage| usage.running && usage.used >= 8).await;
        assert!(running.reserved > 0 && running.reserved + running.used <= 4 * 60 + 8, "{running:?}");
        assert!(usage.busy()[ACCOUNT].contains("alice"));

        scene.slurm.scontrol(&["suspend", &suspended.to_string()]).await.unwrap();
        scene.slurm.scontrol(&["requeue", &again.to_string()]).await.unwrap();
        scene.submit(json!({"script": "#!/bin/sh\nsleep 1\n", "job": body(json!({"array": "0-3"}))})).await;
        let pair = [body(json!({})), body(json!({"partition": "h100"}))];
        let pair = scene.submit(json!({"script": "#!/bin/sh\nsleep 2\n", "jobs": pair})).await;
        let before = scene.used(&mut usage).await.used;
        until(&scene, &mut usage, "time goes by", |usage| usage.used > before + 6).await;
        scene.slurm.scontrol(&["resume", &suspended.to_string()]).await.unwrap();
        scene.slurm.wait_job(pair, "COMPLETED", AGAIN).await.unwrap();
        let (status, _) = scene.slurm.rest_as("alice", "DELETE", &format!("/slurm/v0.0.44/job/{cancelled}"), None).await.unwrap();
        assert_eq!(status, 200);

        let whole = scene.over(10).await;
        let counted = scene.used(&mut usage).await;
        assert_eq!((counted.used, counted.reserved, counted.running), (whole, 0, false));
        let anew = scene.used(&mut Usage::new()).await;
        assert_eq!((anew.used, anew.surcharge), (counted.used, counted.surcharge));
        assert!(counted.surcharge > 0, "suspended time");
    });
}

#[test]
fn what_a_database_learns_late_is_counted_once() {
    run_beside(async {
        let scene = Scene::start("late").await;
        let mut usage = Usage::new();
        let before = scene.used(&mut usage).await;
        scene.slurm.stop(Daemon::Slurmdbd).await.unwrap();
        let spec = JobSpec { gpus: 3, seconds: 5, ..JobSpec::new(ACCOUNT, "h100") };
        let job = scene.slurm.submit("alice", spec.clone()).await.unwrap();
        scene.slurm.wait_job(job, "COMPLETED", LONG).await.unwrap();
        let cycle = scene.cycle(&mut usage).await;
        assert_eq!(cycle.problem, Some(SlurmError::DatabaseDown));
        assert!(cycle.of(&AccountName::new(ACCOUNT), &QosName::new("normal")).is_none() && before.used == 0);
        scene.slurm.start_daemon(Daemon::Slurmdbd).await.unwrap();
        let whole = scene.over(1).await;
        assert!(whole >= 15, "{whole}");
        let found = until(&scene, &mut usage, "complete", |usage| usage.complete_through > before.complete_through).await;
        assert_eq!((found.used, found.stale), (whole, false));
        assert_eq!(scene.used(&mut usage).await.used, whole);
    });
}
