//! What is asked of a Slurm cluster, in the order that is safe.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::state::{Limit, RowKey};
use crate::engine::grant_stages::GrantStage;
use crate::model::id::{AccountName, PartitionName, QosName, UserName};

/// When a call is made: calls of one stage go together, stages one after the other. What takes access away comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// QOS that are locked.
    Lock,
    /// Associations that are locked.
    LockRows,
    /// Jobs that end.
    EndJobs,
    /// QOS that are made, or opened.
    Qos,
    /// Accounts that are made.
    Accounts,
    /// What accounts say about themselves.
    Describe,
    /// Associations that are made or corrected.
    Rows,
    /// Default accounts that are moved, so that ours can go.
    Defaults,
    /// Associations that go.
    DeleteRows,
    /// Accounts that go.
    DeleteAccounts,
    /// QOS that go, last of all: an association whose QOS is deleted falls back to `normal`.
    DeleteQos,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Stage; 11] = [
        Stage::Lock,
        Stage::LockRows,
        Stage::EndJobs,
        Stage::Qos,
        Stage::Accounts,
        Stage::Describe,
        Stage::Rows,
        Stage::Defaults,
        Stage::DeleteRows,
        Stage::DeleteAccounts,
        Stage::DeleteQos,
    ];

    /// The stage of a grant that it is a part of: a budget is the fence, and an association lets its user in.
    pub fn of_grant(self) -> GrantStage {
        match self {
            Stage::Lock | Stage::LockRows | Stage::EndJobs => GrantStage::RemoveAccess,
            Stage::Qos => GrantStage::Fence,
            Stage::Accounts | Stage::Describe => GrantStage::Inside,
            Stage::Rows => GrantStage::GiveAccess,
            Stage::Defaults | Stage::DeleteRows | Stage::DeleteAccounts | Stage::DeleteQos => GrantStage::Sweep,
        }
    }

    /// Whether it takes access away: then a failure elsewhere does not hold it up.
    pub fn removes_access(self) -> bool {
        self.of_grant() == GrantStage::RemoveAccess
    }
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Makes or changes a QOS. Flags are the whole set; limits that are not named stay.
    Qos {
        /// When.
        stage: Stage,
        /// Its name.
        name: QosName,
        /// Its description.
        description: String,
        /// All of its flags.
        flags: BTreeSet<String>,
        /// Limits to set, or with `None` to clear.
        limits: BTreeMap<Limit, Option<i64>>,
    },
    /// Makes an account with its own association.
    Account {
        /// Its name.
        name: AccountName,
        /// The account above.
        parent: AccountName,
        /// Its description.
        description: String,
        /// Its organisation.
        organization: String,
    },
    /// Changes what an account says about itself.
    Describe {
        /// Its name.
        name: AccountName,
        /// Its description.
        description: String,
        /// Its organisation.
        organization: String,
    },
    /// Makes or changes an association.
    Row {
        /// When.
        stage: Stage,
        /// Which.
        key: RowKey,
        /// All of its QOS; never empty.
        qos: BTreeSet<QosName>,
        /// The default of them.
        default_qos: QosName,
        /// The account above, for an account's own row.
        parent: Option<AccountName>,
        /// Whether it is locked: no new jobs, and pending ones are held.
        locked: bool,
        /// Its comment.
        comment: String,
    },
    /// Ends jobs.
    EndJobs {
        /// Of this account.
        account: AccountName,
        /// Of this user only.
        user: Option<UserName>,
        /// Of this partition only.
        partition: Option<PartitionName>,
        /// Only those that have not begun.
        pending: bool,
    },
    /// Makes another account a user's default.
    Default {
        /// The user.
        user: UserName,
        /// The account.
        account: AccountName,
    },
    /// Deletes an association.
    DeleteRow(RowKey),
    /// Deletes an account with all of its associations.
    DeleteAccount(AccountName),
    /// Deletes a QOS.
    DeleteQos(QosName),
}

impl Call {
    /// When it is made.
    pub fn stage(&self) -> Stage {
        match self {
            Call::Qos { stage, .. } | Call::Row { stage, .. } => *stage,
            Call::Account { .. } => Stage::Accounts,
            Call::Describe { .. } => Stage::Describe,
            Call::EndJobs { .. } => Stage::EndJobs,
            Call::Default { .. } => Stage::Defaults,
            Call::DeleteRow(_) => Stage::DeleteRows,
            Call::DeleteAccount(_) => Stage::DeleteAccounts,
            Call::DeleteQos(_) => Stage::DeleteQos,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::Qos { name, .. } => write!(f, "QOS {name}"),
            Call::Account { name, parent, .. } => write!(f, "account {name} below {parent}"),
            Call::Describe { name, .. } => write!(f, "description of account {name}"),
            Call::Row { key, locked: true, .. } => write!(f, "lock of association {key}"),
            Call::Row { key, .. } => write!(f, "association {key}"),
            Call::EndJobs { account, user, partition, pending } => {
                let which = if *pending { "pending jobs" } else { "jobs" };
                write!(f, "end of {which} of account {account}")?;
                user.iter().try_for_each(|user| write!(f, ", user {user}"))?;
                partition.iter().try_for_each(|partition| write!(f, ", partition {partition}"))
            }
            Call::Default { user, account } => write!(f, "default account {account} of user {user}"),
            Call::DeleteRow(key) => write!(f, "deletion of association {key}"),
            Call::DeleteAccount(name) => write!(f, "deletion of account {name}"),
            Call::DeleteQos(name) => write!(f, "deletion of QOS {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_come_in_the_order_of_the_stages_of_a_grant() {
        assert!(Stage::ALL.is_sorted() && Stage::ALL.map(Stage::of_grant).is_sorted());
    }
}
