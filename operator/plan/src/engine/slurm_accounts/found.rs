//! What is ours in a Slurm cluster, and whose.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::OwnerRef;

use super::names::{SLURM_PREFIX, SlurmScope, qos_prefix};
use super::record::{Record, RowMark};
use super::state::{Account, Qos, Row, RowKey, Snapshot};
use super::target;
use crate::model::id::{AccountName, QosName};
use crate::model::intent::{GrantIntent, Intent};

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
    /// The site's, which it lets the grant use, or has let it use.
    Adopted,
    /// Somebody else's.
    Foreign,
}

/// What the hub knows of a grant, by which what does not say whose it is any more is found all the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Known<'k> {
    pub code: Option<&'k str>,
    pub entries: BTreeSet<&'k str>,
}

impl<'k> Known<'k> {
    pub fn of(grant: &'k GrantIntent) -> Self {
        Self { code: Some(&grant.code), entries: grant.pools.iter().map(|pool| pool.entry.as_str()).collect() }
    }

    pub fn code(code: &'k str) -> Self {
        Self { code: Some(code).filter(|code| !code.is_empty()), entries: BTreeSet::new() }
    }
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
    /// Finds what is there by what it says, and where it does not say so any more, by its name and by what else only we write.
    pub fn read(snapshot: &'a Snapshot, scope: &SlurmScope, owner: &OwnerRef, known: &Known<'_>) -> Self {
        let said = said_qos(snapshot, scope, owner);
        let silent = silent_qos(snapshot, scope, owner, known, &said);
        let own = scope.account(owner);
        let ours = account_record(snapshot, &own).filter(|record| record.is_of(scope, owner));
        // A partly written record is one that says less: what has ended has ended.
        let from_qos = said.values().map(|(_, record)| record).max_by_key(|record| {
            let marks = record.marks();
            (marks.locked(), marks.ended_at.map(Reverse), marks.locked_at.map(Reverse))
        });
        let since = ours.iter().chain(said.values().map(|(_, record)| record)).map(|record| record.since).min();
        let record = ours.clone().or_else(|| from_qos.cloned()).map(|record| Record {
            since: since.unwrap_or(record.since),
            account: None,
            entry: None,
            ..record
        });
        // Nobody but us puts a QOS of the grant on the account's own association.
        let own_row = snapshot.rows.get(&RowKey::account(&own)).filter(|_| snapshot.accounts.contains_key(&own));
        let named = own_row.is_some_and(|row| row.qos.iter().any(|name| said.contains_key(name) || silent.contains_key(name)));
        let (account, place) = if ours.is_some() || named {
            (own, Place::Ours)
        } else {
            let code = known.code.map(str::to_owned).or_else(|| record.as_ref().map(|record| record.code.clone()));
            place_of_others(snapshot, scope, owner, &said, code)
        };
        let silent_alone = || (place == Place::Ours || !silent.is_empty()).then(|| Record::unread(scope, owner));
        let record = record.or_else(silent_alone);
        let mut qos = said;
        for (name, (found, entry)) in silent {
            let text = record.as_ref().map(|record| record.for_qos(&account, &entry));
            qos.extend(text.map(|record| (name, (found, record))));
        }
        Self { account, place, qos, record }
    }

    /// Takes what says nothing any more for this grant's, since a name belongs to one grant at a time.
    pub fn assume(&mut self, intent: &Intent, grant: &GrantIntent) {
        if let Some(record) = self.record.as_mut().filter(|record| record.is_unread()) {
            (record.uid, record.code, record.since) = (intent.uid.clone(), grant.code.clone(), intent.created);
        }
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
                    Place::Adopted => is_marked(row, scope, owner),
                    Place::Absent | Place::Foreign => false,
                }
        })
    }

    /// Whether a user's association leads past our QOS: one whose QOS was deleted falls back to another.
    pub fn strays(&self, row: &Row) -> bool {
        row.qos.is_empty() || !row.qos.iter().all(|name| self.qos.contains_key(name))
    }
}

/// The QOS that say that they are of this grant.
fn said_qos<'a>(snapshot: &'a Snapshot, scope: &SlurmScope, owner: &OwnerRef) -> BTreeMap<&'a QosName, (&'a Qos, Record)> {
    let said = |(name, qos)| Some((name, (qos, qos_record(name, qos).filter(|record| record.is_of(scope, owner))?)));
    named_like(snapshot, owner).filter_map(said).collect()
}

/// The QOS, with their entries, that have a name of this grant and do not say whose they are: ours are those that carry what we write, or that an
/// association of ours names.
fn silent_qos<'a>(
    snapshot: &'a Snapshot,
    scope: &SlurmScope,
    owner: &OwnerRef,
    known: &Known<'_>,
    said: &BTreeMap<&'a QosName, (&'a Qos, Record)>,
) -> BTreeMap<&'a QosName, (&'a Qos, String)> {
    let own = scope.account(owner);
    let entry = |name: &QosName| {
        let granted = known.entries.iter().find(|entry| scope.qos(owner, entry) == *name);
        granted.map(|entry| (*entry).to_owned()).or_else(|| scope.entry_in(owner, name))
    };
    let used = |name: &QosName| snapshot.rows.iter().any(|(key, row)| row.qos.contains(name) && (key.account == own || is_marked(row, scope, owner)));
    let silent = named_like(snapshot, owner).filter(|(name, _)| !said.contains_key(name));
    let named = silent.filter_map(|(name, qos)| Some((name, (qos, entry(name)?))));
    named.filter(|(name, (qos, _))| target::is_like_ours(qos) || used(name)).collect()
}

/// The QOS whose names begin as those of this grant do.
fn named_like<'a>(snapshot: &'a Snapshot, owner: &OwnerRef) -> impl Iterator<Item = (&'a QosName, &'a Qos)> + use<'a> {
    let prefix = qos_prefix(owner);
    snapshot.qos.range(QosName::new(&prefix)..).take_while(move |(name, _)| name.as_str().starts_with(&prefix))
}

/// Which account a grant uses that has none of its own.
fn place_of_others(
    snapshot: &Snapshot,
    scope: &SlurmScope,
    owner: &OwnerRef,
    said: &BTreeMap<&QosName, (&Qos, Record)>,
    code: Option<String>,
) -> (AccountName, Place) {
    let own = scope.account(owner);
    let silent = |name: &AccountName| snapshot.accounts.get(name).is_some_and(|account| Record::parse(&account.description).is_none());
    let recorded = said.values().filter_map(|(_, record)| record.account.as_ref()).find(|name| **name != own && silent(name));
    // The site has let the grant use it, and has taken it back; or it was ours, which nothing shows any more.
    let left = snapshot.rows_of(&own).any(|(_, row)| is_marked(row, scope, owner)).then_some(&own);
    match recorded.or(left).or_else(|| code.and_then(|code| adoptable(snapshot, &code).next())) {
        Some(name) => (name.clone(), Place::Adopted),
        None if snapshot.accounts.contains_key(&own) => (own, Place::Foreign),
        None => (own, Place::Absent),
    }
}

/// Whether an association says that it is of this grant.
fn is_marked(row: &Row, scope: &SlurmScope, owner: &OwnerRef) -> bool {
    RowMark::parse(&row.comment).is_some_and(|mark| mark.scope == *scope && mark.owner == *owner)
}

/// Grants of which this site has something in this cluster. What other sites, factories or hubs have in the same database is left out.
pub fn held(snapshot: &Snapshot, scope: &SlurmScope) -> BTreeMap<OwnerRef, HeldAccount> {
    let accounts = snapshot.accounts.keys().filter(|name| name.as_str().starts_with(SLURM_PREFIX)).filter_map(|name| account_record(snapshot, name));
    let qos = snapshot.qos.iter().filter(|(name, _)| name.as_str().starts_with(SLURM_PREFIX)).filter_map(|(name, qos)| qos_record(name, qos));
    let said = accounts.chain(qos).filter(|record| record.scope == *scope).map(|record| record.owner);
    // Of a grant whose account and QOS do not say whose they are any more, its associations do.
    let rows = silent_accounts(snapshot).flat_map(|name| snapshot.rows_of(name));
    let marks = rows.filter_map(|(key, row)| Some((key, RowMark::parse(&row.comment)?)));
    let marked = marks.filter(|(key, mark)| mark.scope == *scope && scope.account(&mark.owner) == key.account).map(|(_, mark)| mark.owner);
    let owners: BTreeSet<OwnerRef> = said.chain(marked).collect();
    owners
        .into_iter()
        .map(|owner| {
            let found = Found::read(snapshot, scope, &owner, &Known::default());
            let record = found.record.unwrap_or_else(|| Record::unread(scope, &owner));
            (owner, HeldAccount { account: found.account, record })
        })
        .collect()
}

/// Accounts with a name of our form that do not say whose they are: their associations may.
pub fn silent_accounts(snapshot: &Snapshot) -> impl Iterator<Item = &AccountName> {
    let silent =
        |(name, account): &(&AccountName, &Account)| name.as_str().starts_with(SLURM_PREFIX) && Record::parse(&account.description).is_none();
    snapshot.accounts.iter().filter(silent).map(|(name, _)| name)
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
