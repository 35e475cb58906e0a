//! A stand-in for Slurm that does what a real one was seen to do with each call.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_plan::engine::slurm_accounts::{Account, Call, Limit, Qos, Row, RowKey, Snapshot};
use aifactory_plan::model::id::{AccountName, PartitionName, QosName, UserName};

/// A job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub key: RowKey,
    pub qos: QosName,
    pub running: bool,
}

/// A cluster with its database.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub state: Snapshot,
    pub jobs: Vec<Job>,
}

pub fn key(account: impl AsRef<str>, user: &str, partition: &str) -> RowKey {
    RowKey { account: AccountName::new(account.as_ref()), user: UserName::new(user), partition: PartitionName::new(partition) }
}

/// Names of one kind, for example `set(&["alice"], UserName::new)`.
pub fn set<'a, T: Ord>(names: &[&'a str], new: impl Fn(&'a str) -> T) -> BTreeSet<T> {
    names.iter().copied().map(new).collect()
}

impl Cluster {
    pub fn new() -> Self {
        let mut cluster = Self::default();
        cluster.state.tres = set(&["cpu", "mem", "node", "billing", "gres/gpu"], str::to_owned);
        cluster.state.partitions = set(&["gpua", "gpub"], PartitionName::new);
        cluster.state.qos.insert(QosName::new("normal"), Qos::default());
        for (name, parent) in [("root", ""), ("eu-aif", "root"), ("nat", "root")] {
            cluster.account(&AccountName::new(name), &AccountName::new(parent), "the site's own");
        }
        cluster
    }

    /// An account that somebody made.
    pub fn account(&mut self, name: &AccountName, parent: &AccountName, description: &str) {
        self.state.accounts.insert(name.clone(), Account { description: description.to_owned(), organization: String::new() });
        let above = self.state.rows.get(&RowKey::account(parent)).map_or("/".to_owned(), |row| row.lineage.clone());
        let lineage = if name.as_str() == "root" { "/".to_owned() } else { format!("{above}{name}/") };
        let row = Row { qos: set(&["normal"], QosName::new), default_qos: QosName::new("normal"), parent: parent.clone(), lineage, ..Row::default() };
        self.state.rows.insert(RowKey::account(name), row);
    }

    /// An association that somebody made.
    pub fn row(&mut self, key: RowKey) -> &mut Row {
        let RowKey { account, user, partition } = &key;
        let lineage =
            format!("{}0-{user}/{partition}{}", self.state.rows[&RowKey::account(account)].lineage, if partition.is_empty() { "" } else { "/" });
        let is_default = !self.state.rows.keys().any(|other| other.user == *user);
        let row = Row { qos: set(&["normal"], QosName::new), default_qos: QosName::new("normal"), lineage, is_default, ..Row::default() };
        self.state.rows.entry(key).or_insert(row)
    }

    /// What a pass reads.
    pub fn read(&self) -> Snapshot {
        let mut snapshot = self.state.clone();
        for key in self.state.rows.keys().filter(|key| !key.user.is_empty()) {
            snapshot.accounts_of.entry(key.user.clone()).or_default().insert(key.account.clone());
        }
        snapshot
    }

    pub fn busy(&self, account: &AccountName) -> BTreeSet<UserName> {
        self.jobs.iter().filter(|job| job.key.account == *account).map(|job| job.key.user.clone()).collect()
    }

    /// Submits a job as a member would; whether Slurm takes it.
    pub fn submit(&mut self, key: &RowKey) -> bool {
        let Some(row) = self.state.rows.get(key) else { return false };
        let closed =
            row.submitted_jobs == Some(0) || self.state.qos.get(&row.default_qos).is_none_or(|qos| qos.limits.get(&Limit::SubmittedJobs) == Some(&0));
        if !closed {
            self.jobs.push(Job { key: key.clone(), qos: row.default_qos.clone(), running: false });
        }
        !closed
    }

    /// Does what is asked; the error is Slurm's number.
    pub fn apply(&mut self, call: &Call) -> Result<(), i32> {
        match call {
            Call::Qos { name, description, flags, limits, .. } => {
                let qos = self.state.qos.entry(name.clone()).or_default();
                qos.description = description.clone();
                qos.flags = flags.clone();
                for (limit, value) in limits {
                    match value {
                        Some(value) => qos.limits.insert(*limit, *value),
                        None => qos.limits.remove(limit),
                    };
                }
            }
            Call::Account { name, parent, description, organization } => {
                assert!(self.state.accounts.contains_key(parent), "{name} below an account that is not there");
                if !self.state.rows.contains_key(&RowKey::account(name)) {
                    let before = self.state.accounts.get(name).cloned();
                    self.account(name, parent, description);
                    let made = Account { description: description.clone(), organization: organization.clone() };
                    self.state.accounts.insert(name.clone(), before.unwrap_or(made));
                }
            }
            Call::Describe { name, description, organization } => {
                let account = self.state.accounts.get_mut(name).expect("an account that is there");
                *account = Account { description: description.clone(), organization: organization.clone() };
            }
            Call::Row { key, qos, default_qos, parent, locked, comment, .. } => {
                assert!(!qos.is_empty() && qos.contains(default_qos) && qos.iter().all(|name| self.state.qos.contains_key(name)), "{call:?}");
                assert!(self.state.rows.contains_key(&RowKey::account(&key.account)), "an association without its account: {call:?}");
                assert_eq!(parent.is_some(), key.user.is_empty());
                let made = !self.state.rows.contains_key(key);
                let row = if key.user.is_empty() { self.state.rows.get_mut(key).expect("the account's association") } else { self.row(key.clone()) };
                row.qos = qos.clone();
                row.default_qos = default_qos.clone();
                // Written when the association is made, and never again.
                if made {
                    row.comment = comment.clone();
                }
                row.submitted_jobs = locked.then_some(0);
                row.running_jobs = locked.then_some(0);
                if let Some(parent) = parent {
                    row.parent = parent.clone();
                    self.relink(&key.account, parent);
                }
            }
            Call::EndJobs { account, user, partition, pending } => self.jobs.retain(|job| {
                job.key.account != *account
                    || user.as_ref().is_some_and(|user| job.key.user != *user)
                    || partition.as_ref().is_some_and(|partition| job.key.partition != *partition)
                    || (*pending && job.running)
            }),
            Call::Default { user, account } => {
                if self.state.rows.keys().any(|key| key.user == *user && key.account == *account) {
                    let mut first = true;
                    for (key, row) in self.state.rows.iter_mut().filter(|(key, _)| key.user == *user) {
                        row.is_default = key.account == *account && std::mem::take(&mut first);
                        first |= key.account != *account;
                    }
                }
            }
            Call::DeleteRow(key) => {
                if self.jobs.iter().any(|job| job.key == *key) {
                    return Err(7001);
                }
                let default = self.state.rows.get(key).is_some_and(|row| row.is_default);
                if default && self.state.rows.keys().any(|other| other.user == key.user && other != key) {
                    return Err(7009);
                }
                self.state.rows.remove(key);
            }
            Call::DeleteAccount(name) => {
                if self.jobs.iter().any(|job| job.key.account == *name) {
                    return Err(7001);
                }
                let elsewhere = |user: &UserName| self.state.rows.keys().any(|key| key.user == *user && key.account != *name);
                if self.state.rows.iter().any(|(key, row)| key.account == *name && row.is_default && elsewhere(&key.user)) {
                    return Err(7009);
                }
                self.state.rows.retain(|key, _| key.account != *name);
                self.state.accounts.remove(name);
            }
            Call::DeleteQos(name) => {
                if self.jobs.iter().any(|job| job.qos == *name) {
                    return Err(7001);
                }
                self.delete_qos(name);
            }
        }
        Ok(())
    }

    /// An association whose QOS goes falls back to `normal`.
    pub fn delete_qos(&mut self, name: &QosName) {
        self.state.qos.remove(name);
        for row in self.state.rows.values_mut().filter(|row| row.qos.contains(name)) {
            row.qos.remove(name);
            if row.qos.is_empty() {
                row.qos = set(&["normal"], QosName::new);
            }
            if row.default_qos == *name {
                row.default_qos = QosName::new("Unknown");
            }
        }
    }

    fn relink(&mut self, account: &AccountName, parent: &AccountName) {
        let above = self.state.rows.get(&RowKey::account(parent)).map_or("/".to_owned(), |row| row.lineage.clone());
        for (key, row) in self.state.rows.iter_mut().filter(|(key, _)| key.account == *account) {
            row.lineage = match key.user.as_str() {
                "" => format!("{above}{account}/"),
                user => format!("{above}{account}/0-{user}/{}/", key.partition),
            };
        }
    }

    /// Associations through which somebody could run without a budget of ours.
    pub fn without_budget(&self, account: &AccountName) -> Vec<String> {
        let bad = |name: &QosName| match self.state.qos.get(name) {
            Some(qos) => name.as_str() == "normal" || !qos.flags.contains("NO_DECAY") || !qos.limits.contains_key(&Limit::GpuMinutes),
            None => true,
        };
        let rows = self.state.rows.iter().filter(|(key, _)| key.account == *account && !key.user.is_empty());
        rows.filter(|(_, row)| row.qos.is_empty() || row.qos.iter().any(bad)).map(|(key, row)| format!("{key}: {:?}", row.qos)).collect()
    }

    /// What is not ours.
    pub fn foreign(&self, ours: &BTreeSet<AccountName>) -> (BTreeMap<AccountName, Account>, BTreeMap<RowKey, Row>, BTreeMap<QosName, Qos>) {
        let accounts = self.state.accounts.iter().filter(|(name, _)| !ours.contains(*name));
        let rows = self.state.rows.iter().filter(|(key, _)| !ours.contains(&key.account));
        let qos = self.state.qos.iter().filter(|(name, _)| !name.as_str().starts_with("grant-"));
        let unmoved = |row: &Row| Row { is_default: false, ..row.clone() };
        (
            accounts.map(|(name, account)| (name.clone(), account.clone())).collect(),
            rows.map(|(key, row)| (key.clone(), unmoved(row))).collect(),
            qos.map(|(name, qos)| (name.clone(), qos.clone())).collect(),
        )
    }
}

/// One database with several clusters: accounts and QOS are common to all of them, associations and jobs are each cluster's own.
#[derive(Clone, Debug, Default)]
pub struct Database {
    pub accounts: BTreeMap<AccountName, Account>,
    pub qos: BTreeMap<QosName, Qos>,
}

impl Database {
    /// Shows a cluster what the database holds.
    pub fn show(&self, cluster: &mut Cluster) {
        cluster.state.accounts.clone_from(&self.accounts);
        cluster.state.qos.clone_from(&self.qos);
    }

    /// Takes in what a cluster's REST has written.
    pub fn take(&mut self, cluster: &Cluster) {
        self.accounts.clone_from(&cluster.state.accounts);
        self.qos.clone_from(&cluster.state.qos);
    }
}
