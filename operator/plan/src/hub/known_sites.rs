//! The parts of sites that may hold something of this hub. They are stored, so that no change of a spec, label or status removes one.
//!
//! A part is added before the first write there. It is removed when it reports, synced, that its claim is released and nothing of ours lives there,
//! or when a person abandons the site.

use std::collections::BTreeMap;

use aifactory_api::Reason;
use aifactory_api::slurm::SiteSlurm;
use serde::{Deserialize, Serialize};

use crate::model::credential_source::CredentialSource;
use crate::model::report::{Held, SiteReport};
use crate::model::site_key::SiteKey;

/// What is remembered of one part of a site: enough to reach it again when its factory does not name it any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownSite {
    /// The part.
    pub key: SiteKey,
    /// Where its credential is.
    pub credential: CredentialSource,
    /// How its Slurm is reached; `None` for a Kubernetes.
    pub slurm: Option<SiteSlurm>,
    /// UID of the Kubernetes cluster, or the id in the claim on the Slurm cluster; `None`: never reported.
    pub identity: Option<String>,
    /// Whether contact has succeeded since the part was stored. Before that it holds nothing of this hub.
    #[serde(default)]
    pub entered: bool,
}

impl KnownSite {
    /// Bytes that it takes in the ConfigMap, its key there included.
    fn size(&self) -> usize {
        serde_json::to_string(self).map_or(OF_FACTORY, |text| text.len() + 253)
    }
}

/// Every part of a site that may hold something of this hub.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KnownSites(BTreeMap<SiteKey, KnownSite>);

/// The most that is remembered of all parts, in bytes: a ConfigMap holds 1 MiB. That is some 2,000 parts without certificates.
const ALL: usize = 900 << 10;
/// The most that is remembered of the parts of one factory, so that one team's long `caBundle`s leave room for others.
const OF_FACTORY: usize = 256 << 10;

/// What a report of a part about itself means for the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// The part joins, or what is remembered of it changes. `entered`: contact has succeeded.
    Joins {
        /// See [`KnownSite::entered`].
        entered: bool,
    },
    /// The part leaves.
    Leaves,
    /// Nothing changes.
    Stays,
}

impl KnownSites {
    /// What a report of a part about itself means. `any_access` says whether a report about a grant says that members still have access there.
    pub fn membership(&self, key: &SiteKey, report: &SiteReport, any_access: impl FnOnce() -> bool) -> Membership {
        let says = |reason: Reason| report.problem.as_ref().is_some_and(|problem| problem.reason == reason);
        let known = self.0.get(key);
        let live = report.held.values().any(|held| *held != Held::Retained);
        // Two that found the cluster free at the same time were both stored; whom it refuses has never been let in.
        let refused = says(Reason::SiteClaimed) && known.is_some_and(|known| !known.entered);
        if refused || (report.released && report.synced && !live && !any_access()) {
            return Membership::Leaves;
        }
        // The worker has made contact, and waits before it writes.
        let waits = !report.reachable && says(Reason::Pending);
        let met = report.reachable && (!report.released || live);
        let identity = &report.cluster_uid;
        let is_news = known.is_none_or(|known| (identity.is_some() && known.identity != *identity) || (met && !known.entered));
        if (waits || met) && is_news { Membership::Joins { entered: met } } else { Membership::Stays }
    }

    /// Adds a part, or brings up to date what is remembered of it: what is not known now is kept. Returns whether there is room for it. Of a part that is in
    /// the set the former `slurm` is kept where there is no room for another.
    pub fn join(&mut self, known: KnownSite) -> bool {
        let before = self.0.get(&known.key);
        let known = KnownSite {
            slurm: known.slurm.or_else(|| before?.slurm.clone()),
            identity: known.identity.or_else(|| before?.identity.clone()),
            entered: known.entered || before.is_some_and(|before| before.entered),
            ..known
        };
        let others = || self.0.values().filter(|other| other.key != known.key);
        let of_factory: usize = others().filter(|other| other.key.factory == known.key.factory).map(KnownSite::size).sum();
        let fits = of_factory + known.size() <= OF_FACTORY && others().map(KnownSite::size).sum::<usize>() + known.size() <= ALL;
        match self.0.get_mut(&known.key) {
            Some(before) if !fits => *before = KnownSite { slurm: before.slurm.take(), ..known },
            None if !fits => return false,
            Some(_) | None => {
                self.0.insert(known.key.clone(), known);
            }
        }
        true
    }

    /// Forgets a part.
    pub fn remove(&mut self, key: &SiteKey) {
        self.0.remove(key);
    }

    /// What is remembered of a part.
    pub fn get(&self, key: &SiteKey) -> Option<&KnownSite> {
        self.0.get(key)
    }

    /// Whether this part may hold something of this hub.
    pub fn contains(&self, key: &SiteKey) -> bool {
        self.0.contains_key(key)
    }

    /// Every part, in the order of its key.
    pub fn iter(&self) -> impl Iterator<Item = &KnownSite> {
        self.0.values()
    }
}

impl FromIterator<KnownSite> for KnownSites {
    fn from_iter<I: IntoIterator<Item = KnownSite>>(known: I) -> Self {
        Self(known.into_iter().map(|known| (known.key.clone(), known)).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use aifactory_api::{Kind, OwnerRef};
    use serde_json::json;

    use super::*;

    fn site(factory: &str, site: usize, bundle: usize) -> KnownSite {
        let rest = json!({"url": "https://slurm.example.org", "tokenSecretRef": {"name": "t", "key": "t"}, "caBundle": "x".repeat(bundle)});
        KnownSite {
            key: SiteKey::slurm(OwnerRef::new(Kind::AIFactory, factory, factory), format!("site-{site}")),
            credential: CredentialSource::Local,
            slurm: Some(serde_json::from_value(json!({"clusterName": "c", "rest": rest})).unwrap()),
            identity: None,
            entered: false,
        }
    }

    fn bytes(known: &KnownSites) -> usize {
        known.iter().map(|known| serde_json::to_string(known).unwrap().len() + 253).sum()
    }

    #[test]
    fn the_long_certificates_of_one_team_leave_room_for_others() {
        let mut known = KnownSites::default();
        let taken = (0..20).filter(|index| known.join(site("greedy", *index, 16_384))).count();
        assert!((10..20).contains(&taken), "{taken}");
        for factory in 0..5 {
            assert!((0..10).all(|index| known.join(site(&format!("f{factory}"), index, 2_000))), "{factory}");
        }
        assert!(bytes(&known) < 1 << 20);
        for factory in 0..5 {
            (0..20).for_each(|index| {
                known.join(site(&format!("g{factory}"), index, 16_384));
            });
        }
        assert!(bytes(&known) <= ALL);
    }

    #[test]
    fn a_part_that_is_in_the_set_stays_and_keeps_what_there_was_room_for() {
        let mut known = KnownSites::default();
        (0..64).for_each(|index| assert!(known.join(site("greedy", index, 10))));
        for index in 0..64 {
            let longer = KnownSite { entered: true, ..site("greedy", index, 16_384) };
            assert!(known.join(longer.clone()));
            assert!(known.get(&longer.key).unwrap().entered);
        }
        assert_eq!(known.get(&site("greedy", 63, 0).key).unwrap().slurm, site("greedy", 63, 10).slurm);
        assert!(bytes(&known) <= OF_FACTORY);
    }
}
