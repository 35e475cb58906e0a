//! What is there in a cluster.

pub mod answer;
pub mod partition;

use std::collections::{BTreeMap, BTreeSet};

use aifactory_plan::engine::slurm_accounts::{Account, Qos, Row, RowKey};
use aifactory_plan::model::id::{AccountName, ClusterName, PartitionName, QosName, UserName};
use futures::stream::{self, StreamExt, TryStreamExt};

use self::partition::PartitionView;
use super::client::{Api, SlurmClient};
use super::error::SlurmError;

/// Bytes of names asked for in one request: they stand in its URL.
const NAMES: usize = 4000;
/// Requests at the same time.
const AT_ONCE: usize = 4;

/// Every account.
pub async fn accounts(client: &SlurmClient) -> Result<BTreeMap<AccountName, Account>, SlurmError> {
    answer::accounts(client.get(Api::Slurmdb, "accounts/", &[]).await?)
}

/// Every QOS.
pub async fn qos(client: &SlurmClient) -> Result<BTreeMap<QosName, Qos>, SlurmError> {
    answer::qos(client.get(Api::Slurmdb, "qos/", &[]).await?)
}

/// Associations, and for users who have one of them as default, all of their accounts.
pub type Rows = (BTreeMap<RowKey, Row>, BTreeMap<UserName, BTreeSet<AccountName>>);

/// The associations of these accounts in a cluster, and the own ones of the accounts above them, of which some may be known.
pub async fn rows(
    client: &SlurmClient,
    cluster: &ClusterName,
    accounts: &BTreeSet<AccountName>,
    above: &BTreeSet<AccountName>,
) -> Result<Rows, SlurmError> {
    let mut found = BTreeMap::new();
    let mut asked = BTreeSet::new();
    let mut wanted: BTreeSet<AccountName> = accounts | above;
    while !wanted.is_empty() {
        for (key, row) in associations(client, cluster, "account", &wanted, accounts).await? {
            // Above ours, others' users are nobody's business.
            if accounts.contains(&key.account) || key.user.is_empty() {
                found.insert(key, row);
            }
        }
        asked.extend(std::mem::take(&mut wanted));
        wanted = found.values().map(|row: &Row| row.parent.clone()).filter(|parent| !parent.is_empty() && !asked.contains(parent)).collect();
    }
    let users: BTreeSet<UserName> =
        found.iter().filter(|(key, row)| row.is_default && accounts.contains(&key.account)).map(|(key, _)| key.user.clone()).collect();
    let mut accounts_of: BTreeMap<UserName, BTreeSet<AccountName>> = BTreeMap::new();
    for (key, _) in associations(client, cluster, "user", &users, accounts).await? {
        accounts_of.entry(key.user).or_default().insert(key.account);
    }
    Ok((found, accounts_of))
}

async fn associations(
    client: &SlurmClient,
    cluster: &ClusterName,
    by: &'static str,
    values: &BTreeSet<impl AsRef<str>>,
    ours: &BTreeSet<AccountName>,
) -> Result<Vec<(RowKey, Row)>, SlurmError> {
    let ask = |list: String| async move {
        answer::associations(client.get(Api::Slurmdb, "associations/", &[("cluster", cluster.as_str()), (by, &list)]).await?, ours)
    };
    stream::iter(lists(values)).map(ask).buffer_unordered(AT_ONCE).try_concat().await
}

/// The associations of users that slurmctld goes by in these accounts, whatever the database says.
pub async fn users_in_force(client: &SlurmClient, accounts: &BTreeSet<AccountName>) -> Result<BTreeSet<RowKey>, SlurmError> {
    let ask = |list: String| async move { answer::users_in_force(client.get(Api::Slurm, "shares/", &[("accounts", &list)]).await?, accounts) };
    stream::iter(lists(accounts)).map(ask).buffer_unordered(AT_ONCE).try_concat().await
}

/// The clusters of the database that have associations of an account.
pub async fn clusters_of(client: &SlurmClient, account: &AccountName) -> Result<BTreeSet<ClusterName>, SlurmError> {
    answer::clusters(client.get(Api::Slurmdb, "associations/", &[("account", account.as_str())]).await?)
}

/// The values with commas between, as many in each as a URL holds.
fn lists(values: &BTreeSet<impl AsRef<str>>) -> Vec<String> {
    let mut lists: Vec<String> = Vec::new();
    for value in values.iter().map(AsRef::as_ref).filter(|value: &&str| !value.is_empty() && !value.contains(',')) {
        match lists.last_mut().filter(|list| list.len() + value.len() < NAMES) {
            Some(list) => {
                list.push(',');
                list.push_str(value);
            }
            None => lists.push(value.to_owned()),
        }
    }
    lists
}

/// What the cluster counts, for example `cpu` and `gres/gpu`.
pub async fn tres(client: &SlurmClient) -> Result<BTreeSet<String>, SlurmError> {
    answer::tres(client.get(Api::Slurmdb, "tres/", &[]).await?)
}

/// The names of all partitions.
pub async fn partition_names(client: &SlurmClient) -> Result<BTreeSet<PartitionName>, SlurmError> {
    answer::partition_names(client.get(Api::Slurm, "partitions/", &[]).await?)
}

/// Every partition with its nodes.
pub async fn partitions(client: &SlurmClient) -> Result<BTreeMap<PartitionName, PartitionView>, SlurmError> {
    let partitions = client.get(Api::Slurm, "partitions/", &[]).await?;
    answer::partitions(partitions, client.get(Api::Slurm, "nodes/", &[]).await?)
}
