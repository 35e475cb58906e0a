//! What was read in a Slurm cluster. Nothing here is taken for absent that was not read: a read that fails gives no snapshot at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::model::id::{AccountName, PartitionName, QosName, UserName};

/// A number that Slurm enforces on a QOS, and that the operator owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// GrpTRESMins of untyped `gres/gpu`: the budget, in device-minutes.
    GpuMinutes,
    /// GrpTRES of untyped `gres/gpu`: GPUs at the same time.
    Gpus,
    /// GrpTRES of `cpu`.
    Cpus,
    /// GrpTRES of `mem`, in MiB.
    MemoryMib,
    /// MinTRESPerJob of untyped `gres/gpu`.
    MinGpusPerJob,
    /// MaxTRESPerUser of untyped `gres/gpu`.
    GpusPerUser,
    /// MaxJobsPerUser.
    JobsPerUser,
    /// MaxWall, in minutes.
    WallMinutes,
    /// GrpSubmitJobs: 0 refuses new jobs.
    SubmittedJobs,
    /// GrpJobs: 0 holds pending jobs.
    RunningJobs,
}

impl Limit {
    /// Every limit.
    pub const ALL: &[Limit] = &[
        Limit::GpuMinutes,
        Limit::Gpus,
        Limit::Cpus,
        Limit::MemoryMib,
        Limit::MinGpusPerJob,
        Limit::GpusPerUser,
        Limit::JobsPerUser,
        Limit::WallMinutes,
        Limit::SubmittedJobs,
        Limit::RunningJobs,
    ];
}

/// Limits that are set; one that is not here is none.
pub type Limits = BTreeMap<Limit, i64>;

/// A QOS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Qos {
    /// Its description.
    pub description: String,
    /// Its flags, as the REST names them.
    pub flags: BTreeSet<String>,
    /// The limits that are set.
    pub limits: Limits,
}

/// An account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Its description.
    pub description: String,
    /// Its organisation.
    pub organization: String,
}

/// Which association.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// The account.
    pub account: AccountName,
    /// The user; empty: the account's own row.
    pub user: UserName,
    /// The partition; empty: any.
    pub partition: PartitionName,
}

impl RowKey {
    /// The own association of an account.
    pub fn account(account: &AccountName) -> Self {
        Self { account: account.clone(), user: UserName::default(), partition: PartitionName::default() }
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "account {}", self.account)?;
        if !self.user.is_empty() {
            write!(f, " user {}", self.user)?;
        }
        if !self.partition.is_empty() {
            write!(f, " partition {}", self.partition)?;
        }
        Ok(())
    }
}

/// An association of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The QOS that may be used.
    pub qos: BTreeSet<QosName>,
    /// The default of them.
    pub default_qos: QosName,
    /// The account above; on an account's own row only.
    pub parent: AccountName,
    /// The path of accounts, for example `/eu-aif/grant-x/0-alice/h100/`.
    pub lineage: String,
    /// Whether it is the user's default account.
    pub is_default: bool,
    /// MaxSubmitJobs of this row: 0 refuses new jobs.
    pub submitted_jobs: Option<i64>,
    /// MaxJobs of this row: 0 holds pending jobs.
    pub running_jobs: Option<i64>,
    /// GrpTRES of untyped `gres/gpu`.
    pub gpus: Option<i64>,
    /// GrpTRESMins of untyped `gres/gpu`.
    pub gpu_minutes: Option<i64>,
    /// Its comment.
    pub comment: String,
}

impl Qos {
    /// Whether it refuses new jobs and holds pending ones.
    pub fn locked(&self) -> bool {
        self.limits.get(&Limit::SubmittedJobs) == Some(&0) && self.limits.get(&Limit::RunningJobs) == Some(&0)
    }
}

impl Row {
    /// Whether it refuses new jobs and holds pending ones.
    pub fn locked(&self) -> bool {
        self.submitted_jobs == Some(0) && self.running_jobs == Some(0)
    }
}

/// What was read, all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Every account of the database.
    pub accounts: BTreeMap<AccountName, Account>,
    /// Every QOS of the database.
    pub qos: BTreeMap<QosName, Qos>,
    /// The associations, in this cluster, of every account that is ours or that an intent names, and of the accounts above them.
    pub rows: BTreeMap<RowKey, Row>,
    /// All accounts of each user who has one of our accounts as default, in this cluster.
    pub accounts_of: BTreeMap<UserName, BTreeSet<AccountName>>,
    /// What the cluster counts: `cpu`, `mem`, `gres/gpu` and so on.
    pub tres: BTreeSet<String>,
    /// The partitions of the cluster.
    pub partitions: BTreeSet<PartitionName>,
}

impl Snapshot {
    /// The associations of an account, its own among them.
    pub fn rows_of<'a>(&'a self, account: &'a AccountName) -> impl Iterator<Item = (&'a RowKey, &'a Row)> {
        self.rows.range(RowKey::account(account)..).take_while(move |(key, _)| key.account == *account)
    }
}
