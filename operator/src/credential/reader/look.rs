//! Reads Secrets again and again to notice a rotation. Sites whose credentials are in one Secret share these reads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::report::Finding;
use tokio::time::Instant;

use super::{no_key, no_secret};
use crate::credential::Fingerprint;

/// How long the result of a read is shared. It is shorter than the pause between two reads of one site, so that a site never gets its own last result
/// again.
const FRESH: Duration = Duration::from_secs(1);

/// The fingerprints of a Secret's keys; `None` where there is no Secret.
type Seen = Result<Option<BTreeMap<String, Fingerprint>>, Finding>;

/// The result of reading a Secret.
#[derive(Clone, Debug)]
pub struct Look {
    /// When the Secret was read.
    pub read_at: Instant,
    seen: Seen,
}

impl Look {
    pub(super) fn without_secret() -> Self {
        Self { read_at: Instant::now(), seen: Ok(None) }
    }

    /// The fingerprint of the credential. `None`: it is in no Secret.
    pub fn fingerprint(&self, source: &CredentialSource) -> Result<Option<Fingerprint>, Finding> {
        let CredentialSource::Secret { namespace, name, key } = source else { return Ok(None) };
        let keys = self.seen.as_ref().map_err(Finding::clone)?.as_ref().ok_or_else(|| no_secret(namespace, name, key))?;
        keys.get(key).copied().map(Some).ok_or_else(|| no_key(namespace, name, key))
    }

    /// The fingerprint of another key of the Secret, where there is one.
    pub fn of(&self, key: &str) -> Option<Fingerprint> {
        self.seen.as_ref().ok()?.as_ref()?.get(key).copied()
    }
}

/// The last read of each Secret; callers wait for one that is under way.
type Slot = Arc<tokio::sync::Mutex<Option<Look>>>;

/// By namespace and name of the Secret.
#[derive(Clone, Debug, Default)]
pub struct Looks(Arc<Mutex<BTreeMap<(String, String), Slot>>>);

impl Looks {
    /// The result of a recent read, or of a new one.
    pub(super) async fn share(&self, namespace: &str, name: &str, read: impl Future<Output = Seen>) -> Look {
        let slot = self.slot(namespace, name);
        let mut last = slot.lock().await;
        if let Some(look) = last.as_ref().filter(|look| is_fresh(look)) {
            return look.clone();
        }
        let seen = read.await;
        last.insert(Look { read_at: Instant::now(), seen }).clone()
    }

    /// The slot of a Secret; removes slots that have not been used for a while.
    fn slot(&self, namespace: &str, name: &str) -> Slot {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|last| last.as_ref().is_some_and(is_fresh)));
        slots.entry((namespace.to_owned(), name.to_owned())).or_default().clone()
    }
}

fn is_fresh(look: &Look) -> bool {
    look.read_at.elapsed() < FRESH
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use aifactory_api::Reason;
    use futures::future::join_all;
    use tokio::time::{advance, sleep};

    use super::*;

    fn source(key: &str) -> CredentialSource {
        CredentialSource::Secret { namespace: "team".to_owned(), name: "sites".to_owned(), key: key.to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_look_at_one_secret_at_the_same_time_read_it_once() {
        let (looks, reads) = (Looks::default(), AtomicU32::new(0));
        let look = || {
            looks.share("team", "sites", async {
                reads.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(20)).await;
                Ok(Some(BTreeMap::from([("a".to_owned(), Fingerprint::of(b"a"))])))
            })
        };
        let found = join_all((0..50).map(|_| look())).await;
        assert_eq!(reads.load(Ordering::Relaxed), 1);
        assert!(found.iter().all(|look| look.fingerprint(&source("a")) == Ok(Some(Fingerprint::of(b"a")))));
        advance(Duration::from_secs(2)).await;
        look().await;
        assert_eq!(reads.load(Ordering::Relaxed), 2);
        looks.share("team", "another", async { Ok(None) }).await;
        assert_eq!(looks.0.lock().unwrap().len(), 2);
        advance(FRESH).await;
        looks.share("team", "third", async { Ok(None) }).await;
        assert_eq!(looks.0.lock().unwrap().len(), 1, "what nobody looks at any more goes");
    }

    #[tokio::test]
    async fn an_absent_secret_or_key_is_another_problem_than_a_hub_that_does_not_answer() {
        let reason = |look: &Look, key: &str| look.fingerprint(&source(key)).unwrap_err().reason;
        let looks = Looks::default();
        let without_key = looks.share("team", "sites", async { Ok(Some(BTreeMap::new())) }).await;
        assert_eq!(reason(&without_key, "a"), Reason::SecretNotFound);
        let without_secret = looks.share("team", "absent", async { Ok(None) }).await;
        assert_eq!(reason(&without_secret, "a"), Reason::SecretNotFound);
        let silent = looks.share("team", "silent", async { Err(Finding::note(Reason::InternalError, "no answer")) }).await;
        assert_eq!(reason(&silent, "a"), Reason::InternalError);
        assert_eq!(Look::without_secret().fingerprint(&CredentialSource::Local), Ok(None));
    }
}
