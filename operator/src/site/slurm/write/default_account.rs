//! A user's default account in one cluster.
//!
//! Slurm's REST makes an account a user's default in every cluster in which the user has it. Where that would change another cluster, the
//! association itself is said to be the default; all of its own limits are sent with that, since those that are not sent are cleared.

use std::collections::BTreeSet;

use aifactory_plan::model::id::{AccountName, ClusterName, PartitionName, UserName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::post;
use crate::site::slurm::client::{Api, SlurmClient};
use crate::site::slurm::error::SlurmError;

/// An association of the user, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Association {
    account: AccountName,
    cluster: ClusterName,
    #[serde(default)]
    partition: Option<PartitionName>,
    is_default: bool,
    max: Value,
}

/// Makes an account the default of a user in a cluster, and nowhere else.
pub(super) async fn set(client: &SlurmClient, cluster: &ClusterName, user: &UserName, account: &AccountName) -> Result<(), SlurmError> {
    if user.is_empty() || account.is_empty() {
        return Err(SlurmError::Name(String::new()));
    }
    // Without the limits that come from accounts above, which must not become the association's own.
    let query = [("user", user.as_str()), ("Exclude limits from parents", "true")];
    let mut answer = client.get(Api::Slurmdb, "associations/", &query).await?;
    let list = answer.get_mut("associations").map(Value::take).unwrap_or(Value::Null);
    let all: Vec<Association> =
        serde_json::from_value(list).map_err(|error| SlurmError::Undecodable { path: "associations", why: error.to_string() })?;
    match change(&all, cluster, user, account) {
        Some(association) => post(client, "associations/", json!({"associations": [association]})).await,
        None => post(client, "users/", json!({"users": [{"name": user, "default": {"account": account}}]})).await,
    }
}

/// The association to write, where the user's default can not be changed without changing another cluster.
fn change(all: &[Association], cluster: &ClusterName, user: &UserName, account: &AccountName) -> Option<Value> {
    let elsewhere = || all.iter().filter(|association| association.cluster != *cluster);
    let defaults: BTreeSet<&ClusterName> =
        elsewhere().filter(|other| other.account == *account && other.is_default).map(|other| &other.cluster).collect();
    if elsewhere().filter(|other| other.account == *account).all(|other| defaults.contains(&other.cluster)) {
        return None;
    }
    let here = all.iter().filter(|association| association.cluster == *cluster && association.account == *account);
    let chosen = here.min_by_key(|association| association.partition.clone().unwrap_or_default())?;
    let mut written = json!({"account": account, "cluster": cluster, "user": user, "is_default": true, "max": {"tres": chosen.max.get("tres")}});
    if let (Some(fields), Some(partition)) = (written.as_object_mut(), chosen.partition.as_ref().filter(|partition| !partition.is_empty())) {
        fields.insert("partition".to_owned(), json!(partition));
    }
    Some(written)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    fn association(account: &str, cluster: &str, is_default: bool) -> Association {
        let max = json!({"tres": {"total": [{"type": "gres", "name": "gpu", "count": 3}]}, "jobs": {"total": {"set": false}}});
        Association {
            account: AccountName::new(account),
            cluster: ClusterName::new(cluster),
            partition: Some(PartitionName::default()),
            is_default,
            max,
        }
    }

    #[test]
    fn no_other_cluster_gets_another_default() {
        let change = |all: &[Association]| super::change(all, &ClusterName::new("bissen"), &UserName::new("alice"), &AccountName::new("nat"));
        let mut all = vec![association("grant-x", "bissen", true), association("nat", "bissen", false)];
        assert_eq!(change(&all), None);
        all.extend([association("nat", "bettembourg", true), association("own", "bettembourg", false)]);
        assert_eq!(change(&all), None, "it is the default there already");
        all[2].is_default = false;
        all[3].is_default = true;
        let written = change(&all).unwrap();
        assert_eq!((written["is_default"].clone(), written["cluster"].clone(), written.get("qos")), (json!(true), json!("bissen"), None));
        assert_eq!(written["max"], json!({"tres": all[1].max["tres"]}), "its own limits stay");
    }
}
