//! P11: ten thousand job records, read by the operator's own code beside a bare reader of the same answer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aifactory_api::slurm::SlurmRest;
use aifactory_operator::client::ClientSettings;
use aifactory_operator::credential::AddressRules;
use aifactory_operator::lease::WriteGate;
use aifactory_operator::site::slurm::client::{Api, SlurmClient};
use aifactory_operator::site::slurm::token::Token;
use aifactory_operator::site::slurm::usage::Usage;
use aifactory_plan::model::id::{AccountName, ClusterName};
use aifactory_tests::eventually;
use aifactory_tests::slurm::{Cluster, Node, Options, unavailable};
use http_body_util::BodyExt as _;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::Failure;
use crate::table::Table;

const ACCOUNT: &str = "grant-usage";
const JOBS: usize = 10_000;
/// Jobs of one array.
const ARRAY: usize = 1000;
const ROUNDS: usize = 5;
const WHAT: &str = "job records read, best of 5";

/// P11. Without real Slurm the row says why there is no number.
pub async fn records(table: &mut Table) -> Result<(), Failure> {
    let (time, memory, server) = ("≤ 1.2 × bare", "≤ 20 MiB above rest", "does not grow");
    if let Some(why) = unavailable() {
        table.skip("P11", format!("{JOBS} {WHAT}"), time, why);
        return Ok(());
    }
    let nodes = (1..=4).map(|number| Node::with_gpus(&format!("n{number}"), "a100", "a100", 8));
    let slurm = Cluster::start(Options::new("records").nodes(nodes).line("MinJobAge=5").line("MaxJobCount=20000")).await?;
    slurm.create_account(ACCOUNT, "eu-aif").await?;
    slurm.create_association("alice", ACCOUNT, None).await?;
    let since = Timestamp::now();
    jobs(&slurm).await?;

    let rest: SlurmRest = serde_json::from_value(json!({"url": slurm.rest_url(), "keySecretRef": {"name": "s", "key": "jwt.key"}}))?;
    let token = Token::new(&rest, &slurm.jwt_key().to_vec().into())?;
    let here = AddressRules::allowing(["127.0.0.0/8".parse()?]);
    let settings = ClientSettings { gate: WriteGate::always_open(), addresses: Some(here), requests: None };
    let client = SlurmClient::new(&rest, token, &settings)?;
    let now = Timestamp::now() + SignedDuration::from_secs(1);
    let (cluster, accounts) = (ClusterName::new(slurm.cluster_name()), BTreeMap::from([(AccountName::new(ACCOUNT), since)]));
    // Once without a clock: connections, and slurmrestd's own memory.
    Usage::new().cycle(&client, &cluster, &accounts, now).await;
    let served = server_memory()?;
    std::fs::write("/proc/self/clear_refs", "5")?;
    let at_rest = own_memory("VmRSS:")?;
    let mut ours = Duration::MAX;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let cycle = Usage::new().cycle(&client, &cluster, &accounts, now).await;
        ours = ours.min(begun.elapsed());
        if let Some(problem) = cycle.problem {
            return Err(problem.into());
        }
    }
    let above = own_memory("VmHWM:")?.saturating_sub(at_rest);
    let grown = server_memory()?.saturating_sub(served);
    let (bare, bytes) = bare(&slurm, &client, since, now).await?;

    let (ours, bare) = (ours.as_secs_f64(), bare.as_secs_f64());
    let ratio = ours / bare;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for (name, value) in [
        ("usage_seconds", ours),
        ("usage_bare_seconds", bare),
        ("usage_ratio_to_bare", ratio),
        ("usage_mib_above_rest", mib(above)),
        ("slurmrestd_mib_grown", mib(grown)),
    ] {
        table.figure("P11", name, value);
    }
    let what = format!("{JOBS} {WHAT} ({:.0} MiB)", mib(bytes));
    table.add("P11", what, format!("{ours:.2} s, {ratio:.2} × bare {bare:.2} s"), time, ratio <= 1.2);
    table.add("P11", "memory while they are read", format!("{:.1} MiB", mib(above)), memory, mib(above) <= 20.0);
    table.add(
        "P11",
        "slurmrestd after five readings",
        format!("{:.1} MiB more, {:.0} MiB in all", mib(grown), mib(served + grown)),
        server,
        mib(grown) <= 20.0,
    );
    Ok(())
}

/// Real jobs that do nothing, until all of them are in the database with their end.
async fn jobs(slurm: &Cluster) -> Result<(), Failure> {
    for done in (0..JOBS).step_by(ARRAY) {
        let job = json!({"name": "t", "account": ACCOUNT, "partition": "a100", "current_working_directory": "/tmp", "standard_output": "/dev/null",
            "environment": ["PATH=/usr/bin:/bin"], "time_limit": {"set": true, "number": 1}, "tres_per_node": "gres/gpu:1", "array": format!("0-{}", ARRAY - 1)});
        let body = json!({"script": "#!/bin/sh\nexit 0\n", "job": job});
        let (status, answer) = slurm.rest_as("alice", "POST", "/slurm/v0.0.44/job/submit", Some(&body)).await?;
        if status != 200 {
            return Err(format!("{status}: {answer}").into());
        }
        eventually(Duration::from_secs(600), format!("{} jobs are over", done + ARRAY), async || {
            let known = slurm.rest("GET", "/slurm/v0.0.44/jobs/state/", None).await?;
            let live = |job: &&Value| {
                job.get("state")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .any(|state| ["PENDING", "RUNNING", "COMPLETING"].iter().any(|live| state == live))
            };
            let left = known.get("jobs").and_then(Value::as_array).map_or(usize::MAX, |jobs| jobs.iter().filter(live).count());
            if left == 0 { Ok(()) } else { Err(format!("{left} are not").into()) }
        })
        .await?;
    }
    Ok(())
}

/// Time and bytes of the same records in one answer, read and thrown away.
async fn bare(slurm: &Cluster, client: &SlurmClient, since: Timestamp, now: Timestamp) -> Result<(Duration, u64), Failure> {
    let (from, to) = (since.as_second().to_string(), now.as_second().to_string());
    let query = [
        ("account", ACCOUNT),
        ("cluster", slurm.cluster_name()),
        ("start_time", &from),
        ("end_time", &to),
        ("skip_steps", "1"),
        ("show_duplicates", "1"),
    ];
    let (mut best, mut bytes) = (Duration::MAX, 0);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let mut body = client.stream(Api::Slurmdb, "jobs/", &query).await?;
        bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.into_data().map_or(0, |data| data.len() as u64);
        }
        best = best.min(begun.elapsed());
    }
    Ok((best, bytes))
}

/// Bytes, from the kernel's own account of a process.
fn memory(process: &str, key: &str) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).ok_or("no such line")?;
    let kib: u64 = line.split_whitespace().next().ok_or("no number")?.parse()?;
    Ok(kib * 1024)
}

fn own_memory(key: &str) -> Result<u64, Failure> {
    memory("self", key)
}

/// What slurmrestd holds.
fn server_memory() -> Result<u64, Failure> {
    let mut most = None;
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == "slurmrestd") {
            most = most.max(memory(&name, "VmRSS:").ok());
        }
    }
    most.ok_or_else(|| "no slurmrestd runs".into())
}
