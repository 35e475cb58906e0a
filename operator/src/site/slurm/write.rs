//! What is asked of a cluster, in batches: one by one, 200 grants take half a minute.

mod default_account;

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::OwnerRef;
use aifactory_plan::engine::slurm_accounts::{Call, Limit, RowKey};
use aifactory_plan::model::id::{AccountName, ClusterName, PartitionName, QosName, UserName};
use serde_json::{Map, Value, json};

use super::client::{Api, SlurmClient, named};
use super::error::SlurmError;
use super::read;

/// Items in one request, which makes half a megabyte; slurmrestd takes 16.
const BATCH: usize = 1000;

/// A call of an owner that failed.
pub type Failure = (OwnerRef, Call, SlurmError);

/// Makes calls, stage by stage. What an owner asks for after a failure of its own is left out, except for what takes access away. An error of
/// the way to Slurm is everybody's.
pub async fn execute(client: &SlurmClient, cluster: &ClusterName, mut calls: Vec<(OwnerRef, Call)>) -> Vec<Failure> {
    calls.sort_by_key(|(_, call)| call.stage());
    let mut failures: Vec<Failure> = Vec::new();
    let mut rest = calls.into_iter().peekable();
    while let Some(stage) = rest.peek().map(|(_, call)| call.stage()) {
        let mut batch = Vec::new();
        while let Some(next) = rest.next_if(|(_, call)| call.stage() == stage) {
            batch.push(next);
        }
        let failed: BTreeSet<&OwnerRef> = failures.iter().map(|(owner, ..)| owner).collect();
        batch.retain(|(owner, _)| stage.removes_access() || !failed.contains(owner));
        failures.extend(self::stage(client, cluster, batch).await);
        if failures.iter().any(|(_, _, error)| error.is_transport()) {
            break;
        }
    }
    failures
}

/// Calls of one stage: those of a kind together, and one by one where that fails, so that one item harms no other.
async fn stage(client: &SlurmClient, cluster: &ClusterName, calls: Vec<(OwnerRef, Call)>) -> Vec<Failure> {
    let mut kinds: BTreeMap<(u8, String), Vec<(OwnerRef, Call)>> = BTreeMap::new();
    for (owner, call) in calls {
        kinds.entry(kind(&call)).or_default().push((owner, call));
    }
    let mut failures = Vec::new();
    for (_, list) in kinds {
        for chunk in list.chunks(BATCH) {
            let all: Vec<&Call> = chunk.iter().map(|(_, call)| call).collect();
            match send(client, cluster, &all).await {
                Ok(()) => {}
                Err(error) if chunk.len() == 1 || error.is_transport() => {
                    failures.extend(chunk.iter().map(|(owner, call)| (owner.clone(), call.clone(), error.clone())));
                }
                Err(_) => {
                    for (owner, call) in chunk {
                        if let Err(error) = send(client, cluster, &[call]).await {
                            failures.push((owner.clone(), call.clone(), error));
                        }
                    }
                }
            }
        }
    }
    failures
}

/// Calls that may go together.
fn kind(call: &Call) -> (u8, String) {
    match call {
        Call::Qos { .. } => (0, String::new()),
        Call::Account { parent, .. } => (1, parent.to_string()),
        Call::Describe { .. } => (2, String::new()),
        Call::Row { .. } => (3, String::new()),
        // One request each.
        Call::Default { user, .. } => (4, user.to_string()),
        Call::EndJobs { account, user, partition, .. } => (5, format!("{account} {user:?} {partition:?}")),
        Call::DeleteRow(key) => (6, key.to_string()),
        Call::DeleteAccount(name) => (7, name.to_string()),
        Call::DeleteQos(name) => (8, name.to_string()),
    }
}

/// Sends calls of one kind.
async fn send(client: &SlurmClient, cluster: &ClusterName, calls: &[&Call]) -> Result<(), SlurmError> {
    let Some(first) = calls.first() else { return Ok(()) };
    match first {
        Call::Qos { .. } => post(client, "qos/", json!({"qos": calls.iter().filter_map(|call| qos(call)).collect::<Vec<_>>()})).await,
        Call::Account { parent, .. } => create_accounts(client, cluster, parent, calls).await,
        Call::Describe { .. } => post(client, "accounts/", accounts(calls)).await,
        Call::Row { .. } => write_rows(client, cluster, calls).await,
        Call::Default { user, account } => default_account::set(client, cluster, user, account).await,
        Call::EndJobs { account, user, partition, pending } => {
            // With a filter that Slurm does not understand it ends nothing; with an empty one it may end everybody's.
            if account.is_empty() {
                return Err(SlurmError::Name(account.to_string()));
            }
            let filter = job_filter(account, user.as_ref(), partition.as_ref(), *pending);
            client.delete(Api::Slurm, "jobs/", &[], Some(&filter)).await.and_then(|answer| ended(&answer))
        }
        Call::DeleteRow(key) => delete_row(client, cluster, key).await,
        Call::DeleteAccount(name) => delete_account(client, cluster, name).await,
        Call::DeleteQos(name) => client.delete(Api::Slurmdb, &format!("qos/{}", named(name.as_str())?), &[], None).await.map(|_| ()),
    }
}

/// Makes accounts below one parent, with their own associations.
async fn create_accounts(client: &SlurmClient, cluster: &ClusterName, parent: &AccountName, calls: &[&Call]) -> Result<(), SlurmError> {
    // The account with its own description first: what a crash leaves behind says whose it is.
    post(client, "accounts/", accounts(calls)).await?;
    let names: Vec<&AccountName> = calls.iter().filter_map(|call| if let Call::Account { name, .. } = call { Some(name) } else { None }).collect();
    let condition = json!({"accounts": names, "clusters": [cluster], "association": {"parent": parent, "fairshare": 1}});
    let body = json!({"association_condition": condition, "account": {"description": "grant", "organization": "grant"}});
    post(client, "accounts_association/", body).await
}

/// Makes or changes associations.
async fn write_rows(client: &SlurmClient, cluster: &ClusterName, calls: &[&Call]) -> Result<(), SlurmError> {
    let users: BTreeSet<&UserName> = calls.iter().filter_map(|call| if let Call::Row { key, .. } = call { Some(&key.user) } else { None }).collect();
    let users: Vec<Value> = users.into_iter().filter(|user| !user.is_empty()).map(|user| json!({"name": user})).collect();
    if !users.is_empty() {
        // An association alone makes no user; a user who is there already stays as it is.
        post(client, "users/", json!({"users": users})).await?;
    }
    post(client, "associations/", json!({"associations": calls.iter().filter_map(|call| row(cluster, call)).collect::<Vec<_>>()})).await
}

/// Which jobs are ended.
fn job_filter(account: &AccountName, user: Option<&UserName>, partition: Option<&PartitionName>, pending: bool) -> Value {
    let mut filter = Map::from_iter([("account".to_owned(), json!(account))]);
    if let Some(user) = user {
        filter.insert("user_name".to_owned(), json!(user));
    }
    if let Some(partition) = partition {
        filter.insert("partition".to_owned(), json!(partition));
    }
    if pending {
        filter.insert("job_state".to_owned(), json!(["PENDING"]));
    }
    Value::Object(filter)
}

/// Deletes a user's association. Without an account or a user the request would be about others' too.
async fn delete_row(client: &SlurmClient, cluster: &ClusterName, key: &RowKey) -> Result<(), SlurmError> {
    let RowKey { account, user, partition } = key;
    if account.is_empty() || user.is_empty() {
        return Err(SlurmError::Name(String::new()));
    }
    let mut query = vec![("cluster", cluster.as_str()), ("account", account.as_str()), ("user", user.as_str())];
    if !partition.is_empty() {
        query.push(("partition", partition.as_str()));
    }
    client.delete(Api::Slurmdb, "associations/", &query, None).await.map(|_| ())
}

/// Deletes an account that no other cluster of the database uses: its associations would go everywhere.
pub async fn delete_account(client: &SlurmClient, cluster: &ClusterName, name: &AccountName) -> Result<(), SlurmError> {
    let path = format!("account/{}", named(name.as_str())?);
    if let Some(other) = read::clusters_of(client, name).await?.into_iter().find(|other| *other != *cluster) {
        return Err(SlurmError::UsedElsewhere { account: name.clone(), cluster: other });
    }
    client.delete(Api::Slurmdb, &path, &[], None).await.map(|_| ())
}

async fn post(client: &SlurmClient, path: &str, body: Value) -> Result<(), SlurmError> {
    client.post(Api::Slurmdb, path, &body).await.map(|_| ())
}

/// Jobs that are over already, or unknown by now, have ended.
fn ended(answer: &Value) -> Result<(), SlurmError> {
    let codes = answer.get("status").and_then(Value::as_array).into_iter().flatten();
    let mut codes = codes.filter_map(|status| status.pointer("/error/code").and_then(Value::as_i64));
    match codes.find(|code| !matches!(code, 0 | 2017 | 2021)) {
        None => Ok(()),
        Some(2002) => Err(SlurmError::Forbidden),
        Some(number) => Err(SlurmError::Refused { number, text: "a job could not be ended".to_owned() }),
    }
}

fn accounts(calls: &[&Call]) -> Value {
    let list: Vec<Value> = calls
        .iter()
        .filter_map(|call| match call {
            Call::Account { name, description, organization, .. } | Call::Describe { name, description, organization } => {
                Some(json!({"name": name, "description": description, "organization": organization}))
            }
            _ => None,
        })
        .collect();
    json!({"accounts": list})
}

fn row(cluster: &ClusterName, call: &Call) -> Option<Value> {
    let Call::Row { key, qos, default_qos, parent, locked, comment, .. } = call else { return None };
    // Slurm's REST ends itself on an empty name in this list.
    if qos.is_empty() || qos.iter().any(QosName::is_empty) {
        return None;
    }
    let jobs = if *locked { number(Some(0)) } else { number(None) };
    let mut row = json!({
        "account": key.account, "cluster": cluster, "user": key.user, "qos": qos, "default": {"qos": default_qos}, "comment": comment,
    });
    let fields = row.as_object_mut()?;
    if !key.partition.is_empty() {
        fields.insert("partition".to_owned(), json!(key.partition));
    }
    if let Some(parent) = parent {
        fields.insert("parent_account".to_owned(), json!(parent));
    }
    if !key.user.is_empty() {
        fields.insert("max".to_owned(), json!({"jobs": {"total": jobs, "active": jobs}}));
    }
    Some(row)
}

fn qos(call: &Call) -> Option<Value> {
    let Call::Qos { name, description, flags, limits, .. } = call else { return None };
    let tres = |wanted: &[(Limit, &str, Option<&str>)]| -> Vec<Value> {
        wanted
            .iter()
            .filter_map(|(limit, kind, name)| {
                // -1 clears.
                let count = limits.get(limit)?.unwrap_or(-1);
                Some(match name {
                    Some(name) => json!({"type": kind, "name": name, "count": count}),
                    None => json!({"type": kind, "count": count}),
                })
            })
            .collect()
    };
    let mut body = json!({"name": name, "description": description, "flags": flags, "limits": {}});
    let mut put = |path: &[&str], value: Value| {
        let mut at = body.get_mut("limits");
        for (depth, step) in path.iter().enumerate() {
            let Some(Value::Object(fields)) = at else { return };
            let next = fields.entry((*step).to_owned()).or_insert_with(|| json!({}));
            if depth + 1 == path.len() {
                *next = value;
                return;
            }
            at = Some(next);
        }
    };
    let gpu = Some("gpu");
    let lists: [(&[&str], Vec<Value>); 4] = [
        (&["max", "tres", "minutes", "total"], tres(&[(Limit::GpuMinutes, "gres", gpu)])),
        (&["max", "tres", "total"], tres(&[(Limit::Gpus, "gres", gpu), (Limit::Cpus, "cpu", None), (Limit::MemoryMib, "mem", None)])),
        (&["max", "tres", "per", "user"], tres(&[(Limit::GpusPerUser, "gres", gpu)])),
        (&["min", "tres", "per", "job"], tres(&[(Limit::MinGpusPerJob, "gres", gpu)])),
    ];
    for (path, list) in lists {
        if !list.is_empty() {
            put(path, Value::Array(list));
        }
    }
    let numbers: [(&[&str], Limit); 4] = [
        (&["max", "jobs", "active_jobs", "per", "user"], Limit::JobsPerUser),
        (&["max", "wall_clock", "per", "job"], Limit::WallMinutes),
        (&["max", "jobs", "count"], Limit::SubmittedJobs),
        (&["max", "active_jobs", "count"], Limit::RunningJobs),
    ];
    for (path, limit) in numbers {
        if let Some(value) = limits.get(&limit) {
            put(path, number(*value));
        }
    }
    Some(body)
}

fn number(value: Option<i64>) -> Value {
    match value {
        Some(number) => json!({"set": true, "infinite": false, "number": number}),
        None => json!({"set": true, "infinite": true, "number": 0}),
    }
}

#[cfg(test)]
mod tests;
