//! Answers of slurmrestd, decoded. A field that is not as the version promises is an error: nothing is taken for unset that was not read.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_plan::engine::slurm_accounts::{Account, Limit, Limits, Qos, Row, RowKey, SLURM_CLAIM_PREFIX, SLURM_PREFIX};
use aifactory_plan::model::id::{AccountName, ClusterName, PartitionName, QosName, UserName};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::partition::PartitionView;
use crate::site::slurm::error::SlurmError;
use crate::tolerant_decode::BROKEN;

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

/// The elements of a list, each for itself. One that is not as the version promises is left out where it is surely somebody else's, so that nobody
/// else's account keeps ours from being read; of ours it is an error.
fn decode<T: DeserializeOwned>(path: &'static str, mut answer: Value, key: &str, is_others: impl Fn(&Value) -> bool) -> Result<Vec<T>, SlurmError> {
    let undecodable = |why: String| SlurmError::Undecodable { path, why };
    let list = match answer.get_mut(key).map(Value::take) {
        Some(Value::Array(list)) => list,
        _ => return Err(undecodable(format!("{key} is no list"))),
    };
    let mut found = Vec::with_capacity(list.len());
    for element in list {
        match T::deserialize(&element) {
            Ok(read) => found.push(read),
            Err(_) if is_others(&element) => {
                BROKEN.inc();
                tracing::warn!(path, "An element of an answer of Slurm can not be decoded, and is left out");
            }
            Err(error) => return Err(undecodable(error.to_string())),
        }
    }
    Ok(found)
}

/// Whether an account or a QOS has a name that none of ours has.
fn is_named_otherwise(element: &Value) -> bool {
    let name = element.get("name").and_then(Value::as_str);
    name.is_some_and(|name| !name.starts_with(SLURM_PREFIX) && !name.starts_with(SLURM_CLAIM_PREFIX))
}

/// A number of which Slurm holds one bit more than we do.
fn saturating<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    let large = || number.as_u64().map(|_| i64::MAX);
    number.as_i64().or_else(large).ok_or_else(|| D::Error::custom("a whole number is expected"))
}

/// Every account, by name.
pub fn accounts(answer: Value) -> Result<BTreeMap<AccountName, Account>, SlurmError> {
    #[derive(Deserialize)]
    struct Read {
        name: AccountName,
        description: String,
        organization: String,
    }
    let list: Vec<Read> = decode("accounts", answer, "accounts", is_named_otherwise)?;
    Ok(list.into_iter().map(|read| (read.name, Account { description: read.description, organization: read.organization })).collect())
}

/// Every QOS, by name.
pub fn qos(answer: Value) -> Result<BTreeMap<QosName, Qos>, SlurmError> {
    let list: Vec<ReadQos> = decode("qos", answer, "qos", is_named_otherwise)?;
    Ok(list.into_iter().map(ReadQos::into_qos).collect())
}

#[derive(Deserialize)]
struct ReadQos {
    name: QosName,
    description: String,
    flags: BTreeSet<String>,
    limits: QosLimits,
}

#[derive(Deserialize)]
struct QosLimits {
    max: QosMax,
    min: QosMin,
}

#[derive(Deserialize)]
struct QosMax {
    tres: QosMaxTres,
    wall_clock: Per<Job<Number>>,
    jobs: QosJobs,
    active_jobs: Count,
}

#[derive(Deserialize)]
struct QosMaxTres {
    total: Vec<Tres>,
    minutes: Total,
    per: User<Vec<Tres>>,
}

#[derive(Deserialize)]
struct QosJobs {
    count: Number,
    active_jobs: Per<User<Number>>,
}

#[derive(Deserialize)]
struct QosMin {
    tres: Per<Job<Vec<Tres>>>,
}

#[derive(Deserialize)]
struct Count {
    count: Number,
}

#[derive(Deserialize)]
struct Total {
    total: Vec<Tres>,
}

#[derive(Deserialize)]
struct Per<T> {
    per: T,
}

#[derive(Deserialize)]
struct User<T> {
    user: T,
}

#[derive(Deserialize)]
struct Job<T> {
    job: T,
}

impl ReadQos {
    fn into_qos(self) -> (QosName, Qos) {
        let limits = self.limits.read();
        (self.name, Qos { description: self.description, flags: self.flags, limits })
    }
}

impl QosLimits {
    fn read(&self) -> Limits {
        let Self { max, min } = self;
        let found = [
            (Limit::GpuMinutes, count(&max.tres.minutes.total, "gres", "gpu")),
            (Limit::Gpus, count(&max.tres.total, "gres", "gpu")),
            (Limit::Cpus, count(&max.tres.total, "cpu", "")),
            (Limit::MemoryMib, count(&max.tres.total, "mem", "")),
            (Limit::MinGpusPerJob, count(&min.tres.per.job, "gres", "gpu")),
            (Limit::GpusPerUser, count(&max.tres.per.user, "gres", "gpu")),
            (Limit::JobsPerUser, max.jobs.active_jobs.per.user.limit()),
            (Limit::WallMinutes, max.wall_clock.per.job.limit()),
            (Limit::SubmittedJobs, max.jobs.count.limit()),
            (Limit::RunningJobs, max.active_jobs.count.limit()),
        ];
        found.into_iter().filter_map(|(limit, value)| Some((limit, value?))).collect()
    }
}

#[derive(Deserialize)]
struct ReadRow {
    account: AccountName,
    user: UserName,
    #[serde(default)]
    partition: Option<PartitionName>,
    qos: BTreeSet<QosName>,
    default: Default_,
    #[serde(default)]
    parent_account: Option<AccountName>,
    lineage: String,
    is_default: bool,
    #[serde(default)]
    comment: String,
    max: RowMax,
}

#[derive(Deserialize)]
struct Default_ {
    #[serde(default)]
    qos: Option<QosName>,
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

/// Associations, in the order of the answer. One that can not be decoded is an error unless it is in an account that is not one of `accounts`.
pub fn associations(answer: Value, accounts: &BTreeSet<AccountName>) -> Result<Vec<(RowKey, Row)>, SlurmError> {
    let in_another = |element: &Value| element.get("account").and_then(Value::as_str).is_some_and(|name| !accounts.contains(name));
    let list: Vec<ReadRow> = decode("associations", answer, "associations", in_another)?;
    Ok(list.into_iter().map(ReadRow::into_row).collect())
}

impl ReadRow {
    fn into_row(self) -> (RowKey, Row) {
        let key = RowKey { account: self.account, user: self.user, partition: self.partition.unwrap_or_default() };
        let row = Row {
            qos: self.qos,
            default_qos: self.default.qos.unwrap_or_default(),
            parent: self.parent_account.unwrap_or_default(),
            lineage: self.lineage,
            is_default: self.is_default,
            submitted_jobs: self.max.jobs.total.limit(),
            running_jobs: self.max.jobs.active.limit(),
            gpus: count(&self.max.tres.total, "gres", "gpu"),
            gpu_minutes: count(&self.max.tres.group.minutes, "gres", "gpu"),
            comment: self.comment,
        };
        (key, row)
    }
}

/// The clusters of associations.
pub fn clusters(answer: Value) -> Result<BTreeSet<ClusterName>, SlurmError> {
    #[derive(Deserialize)]
    struct Read {
        cluster: ClusterName,
    }
    let list: Vec<Read> = decode("associations", answer, "associations", |_| false)?;
    Ok(list.into_iter().map(|read| read.cluster).collect())
}

/// What the cluster counts, for example `cpu` and `gres/gpu`.
pub fn tres(answer: Value) -> Result<BTreeSet<String>, SlurmError> {
    let list: Vec<Tres> = decode("tres", answer, "TRES", |_| true)?;
    Ok(list
        .into_iter()
        .map(|tres| match tres.name.filter(|name| !name.is_empty()) {
            Some(name) => format!("{}/{name}", tres.kind),
            None => tres.kind,
        })
        .collect())
}

#[derive(Deserialize)]
struct ReadPartition {
    name: PartitionName,
    partition: ReadState,
}

#[derive(Deserialize)]
struct ReadState {
    state: BTreeSet<String>,
}

fn partition_list(answer: Value) -> Result<Vec<ReadPartition>, SlurmError> {
    decode("partitions", answer, "partitions", |_| true)
}

/// The names of all partitions.
pub fn partition_names(answer: Value) -> Result<BTreeSet<PartitionName>, SlurmError> {
    Ok(partition_list(answer)?.into_iter().map(|read| read.name).collect())
}

/// The associations of users in these accounts, in slurmctld's list of shares.
pub fn users_in_force(mut answer: Value, accounts: &BTreeSet<AccountName>) -> Result<BTreeSet<RowKey>, SlurmError> {
    /// `parent` of a user's share is the account, that of an account's the account above.
    #[derive(Deserialize)]
    struct Share {
        name: String,
        parent: AccountName,
        #[serde(default)]
        partition: PartitionName,
    }
    let shares = answer.get_mut("shares").map(Value::take).unwrap_or_default();
    let is_others = |share: &Value| share.get("parent").and_then(Value::as_str).is_some_and(|parent| !accounts.contains(&AccountName::new(parent)));
    let shares: Vec<Share> = decode("shares", shares, "shares", is_others)?;
    let users = shares.into_iter().filter(|share| accounts.contains(&share.parent));
    Ok(users.map(|share| RowKey { account: share.parent, user: UserName::new(share.name), partition: share.partition }).collect())
}

/// Every partition with its nodes.
pub fn partitions(partitions: Value, nodes: Value) -> Result<BTreeMap<PartitionName, PartitionView>, SlurmError> {
    #[derive(Deserialize)]
    struct Node {
        name: String,
        state: BTreeSet<String>,
        partitions: BTreeSet<PartitionName>,
        #[serde(default)]
        reason: String,
        #[serde(default)]
        tres: String,
        #[serde(default)]
        tres_used: String,
    }
    let mut found: BTreeMap<PartitionName, PartitionView> = partition_list(partitions)?
        .into_iter()
        .map(|read| (read.name, PartitionView { states: read.partition.state, ..PartitionView::default() }))
        .collect();
    let nodes: Vec<Node> = decode("nodes", nodes, "nodes", |_| true)?;
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

    use super::{AccountName, BTreeSet, Deserialize, Number, Value, associations, decode, is_named_otherwise, partition_list, users_in_force};

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
        let list = decode::<Named>("qos", json!({"qos": [element(json!("grant-a"), limit(json!(u64::MAX)))]}), "qos", is_named_otherwise).unwrap();
        assert_eq!(list.iter().map(|found| found.limit.limit()).collect::<Vec<_>>(), [Some(i64::MAX)]);
    }

    #[test]
    fn an_element_of_others_hides_none_of_ours_and_one_of_ours_is_an_error() {
        let good = element(json!("grant-a"), limit(json!(1)));
        for bad in [element(json!("normal"), limit(json!("many"))), element(json!("normal"), json!(7))] {
            let found = decode::<Named>("qos", json!({"qos": [bad, good]}), "qos", is_named_otherwise).unwrap();
            assert_eq!(found.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(), ["grant-a"]);
        }
        for bad in [element(json!("grant-b"), json!(7)), element(json!(7), limit(json!(1))), json!(7), Value::Null] {
            assert!(decode::<Named>("qos", json!({"qos": [bad, good]}), "qos", is_named_otherwise).is_err(), "it may be ours");
        }
        for answer in [json!({}), json!({"qos": null}), json!({"qos": {}}), Value::Null] {
            assert!(
                decode::<Named>("qos", answer, "qos", is_named_otherwise).is_err(),
                "nothing was read, which is not the same as nothing is there"
            );
        }
    }

    #[test]
    fn the_users_of_an_account_are_told_from_the_account_and_from_others() {
        let share =
            |name: &str, parent: &str, partition: &str| json!({"name": name, "parent": parent, "partition": partition, "shares": {"set": false}});
        let list = [share("root", "", ""), share("grant-a", "eu-aif", ""), share("alice", "grant-a", "h100"), share("bob", "physics", "")];
        let ours = BTreeSet::from([AccountName::new("grant-a")]);
        let found = users_in_force(json!({"shares": {"shares": list}}), &ours).unwrap();
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["account grant-a user alice partition h100"]);
        assert!(users_in_force(json!({"shares": {}}), &ours).is_err(), "nothing was read, which is not the same as nobody is there");
        assert!(users_in_force(json!({"shares": {"shares": [{"name": 7, "parent": "grant-a"}]}}), &ours).is_err());
    }

    /// A grant may use an account that the site has made, which has any name.
    #[test]
    fn a_broken_association_of_an_account_that_we_use_is_an_error_whatever_its_name() {
        let broken = |account: Value| json!({"associations": [{"account": account, "user": "mallory"}]});
        let ours = BTreeSet::from([AccountName::new("vision")]);
        assert!(associations(broken(json!("vision")), &ours).is_err());
        assert!(associations(broken(json!(7)), &ours).is_err(), "it may be ours");
        assert!(associations(broken(json!("physics")), &ours).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn any_partition_leaves_the_good_ones_alone(text in any::<String>(), number in any::<f64>(), at in 0..3_usize) {
            let mut list = vec![json!({"name": "a", "partition": {"state": ["UP"]}}), json!({"name": "b", "partition": {"state": []}})];
            list.insert(at, json!({"name": number, "partition": {"state": text}}));
            let found = partition_list(json!({"partitions": list})).unwrap();
            prop_assert_eq!(found.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        }
    }
}
