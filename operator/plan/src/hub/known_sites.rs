//! The parts of sites that may hold something of this hub. They are stored, so that no change of a spec, label or status removes one.
//!
//! A part is added before the first write there. It is removed when it reports, synced, that its claim is released and nothing of ours lives there,
//! or when a person abandons the site.

use std::collections::BTreeMap;

use aifactory_api::slurm::SiteSlurm;
use serde::{Deserialize, Serialize};

use crate::model::credential_source::CredentialSource;
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

/// Every part of a site that may hold something of this hub.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KnownSites(BTreeMap<SiteKey, KnownSite>);

impl KnownSites {
    /// Adds a part, or replaces what is remembered of it.
    pub fn insert(&mut self, known: KnownSite) {
        self.0.insert(known.key.clone(), known);
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
