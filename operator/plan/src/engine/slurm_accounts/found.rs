//! What is ours in a Slurm cluster, and whose.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::OwnerRef;

use super::names::{SLURM_PREFIX, SlurmScope, qos_prefix};
use super::record::{Record, RowMark};
use super::state::{Qos, Row, RowKey, Snapshot};
use crate::model::id::{AccountName, QosName};

/// A grant of which something is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldAccount {
    /// The account that it uses, or would use.
    pub account: AccountName,
    /// What is known of it there.
    pub record: Record,
}

/// Whose the account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// There is none.
    Absent,
    /// Ours.
    Ours,
    /// The site's, which it lets the grant use.
    Adopted,
    /// Somebody else's.
    Foreign,
}

/// What was found of one grant.
#[derive(Clone, Debug)]
pub(super) struct Found<'a> {
    pub account: AccountName,
    pub place: Place,
    /// QOS of ours by name, with what they say.
    pub qos: BTreeMap<&'a QosName, (&'a Qos, Record)>,
    pub record: Option<Record>,
}

impl<'a> Found<'a> {
    pub fn read(snapshot: &'a Snapshot, scope: &SlurmScope, owner: &OwnerRef, code: Option<&str>) -> Self {
        let prefix = qos_prefix(owner);
        let qos: BTreeMap<&QosName, (&Qos, Record)> = snapshot
            .qos
            .range(QosName::new(&prefix)..)
            .take_while(|(name, _)| name.as_str().starts_with(&prefix))
            .filter_map(|(name, qos)| Some((name, (qos, qos_record(name, qos).filter(|record| record.is_of(scope, owner))?))))
            .collect();
        let own = scope.account(owner);
        let ours = account_record(snapshot, &own).filter(|record| record.is_of(scope, owner));
        // A partly written record is one that says less: what has ended has ended.
        let from_qos = qos.values().map(|(_, record)| record).max_by_key(|record| {
            let marks = record.marks();
            (marks.locked(), marks.ended_at.map(Reverse), marks.locked_at.map(Reverse))
        });
        let since = ours.iter().chain(qos.values().map(|(_, record)| record)).map(|record| record.since).min();
        let record = ours.clone().or_else(|| from_qos.cloned()).map(|record| Record {
            since: since.unwrap_or(record.since),
            account: None,
            entry: None,
            ..record
        });
        let code = code.map(str::to_owned).or_else(|| record.as_ref().map(|record| record.code.clone()));
        let recorded = qos
            .values()
            .filter_map(|(_, record)| record.account.as_ref())
            .find(|name| **name != own && snapshot.accounts.get(*name).is_some_and(|account| Record::parse(&account.description).is_none()));
        let (account, place) = if ours.is_some() {
            (own, Place::Ours)
        } else if let Some(name) = recorded.or_else(|| code.and_then(|code| adoptable(snapshot, &code).next())) {
            (name.clone(), Place::Adopted)
        } else {
            let place = if snapshot.accounts.contains_key(&own) { Place::Foreign } else { Place::Absent };
            (own, place)
        };
        Self { account, place, qos, record }
    }

    /// Whether every QOS of ours refuses new jobs and holds pending ones.
    pub fn locked(&self) -> bool {
        self.qos.values().all(|(qos, _)| qos.locked())
    }

    /// The users' associations that are ours.
    pub fn rows(&'a self, snapshot: &'a Snapshot, scope: &'a SlurmScope, owner: &'a OwnerRef) -> impl Iterator<Item = (&'a RowKey, &'a Row)> {
        let place = self.place;
        snapshot.rows_of(&self.account).filter(move |(key, row)| {
            !key.user.is_empty()
                && match place {
                    Place::Ours => true,
                    Place::Adopted => RowMark::parse(&row.comment).is_some_and(|mark| mark.scope == *scope && mark.owner == *owner),
                    Place::Absent | Place::Foreign => false,
                }
        })
    }

    /// Whether a user's association leads past our QOS: one whose QOS was deleted falls back to another.
    pub fn strays(&self, row: &Row) -> bool {
        row.qos.is_empty() || !row.qos.iter().all(|name| self.qos.contains_key(name))
    }
}

/// Grants of which this site has something in this cluster. What other sites, factories or hubs have in the same database is left out.
pub fn held(snapshot: &Snapshot, scope: &SlurmScope) -> BTreeMap<OwnerRef, HeldAccount> {
    let accounts = snapshot.accounts.keys().filter(|name| name.as_str().starts_with(SLURM_PREFIX)).filter_map(|name| account_record(snapshot, name));
    let qos = snapshot.qos.iter().filter(|(name, _)| name.as_str().starts_with(SLURM_PREFIX)).filter_map(|(name, qos)| qos_record(name, qos));
    let owners: BTreeSet<OwnerRef> = accounts.chain(qos).filter(|record| record.scope == *scope).map(|record| record.owner).collect();
    owners
        .into_iter()
        .filter_map(|owner| {
            let found = Found::read(snapshot, scope, &owner, None);
            Some((owner, HeldAccount { account: found.account, record: found.record? }))
        })
        .collect()
}

/// What a site writes into the description of an account of its own, so that the grant of this code uses it.
pub fn adopt_mark(code: &str) -> String {
    format!("aifactory-adopt={code}")
}

/// Accounts of the site's own that the grant of this code may use.
pub fn adoptable<'a>(snapshot: &'a Snapshot, code: &str) -> impl Iterator<Item = &'a AccountName> {
    let mark = adopt_mark(code);
    snapshot.accounts.iter().filter(move |(_, account)| marked(&account.description, &mark)).map(|(name, _)| name)
}

/// Whether a description says that the grant of this code may use the account.
fn marked(description: &str, mark: &str) -> bool {
    description.contains(mark)
        && Record::parse(description).is_none()
        && description.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '"' | '\'')).any(|word| word == mark)
}

fn account_record(snapshot: &Snapshot, name: &AccountName) -> Option<Record> {
    let record = Record::parse(&snapshot.accounts.get(name)?.description)?;
    (record.scope.account(&record.owner) == *name).then_some(record)
}

fn qos_record(name: &QosName, qos: &Qos) -> Option<Record> {
    let record = Record::parse(&qos.description)?;
    (record.scope.qos(&record.owner, record.entry.as_deref()?) == *name).then_some(record)
}
