//! What is there in a cluster. A field that is not as the version promises is an error: nothing is taken for unset that was not read.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::name::{SLURM_CLAIM_PREFIX, SLURM_PREFIX};
use aifactory_plan::engine::slurm_accounts::{Account, Limit, Limits, Qos, Row, RowKey};
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::client::{Api, SlurmClient};
use super::error::SlurmError;
use crate::tolerant_decode::BROKEN;

/// Bytes of names asked for in one request: they stand in its URL.
const NAMES: usize = 4000;
/// Requests at the same time.
const AT_ONCE: usize = 4;

/// A number that may be unset or infinite.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Number {
    set: bool,
    infinite: bool,
    #[serde(deserialize_with = "saturating")]
    number: i64,
}

impl Number {
    fn limit(self) -> Option<i64> {
        (self.set && !self.infinite).then_some(self.number)
    }
}

#[derive(Debug, Deserialize)]
struct Tres {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "saturating")]
    count: i64,
}

fn count(list: &[Tres], kind: &str, name: &str) -> Option<i64> {
    list.iter().find(|tres| tres.kind == kind && tres.name.as_deref().unwrap_or_default() == name).map(|tres| tres.count)
}

/// The elements of a list, each for itself. One that is not as the version promises is left out where it is not ours, so that nobody else's account
/// keeps ours from being read; of ours it is an error.
fn decode<T: DeserializeOwned>(path: &'static str, mut answer: Value, key: &str) -> Result<Vec<T>, SlurmError> {
    let undecodable = |why: String| SlurmError::Undecodable { path, why };
    let list = match answer.get_mut(key).map(Value::take) {
        Some(Value::Array(list)) => list,
        _ => return Err(undecodable(format!("{key} is no list"))),
    };
    let mut found = Vec::with_capacity(list.len());
    for element in list {
        match T::deserialize(&element) {
            Ok(read) => found.push(read),
            Err(_) if is_others(path, &element) => {
                BROKEN.inc();
                tracing::warn!(path, "An element of an answer of Slurm can not be decoded, and is left out");
            }
            Err(error) => return Err(undecodable(error.to_string())),
        }
    }
    Ok(found)
}

/// Whether an element of an answer is surely not an account, a QOS or an association of ours.
fn is_others(path: &str, element: &Value) -> bool {
    let name = match path {
        "accounts" | "qos" => element.get("name"),
        "associations" => element.get("account"),
        _ => return true,
    };
    name.and_then(Value::as_str).is_some_and(|name| !name.starts_with(SLURM_PREFIX) && !name.starts_with(SLURM_CLAIM_PREFIX))
}

/// A number of which Slurm holds one bit more than we do.
fn saturating<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    let large = || number.as_u64().map(|_| i64::MAX);
    number.as_i64().or_else(large).ok_or_else(|| D::Error::custom("a whole number is expected"))
}

/// Every account.
pub async fn accounts(client: &SlurmClient) -> Result<BTreeMap<String, Account>, SlurmError> {
    #[derive(Deserialize)]
    struct Read {
        name: String,
        description: String,
        organization: String,
    }
    let answer = client.get(Api::Slurmdb, "accounts/", &[]).await?;
    let list: Vec<Read> = decode("accounts", answer, "accounts")?;
    Ok(list.into_iter().map(|read| (read.name, Account { description: read.description, organization: read.organization })).collect())
}

/// Every QOS.
pub async fn qos(client: &SlurmClient) -> Result<BTreeMap<String, Qos>, SlurmError> {
    #[derive(Deserialize)]
    struct Read {
        name: String,
        description: String,
        flags: BTreeSet<String>,
        limits: ReadLimits,
    }
    #[derive(Deserialize)]
    struct ReadLimits {
        max: Max,
        min: Min,
    }
    #[derive(Deserialize)]
    struct Max {
        tres: MaxTres,
        wall_clock: WallClock,
        jobs: Jobs,
        active_jobs: ActiveJobs,
    }
    #[derive(Deserialize)]
    struct MaxTres {
        total: Vec<Tres>,
        minutes: Minutes,
        per: PerUser,
    }
    #[derive(Deserialize)]
    struct Minutes {
        total: Vec<Tres>,
    }
    #[derive(Deserialize)]
    struct PerUser {
        user: Vec<Tres>,
    }
    #[derive(Deserialize)]
    struct WallClock {
        per: PerJobNumber,
    }
    #[derive(Deserialize)]
    struct PerJobNumber {
        job: Number,
    }
    #[derive(Deserialize)]
    struct Jobs {
        count: Number,
        active_jobs: ActivePer,
    }
    #[derive(Deserialize)]
    struct ActivePer {
        per: PerUserNumber,
    }
    #[derive(Deserialize)]
    struct PerUserNumber {
        user: Number,
    }
    #[derive(Deserialize)]
    struct ActiveJobs {
        count: Number,
    }
    #[derive(Deserialize)]
    struct Min {
        tres: MinTres,
    }
    #[derive(Deserialize)]
    struct MinTres {
        per: PerJob,
    }
    #[derive(Deserialize)]
    struct PerJob {
        job: Vec<Tres>,
    }
    let answer = client.get(Api::Slurmdb, "qos/", &[]).await?;
    let list: Vec<Read> = decode("qos", answer, "qos")?;
    let limits = |read: &ReadLimits| -> Limits {
        let max = &read.max;
        let found = [
            (Limit::GpuMinutes, count(&max.tres.minutes.total, "gres", "gpu")),
            (Limit::Gpus, count(&max.tres.total, "gres", "gpu")),
            (Limit::Cpus, count(&max.tres.total, "cpu", "")),
            (Limit::MemoryMib, count(&max.tres.total, "mem", "")),
            (Limit::MinGpusPerJob, count(&read.min.tres.per.job, "gres", "gpu")),
            (Limit::GpusPerUser, count(&max.tres.per.user, "gres", "gpu")),
            (Limit::JobsPerUser, max.jobs.active_jobs.per.user.limit()),
            (Limit::WallMinutes, max.wall_clock.per.job.limit()),
            (Limit::SubmittedJobs, max.jobs.count.limit()),
            (Limit::RunningJobs, max.active_jobs.count.limit()),
        ];
        found.into_iter().filter_map(|(limit, value)| Some((limit, value?))).collect()
    };
    Ok(list
        .into_iter()
        .map(|read| {
            let limits = limits(&read.limits);
            (read.name, Qos { description: read.description, flags: read.flags, limits })
        })
        .collect())
}

#[derive(Deserialize)]
struct ReadRow {
    account: String,
    user: String,
    #[serde(default)]
    partition: Option<String>,
    qos: BTreeSet<String>,
    default: Default_,
    #[serde(default)]
    parent_account: Option<String>,
    lineage: String,
    is_default: bool,
    #[serde(default)]
    comment: String,
    max: RowMax,
}

#[derive(Deserialize)]
struct Default_ {
    #[serde(default)]
    qos: Option<String>,
}

#[derive(Deserialize)]
struct RowMax {
    jobs: RowJobs,
    tres: RowTres,
}

#[derive(Deserialize)]
struct RowJobs {
    total: Number,
    active: Number,
}

#[derive(Deserialize)]
struct RowTres {
    total: Vec<Tres>,
    group: RowGroup,
}

#[derive(Deserialize)]
struct RowGroup {
    minutes: Vec<Tres>,
}

/// Associations, and for users who have one of them as default, all of their accounts.
pub type Rows = (BTreeMap<RowKey, Row>, BTreeMap<String, BTreeSet<String>>);

/// The associations of these accounts in a cluster, and the own ones of the accounts above them, of which some may be known.
pub async fn rows(client: &SlurmClient, cluster: &str, accounts: &BTreeSet<String>, above: &BTreeSet<String>) -> Result<Rows, SlurmError> {
    let mut found = BTreeMap::new();
    let mut asked = BTreeSet::new();
    let mut wanted: BTreeSet<String> = accounts | above;
    while !wanted.is_empty() {
        for read in associations(client, cluster, "account", &wanted).await? {
            let key = RowKey { account: read.account, user: read.user, partition: read.partition.unwrap_or_default() };
            // Above ours, others' users are nobody's business.
            if !accounts.contains(&key.account) && !key.user.is_empty() {
                continue;
            }
            let row = Row {
                qos: read.qos,
                default_qos: read.default.qos.unwrap_or_default(),
                parent: read.parent_account.unwrap_or_default(),
                lineage: read.lineage,
                is_default: read.is_default,
                submitted_jobs: read.max.jobs.total.limit(),
                running_jobs: read.max.jobs.active.limit(),
                gpus: count(&read.max.tres.total, "gres", "gpu"),
                gpu_minutes: count(&read.max.tres.group.minutes, "gres", "gpu"),
                comment: read.comment,
            };
            found.insert(key, row);
        }
        asked.extend(std::mem::take(&mut wanted));
        wanted = found.values().map(|row: &Row| row.parent.clone()).filter(|parent| !parent.is_empty() && !asked.contains(parent)).collect();
    }
    let users: BTreeSet<String> =
        found.iter().filter(|(key, row)| row.is_default && accounts.contains(&key.account)).map(|(key, _)| key.user.clone()).collect();
    let mut accounts_of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for read in associations(client, cluster, "user", &users).await? {
        accounts_of.entry(read.user).or_default().insert(read.account);
    }
    Ok((found, accounts_of))
}

async fn associations(client: &SlurmClient, cluster: &str, by: &'static str, values: &BTreeSet<String>) -> Result<Vec<ReadRow>, SlurmError> {
    let ask = |list: String| async move {
        let answer = client.get(Api::Slurmdb, "associations/", &[("cluster", cluster), (by, &list)]).await?;
        decode::<ReadRow>("associations", answer, "associations")
    };
    stream::iter(lists(values)).map(ask).buffer_unordered(AT_ONCE).try_concat().await
}

/// The clusters of the database that have associations of an account.
pub async fn clusters_of(client: &SlurmClient, account: &str) -> Result<BTreeSet<String>, SlurmError> {
    #[derive(Deserialize)]
    struct Read {
        cluster: String,
    }
    let answer = client.get(Api::Slurmdb, "associations/", &[("account", account)]).await?;
    Ok(decode::<Read>("associations", answer, "associations")?.into_iter().map(|read| read.cluster).collect())
}

/// The values with commas between, as many in each as a URL holds.
fn lists(values: &BTreeSet<String>) -> Vec<String> {
    let mut lists: Vec<String> = Vec::new();
    for value in values.iter().filter(|value| !value.is_empty() && !value.contains(',')) {
        match lists.last_mut().filter(|list| list.len() + value.len() < NAMES) {
            Some(list) => {
                list.push(',');
                list.push_str(value);
            }
            None => lists.push(value.clone()),
        }
    }
    lists
}

/// What the cluster counts, for example `cpu` and `gres/gpu`.
pub async fn tres(client: &SlurmClient) -> Result<BTreeSet<String>, SlurmError> {
    let answer = client.get(Api::Slurmdb, "tres/", &[]).await?;
    let list: Vec<Tres> = decode("tres", answer, "TRES")?;
    Ok(list
        .into_iter()
        .map(|tres| match tres.name.filter(|name| !name.is_empty()) {
            Some(name) => format!("{}/{name}", tres.kind),
            None => tres.kind,
        })
        .collect())
}

/// A partition, as slurmctld sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionView {
    /// `UP`, `DOWN`, `DRAIN` or `INACTIVE`.
    pub states: BTreeSet<String>,
    /// Nodes.
    pub nodes: i32,
    /// Nodes that take work.
    pub ready: i32,
    /// Nodes that do not.
    pub unhealthy: i32,
    /// GPUs of nodes that take work.
    pub gpus: i64,
    /// GPUs that jobs hold.
    pub gpus_in_use: i64,
    /// What is said about nodes that take no work.
    pub reasons: BTreeSet<String>,
}

impl PartitionView {
    /// As status says it.
    pub fn state(&self) -> &'static str {
        if self.states.contains("DOWN") || self.states.contains("INACTIVE") {
            "Down"
        } else if self.states.contains("DRAIN") {
            "Draining"
        } else if self.nodes == 0 {
            "Empty"
        } else if self.ready == 0 {
            "Down"
        } else {
            "Up"
        }
    }

    /// Why it is not up, and what to do.
    pub fn message(&self) -> String {
        let reasons: Vec<String> = self.reasons.iter().cloned().collect();
        let nodes = if reasons.is_empty() { String::new() } else { format!(": {}", aifactory_plan::model::text::bounded(&reasons)) };
        match self.state() {
            "Empty" => "it has no nodes".to_owned(),
            "Draining" => "it is drained (State=DRAIN)".to_owned(),
            "Down" if self.ready > 0 => "it is down; set it up: scontrol update partitionname=… state=up".to_owned(),
            "Down" => format!("none of its {} nodes takes work{nodes}", self.nodes),
            _ => format!("{} of {} nodes take no work{nodes}", self.unhealthy, self.nodes),
        }
    }
}

/// The names of all partitions.
pub async fn partition_names(client: &SlurmClient) -> Result<BTreeSet<String>, SlurmError> {
    Ok(partition_list(client).await?.into_iter().map(|read| read.name).collect())
}

#[derive(Deserialize)]
struct ReadPartition {
    name: String,
    partition: ReadState,
}

#[derive(Deserialize)]
struct ReadState {
    state: BTreeSet<String>,
}

async fn partition_list(client: &SlurmClient) -> Result<Vec<ReadPartition>, SlurmError> {
    decode("partitions", client.get(Api::Slurm, "partitions/", &[]).await?, "partitions")
}

/// Every partition with its nodes.
pub async fn partitions(client: &SlurmClient) -> Result<BTreeMap<String, PartitionView>, SlurmError> {
    #[derive(Deserialize)]
    struct Node {
        name: String,
        state: BTreeSet<String>,
        partitions: BTreeSet<String>,
        #[serde(default)]
        reason: String,
        #[serde(default)]
        tres: String,
        #[serde(default)]
        tres_used: String,
    }
    let mut found: BTreeMap<String, PartitionView> = partition_list(client)
        .await?
        .into_iter()
        .map(|read| (read.name, PartitionView { states: read.partition.state, ..PartitionView::default() }))
        .collect();
    let nodes: Vec<Node> = decode("nodes", client.get(Api::Slurm, "nodes/", &[]).await?, "nodes")?;
    const TROUBLE: [&str; 9] = ["DOWN", "DRAIN", "FAIL", "ERROR", "INVALID", "INVALID_REG", "NOT_RESPONDING", "UNKNOWN", "MAINTENANCE"];
    for node in nodes {
        let troubled = TROUBLE.iter().any(|state| node.state.contains(*state));
        for partition in &node.partitions {
            let Some(view) = found.get_mut(partition) else { continue };
            view.nodes += 1;
            view.gpus_in_use += gpus(&node.tres_used);
            if troubled {
                view.unhealthy += 1;
                let reason = if node.reason.is_empty() { node.state.iter().cloned().collect::<Vec<_>>().join("+") } else { node.reason.clone() };
                view.reasons.insert(format!("{} ({reason})", node.name));
            } else {
                view.ready += 1;
                view.gpus += gpus(&node.tres);
            }
        }
    }
    Ok(found)
}

/// The untyped `gres/gpu` of a TRES string; types are counted in addition.
fn gpus(tres: &str) -> i64 {
    tres.split(',').find_map(|part| part.strip_prefix("gres/gpu=")).and_then(|count| count.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Named {
        name: String,
        limit: Number,
    }

    fn element(name: Value, limit: Value) -> Value {
        json!({"name": name, "limit": limit, "more": [[{"deep": 1}]]})
    }

    fn limit(number: Value) -> Value {
        json!({"set": true, "infinite": false, "number": number})
    }

    #[test]
    fn a_number_beyond_ours_is_the_largest() {
        let list = decode::<Named>("qos", json!({"qos": [element(json!("grant-a"), limit(json!(u64::MAX)))]}), "qos").unwrap();
        assert_eq!(list.iter().map(|found| found.limit.limit()).collect::<Vec<_>>(), [Some(i64::MAX)]);
    }

    #[test]
    fn an_element_of_others_hides_none_of_ours_and_one_of_ours_is_an_error() {
        let good = element(json!("grant-a"), limit(json!(1)));
        for bad in [element(json!("normal"), limit(json!("many"))), element(json!("normal"), json!(7))] {
            let found = decode::<Named>("qos", json!({"qos": [bad, good]}), "qos").unwrap();
            assert_eq!(found.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(), ["grant-a"]);
        }
        for bad in [element(json!("grant-b"), json!(7)), element(json!(7), limit(json!(1))), json!(7), Value::Null] {
            assert!(decode::<Named>("qos", json!({"qos": [bad, good]}), "qos").is_err(), "it may be ours");
        }
        for answer in [json!({}), json!({"qos": null}), json!({"qos": {}}), Value::Null] {
            assert!(decode::<Named>("qos", answer, "qos").is_err(), "nothing was read, which is not the same as nothing is there");
        }
    }

    proptest! {
        #[test]
        fn any_partition_leaves_the_good_ones_alone(text in any::<String>(), number in any::<f64>(), at in 0..3_usize) {
            let mut list = vec![json!({"name": "a", "partition": {"state": ["UP"]}}), json!({"name": "b", "partition": {"state": []}})];
            list.insert(at, json!({"name": number, "partition": {"state": text}}));
            let found = decode::<ReadPartition>("partitions", json!({"partitions": list}), "partitions").unwrap();
            prop_assert_eq!(found.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        }
    }
}
