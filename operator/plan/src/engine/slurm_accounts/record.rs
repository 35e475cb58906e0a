//! What our objects in Slurm say about themselves: one line of `key=value`, so that a site acts on it when the grant is gone from the hub,
//! and a person can read it with sacctmgr.

use std::collections::BTreeMap;

use aifactory_api::OwnerRef;
use aifactory_api::grant::AfterRetention;
use jiff::Timestamp;

use super::names::SlurmScope;
use crate::model::id::{AccountName, ClusterName, HubId};
use crate::model::lifecycle::{Ended, Marks, after_retention};

pub use crate::model::lifecycle::State;

/// First word of every description and comment of ours.
pub const MARK: &str = "aifactory";

/// The description of an account or a QOS of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it belongs: hub, factory, site and cluster.
    pub scope: SlurmScope,
    /// The grant.
    pub owner: OwnerRef,
    /// The grant's UID.
    pub uid: String,
    /// The grant's code.
    pub code: String,
    /// Where it stands.
    pub state: State,
    /// When something of it was first made here.
    pub since: Timestamp,
    /// When access ended.
    pub ended_at: Option<Timestamp>,
    /// Why access ended.
    pub ended_because: Option<String>,
    /// When it was locked.
    pub locked_at: Option<Timestamp>,
    /// When what still runs is cancelled; `None`: it may finish.
    pub cancel_at: Option<Timestamp>,
    /// When pending jobs were ended.
    pub queue_ended_at: Option<Timestamp>,
    /// When running jobs were ended.
    pub cancelled_at: Option<Timestamp>,
    /// Until when it is kept.
    pub retained_until: Option<Timestamp>,
    /// What happens then.
    pub after_retention: Option<AfterRetention>,
    /// On a QOS: the account that uses it.
    pub account: Option<AccountName>,
    /// On a QOS: the grant's entry.
    pub entry: Option<String>,
}

impl Record {
    /// The record of a grant that is not ended.
    pub fn new(scope: &SlurmScope, owner: &OwnerRef, uid: &str, code: &str, state: State, since: Timestamp) -> Self {
        Self {
            scope: scope.clone(),
            owner: owner.clone(),
            uid: uid.to_owned(),
            code: code.to_owned(),
            state,
            since,
            ended_at: None,
            ended_because: None,
            locked_at: None,
            cancel_at: None,
            queue_ended_at: None,
            cancelled_at: None,
            retained_until: None,
            after_retention: None,
            account: None,
            entry: None,
        }
    }

    /// The record of what is ours and does not say anything any more.
    pub fn unread(scope: &SlurmScope, owner: &OwnerRef) -> Self {
        Self::new(scope, owner, "", "", State::Bound, Timestamp::UNIX_EPOCH)
    }

    /// Whether nothing is known of it but that it is there.
    pub fn is_unread(&self) -> bool {
        self.uid.is_empty()
    }

    /// As the QOS of one entry says it.
    pub fn for_qos(&self, account: &AccountName, entry: &str) -> Self {
        Self { account: Some(account.clone()), entry: Some(entry.to_owned()), ..self.clone() }
    }

    /// [`Marks::retained`], for which no other mark needs to be read.
    pub fn retained(&self) -> bool {
        self.retained_until.is_some()
    }

    /// Whether it is locked and says until when it is kept.
    pub fn is_kept(&self) -> bool {
        self.state == State::Locked && self.retained()
    }

    /// What it says of the life of its grant.
    pub fn marks(&self) -> Marks {
        let Self {
            scope: _,
            owner: _,
            uid,
            code,
            state,
            since: _,
            ended_at,
            ended_because,
            locked_at,
            cancel_at,
            queue_ended_at: _,
            cancelled_at,
            retained_until,
            after_retention,
            account: _,
            entry: _,
        } = self;
        Marks {
            uid: Some(uid.clone()),
            code: Some(code.clone()),
            state: Some(*state),
            ended_at: *ended_at,
            because: ended_because.clone(),
            locked_at: *locked_at,
            cancel_at: *cancel_at,
            cancelled_at: *cancelled_at,
            retained_until: *retained_until,
            after_retention: *after_retention,
        }
    }

    /// The same, locked.
    pub fn ended(&self, ended: &Ended) -> Self {
        let Marks { uid, code, state, ended_at, because, locked_at, cancel_at, cancelled_at, retained_until, after_retention } =
            ended.marks(Some(self.uid.clone()), Some(self.code.clone()));
        Self {
            uid: uid.unwrap_or_default(),
            code: code.unwrap_or_default(),
            state: state.unwrap_or(State::Locked),
            ended_at,
            ended_because: because,
            locked_at,
            cancel_at,
            cancelled_at,
            retained_until,
            after_retention,
            scope: self.scope.clone(),
            owner: self.owner.clone(),
            since: self.since,
            queue_ended_at: self.queue_ended_at,
            account: self.account.clone(),
            entry: self.entry.clone(),
        }
    }

    /// The line.
    pub fn render(&self) -> String {
        let Self {
            scope,
            owner,
            uid,
            code,
            state,
            since,
            ended_at,
            ended_because,
            locked_at,
            cancel_at,
            queue_ended_at,
            cancelled_at,
            retained_until,
            after_retention,
            account,
            entry,
        } = self;
        let time = |at: &Option<Timestamp>| at.map(|at| at.to_string());
        let [hub, factory, site, cluster] = scope_pairs(scope);
        line([
            hub,
            factory,
            site,
            cluster,
            ("owner", Some(owner.to_string())),
            ("uid", Some(uid.clone())),
            ("code", Some(code.clone())),
            ("state", Some(state.as_str().to_owned())),
            ("since", Some(since.to_string())),
            ("account", account.as_ref().map(AccountName::to_string)),
            ("entry", entry.clone()),
            ("ended-at", time(ended_at)),
            ("ended-because", ended_because.clone()),
            ("locked-at", time(locked_at)),
            ("cancel-at", time(cancel_at)),
            ("queue-ended-at", time(queue_ended_at)),
            ("cancelled-at", time(cancelled_at)),
            ("retained-until", time(retained_until)),
            ("after-retention", after_retention.map(|after| after.as_str().to_owned())),
        ])
    }

    /// Reads a line; `None`: not ours.
    pub fn parse(text: &str) -> Option<Self> {
        let pairs = pairs(text)?;
        let time = |key: &str| pairs.get(key).and_then(|text| text.parse().ok());
        Some(Self {
            scope: scope_of(&pairs)?,
            owner: OwnerRef::parse(pairs.get("owner")?)?,
            uid: pairs.get("uid")?.clone(),
            code: pairs.get("code")?.clone(),
            state: State::parse(pairs.get("state")?)?,
            since: time("since")?,
            ended_at: time("ended-at"),
            ended_because: pairs.get("ended-because").cloned(),
            locked_at: time("locked-at"),
            cancel_at: time("cancel-at"),
            queue_ended_at: time("queue-ended-at"),
            cancelled_at: time("cancelled-at"),
            retained_until: time("retained-until"),
            after_retention: pairs.get("after-retention").and_then(|text| after_retention(text)),
            account: pairs.get("account").map(AccountName::new),
            entry: pairs.get("entry").cloned(),
        })
    }

    /// Whether it is about this grant at this site.
    pub fn is_of(&self, scope: &SlurmScope, owner: &OwnerRef) -> bool {
        self.scope == *scope && self.owner == *owner
    }
}

/// The comment of an association of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowMark {
    /// Where it belongs: hub, factory, site and cluster.
    pub scope: SlurmScope,
    /// The grant.
    pub owner: OwnerRef,
    /// Hash of the member's id; ids are pseudonyms of persons.
    pub member: Option<String>,
    /// When it was locked.
    pub locked_at: Option<Timestamp>,
    /// When its pending jobs were ended.
    pub queue_ended_at: Option<Timestamp>,
    /// When its running jobs were ended.
    pub cancelled_at: Option<Timestamp>,
}

impl RowMark {
    /// The mark of an association that is in use.
    pub fn new(scope: &SlurmScope, owner: &OwnerRef, member: Option<String>) -> Self {
        Self { scope: scope.clone(), owner: owner.clone(), member, locked_at: None, queue_ended_at: None, cancelled_at: None }
    }

    /// The line.
    pub fn render(&self) -> String {
        let Self { scope, owner, member, locked_at, queue_ended_at, cancelled_at } = self;
        let time = |at: &Option<Timestamp>| at.map(|at| at.to_string());
        let [hub, factory, site, cluster] = scope_pairs(scope);
        line([
            hub,
            factory,
            site,
            cluster,
            ("owner", Some(owner.to_string())),
            ("member", member.clone()),
            ("locked-at", time(locked_at)),
            ("queue-ended-at", time(queue_ended_at)),
            ("cancelled-at", time(cancelled_at)),
        ])
    }

    /// Reads a line; `None`: not ours.
    pub fn parse(text: &str) -> Option<Self> {
        let pairs = pairs(text)?;
        let time = |key: &str| pairs.get(key).and_then(|text| text.parse().ok());
        Some(Self {
            scope: scope_of(&pairs)?,
            owner: OwnerRef::parse(pairs.get("owner")?)?,
            member: pairs.get("member").cloned(),
            locked_at: time("locked-at"),
            queue_ended_at: time("queue-ended-at"),
            cancelled_at: time("cancelled-at"),
        })
    }
}

/// A hub's factory with its site and cluster, as each line of ours says them.
pub(super) fn scope_pairs(scope: &SlurmScope) -> [(&'static str, Option<String>); 4] {
    let SlurmScope { hub, factory, site, cluster } = scope;
    [("hub", Some(hub.to_string())), ("factory", Some(factory.to_string())), ("site", Some(site.clone())), ("cluster", Some(cluster.to_string()))]
}

/// The inverse of [`scope_pairs`].
pub(super) fn scope_of(pairs: &BTreeMap<&str, String>) -> Option<SlurmScope> {
    Some(SlurmScope {
        hub: HubId::new(pairs.get("hub")?),
        factory: OwnerRef::parse(pairs.get("factory")?)?,
        site: pairs.get("site")?.clone(),
        cluster: ClusterName::new(pairs.get("cluster")?),
    })
}

pub(super) fn line<const N: usize>(pairs: [(&str, Option<String>); N]) -> String {
    let mut text = MARK.to_owned();
    for (key, value) in pairs.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        text.push_str("; ");
        text.push_str(key);
        text.push('=');
        escape(&value, &mut text);
    }
    text
}

pub(super) fn pairs(text: &str) -> Option<BTreeMap<&str, String>> {
    let mut parts = text.split("; ");
    if parts.next()? != MARK {
        return None;
    }
    Some(parts.filter_map(|part| part.split_once('=')).map(|(key, value)| (key, unescape(value))).collect())
}

fn escape(value: &str, text: &mut String) {
    for c in value.chars() {
        match c {
            '%' | ';' | '"' | '\'' | '\\' => text.push_str(&format!("%{:02X}", u32::from(c))),
            c if c.is_ascii_control() => text.push_str(&format!("%{:02X}", u32::from(c))),
            // Other control characters are of no use in a description.
            c if c.is_control() => text.push(' '),
            c => text.push(c),
        }
    }
}

fn unescape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        match after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(u8::is_ascii) {
            Some(byte) => {
                text.push(char::from(byte));
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                text.push('%');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}
