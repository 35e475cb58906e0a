//! What a site without Kubernetes says itself, in maps that it keeps as YAML beside the credential.

use std::collections::BTreeMap;

use aifactory_api::labels;
use aifactory_plan::model::id::UserName;
use aifactory_plan::model::intent::SiteConfig;

use crate::credential::Fingerprint;
use crate::credential::reader::Look;
use crate::yaml::{Limits, read_within};

/// The keys of the Secret that hold the maps.
pub const KEYS: [&str; 2] = [labels::SITE_POLICY, labels::SLURM_USERS];

/// The maps as they are in the Secret, by their fingerprints.
pub type Fingerprints = [Option<Fingerprint>; 2];

/// The fingerprints of the maps, as a look has seen them.
pub fn fingerprints(look: &Look) -> Fingerprints {
    KEYS.map(|key| look.of(key))
}

/// The maps as they were read once.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadConfig {
    fingerprints: Fingerprints,
    config: Result<SiteConfig, String>,
}

impl ReadConfig {
    /// Decodes what was read beside the credential.
    pub fn of(texts: &BTreeMap<String, Vec<u8>>) -> Self {
        let config = map(texts, labels::SITE_POLICY).and_then(|policy| Ok(SiteConfig { policy, users: users(map(texts, labels::SLURM_USERS)?) }));
        Self { fingerprints: KEYS.map(|key| texts.get(key).map(|text| Fingerprint::of(text))), config }
    }
}

/// The site's own maps as last read. Maps that can not be decoded leave those that were known before in force, and the credential alone.
#[derive(Debug, Default)]
pub struct OwnConfig {
    fingerprints: Option<Fingerprints>,
    known: Option<SiteConfig>,
    problem: Option<String>,
}

impl OwnConfig {
    /// The maps; `None` until some were read that can be decoded.
    pub fn known(&self) -> Option<&SiteConfig> {
        self.known.as_ref()
    }

    /// What is wrong with the maps.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// The maps as they were when they were read last.
    pub fn fingerprints(&self) -> Option<Fingerprints> {
        self.fingerprints
    }

    /// Takes what was read; says whether other maps are in force now.
    pub fn learn(&mut self, read: ReadConfig) -> bool {
        self.fingerprints = Some(read.fingerprints);
        match read.config {
            Ok(config) => {
                self.problem = None;
                self.known.replace(config) != self.known
            }
            Err(problem) => {
                self.problem = Some(problem);
                false
            }
        }
    }
}

/// Member id to user, as [`SiteConfig::users`].
fn users(map: BTreeMap<String, String>) -> BTreeMap<String, UserName> {
    map.into_iter().map(|(member, user)| (member, UserName::new(user))).collect()
}

fn map(texts: &BTreeMap<String, Vec<u8>>, key: &str) -> Result<BTreeMap<String, String>, String> {
    let Some(text) = texts.get(key) else { return Ok(BTreeMap::new()) };
    let bad = || format!("key {key} of the credential's Secret is no map of text to text; example: `p-4711: u4711`");
    let limits = Limits::UNTRUSTED;
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= limits.bytes).ok_or_else(bad)?;
    let documents = read_within(text, limits).map_err(|_| bad())?;
    let Some(entries) = documents.first().map(|value| value.as_object().ok_or_else(bad)).transpose()? else { return Ok(BTreeMap::new()) };
    Ok(entries.iter().map(|(key, value)| (key.clone(), value.as_str().map(str::to_owned).unwrap_or_else(|| value.to_string()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(policy: &[u8], users: &[u8]) -> ReadConfig {
        ReadConfig::of(&BTreeMap::from([(labels::SITE_POLICY.to_owned(), policy.to_vec()), (labels::SLURM_USERS.to_owned(), users.to_vec())]))
    }

    #[test]
    fn a_typo_leaves_what_was_known_in_force_and_says_where_it_is() {
        let mut own = OwnConfig::default();
        assert!(!own.learn(read(b"", b"- a list")));
        assert_eq!(own.known(), None, "nothing is known before something can be decoded");
        assert!(own.learn(read(b"paused: \"true\"", b"p-1: u1")));
        for bad in [&b"p-1: [u1"[..], b"\xff", b"a: &a [b]\nc: *a", &[b'a'; 100 << 10]] {
            assert!(!own.learn(read(b"", bad)));
            assert_eq!(own.known().map(|config| &config.users), Some(&BTreeMap::from([("p-1".to_owned(), UserName::new("u1"))])));
            assert!(own.problem().is_some_and(|problem| problem.contains(labels::SLURM_USERS)));
        }
        assert!(own.learn(ReadConfig::of(&BTreeMap::new())));
        assert_eq!((own.known(), own.problem()), (Some(&SiteConfig::default()), None));
    }
}
