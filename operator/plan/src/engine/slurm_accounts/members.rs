//! Which local user a member is at this site.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::name::digest;

use crate::model::id::UserName;
use crate::model::intent::{GrantIntent, MemberIntent};
use crate::site::policy::SitePolicy;

/// Users of the system, and words that Slurm's REST re-types; they are nobody's members.
const RESERVED: [&str; 28] = [
    "root",
    "slurm",
    "slurmrest",
    "slurmrestd",
    "nobody",
    "munge",
    "daemon",
    "bin",
    "sys",
    "adm",
    "mysql",
    "systemd",
    "sync",
    "operator",
    "null",
    "yes",
    "no",
    "on",
    "off",
    "true",
    "false",
    "inf",
    "infinity",
    "nan",
    "y",
    "n",
    "t",
    "f",
];

/// Members and their users at this site.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    /// Users by member id.
    pub users: BTreeMap<String, UserName>,
    /// Members who have no user here.
    pub waiting: Vec<String>,
    /// Members whose user is another member's.
    pub taken: Vec<String>,
    /// Members with a user that can not be one.
    pub unfit: Vec<String>,
}

impl Members {
    pub fn read(grant: &GrantIntent, users: Option<&BTreeMap<String, UserName>>, policy: &SitePolicy) -> Self {
        let mut members = Self::default();
        let mut seen = BTreeSet::new();
        let sorted: BTreeMap<&str, &MemberIntent> = grant.members.iter().map(|member| (member.id.as_str(), member)).collect();
        for (id, member) in sorted {
            if policy.refuse_members.contains(id) {
                continue;
            }
            let user = users.and_then(|users| users.get(id)).map(|user| user.as_str().trim()).or(member.slurm_user.as_ref().map(UserName::as_str));
            match user {
                None | Some("") => members.waiting.push(id.to_owned()),
                Some(user) if policy.refuse_members.contains(user) => {}
                Some(user) if !fit(user) => members.unfit.push(id.to_owned()),
                Some(user) if !seen.insert(user.to_owned()) => members.taken.push(id.to_owned()),
                Some(user) => {
                    members.users.insert(id.to_owned(), UserName::new(user));
                }
            }
        }
        members
    }
}

/// The users that those who are, or were, members may be here: what the site's map says, and what the grant does.
pub(super) fn users_of<'a>(grant: &'a GrantIntent, users: Option<&'a BTreeMap<String, UserName>>) -> BTreeSet<&'a UserName> {
    let mapped = |member: &MemberIntent| users.and_then(|users| users.get(&member.id));
    grant.members.iter().chain(&grant.barred).flat_map(|member| [mapped(member), member.slurm_user.as_ref()]).flatten().collect()
}

/// A member in the comment of an association; the id is hashed, since ids are pseudonyms of persons.
pub(super) fn member_hash(id: &str) -> String {
    digest(&[id], 10)
}

fn fit(user: &str) -> bool {
    let lower = user.to_ascii_lowercase();
    user.len() <= 64
        && user.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && user.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@'))
        && !RESERVED.contains(&lower.as_str())
}
