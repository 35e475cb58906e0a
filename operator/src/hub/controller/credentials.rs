//! Removes our finalizer from Secrets with sites' credentials once no site uses any key of the Secret.

use std::collections::BTreeSet;
use std::sync::Arc;

use aifactory_api::{AIFactory, Kind, OwnerRef};
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::site_key::SiteKey;
use tokio::time::Instant;

use super::Hub;
use super::outcome::Finished;
use crate::hub::sites::{parts, source};

/// A Secret on the hub.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SecretName {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl SecretName {
    /// The Secret of a credential; `None` for a local site.
    pub(super) fn of(source: &CredentialSource) -> Option<Self> {
        match source {
            CredentialSource::Secret { namespace, name, .. } => Some(Self { namespace: namespace.clone(), name: name.clone() }),
            CredentialSource::Local => None,
        }
    }
}

impl Hub {
    /// Whether a part of some site uses this Secret: its controller, the spec of its factory, or, where that can not be read, the stored record of
    /// the part. Parts of the factory `without` do not count.
    fn uses_secret(&self, secret: &SecretName, without: Option<&OwnerRef>) -> bool {
        let is = |source: &CredentialSource| SecretName::of(source).as_ref() == Some(secret);
        let counts = |key: &SiteKey| Some(&key.factory) != without;
        let named = |(owner, factory): (&OwnerRef, &Arc<AIFactory>)| {
            let keys = factory.spec.sites.iter().flat_map(|site| parts(owner, site).into_iter().map(move |key| (key, site)));
            keys.filter(|(key, _)| counts(key)).any(|(key, site)| source(&key, site).is_ok_and(|source| is(&source)))
        };
        self.sites.used(&is, &counts)
            || self.cache.factories().any(named)
            || self.known.iter().any(|known| counts(&known.key) && is(&known.credential))
    }

    /// The Secrets of a factory that is being deleted, except those that other factories use.
    pub(super) fn secrets_of_only(&self, owner: &OwnerRef) -> Vec<SecretName> {
        let sources = self.sites.of(owner).into_iter().filter_map(|key| self.sites.source(&key).cloned());
        let secrets: BTreeSet<SecretName> = sources.filter_map(|source| SecretName::of(&source)).collect();
        secrets.into_iter().filter(|secret| !self.uses_secret(secret, Some(owner))).collect()
    }

    /// Whether this factory is the last one in its namespace, so that the right to read Secrets there can be removed with it.
    pub(super) fn is_last_in_namespace(&self, owner: &OwnerRef) -> bool {
        let other = |known: &&OwnerRef| known.kind == Kind::AIFactory && known.namespace == owner.namespace && *known != owner;
        !self.cache.factories().map(|(known, _)| known).chain(self.undecodable.keys()).any(|known| other(&known))
    }

    /// Queues a check whether the Secret of a credential that a site's controller has used is still needed.
    pub(super) fn release_unused(&mut self, source: Option<CredentialSource>) {
        if let Some(secret) = source.as_ref().and_then(SecretName::of) {
            self.releases.add(secret);
        }
    }

    /// Starts to remove the finalizer from Secrets that no site uses any more.
    pub(super) fn release_due(&mut self) {
        while let Some(secret) = self.releases.next(Instant::now()) {
            if self.uses_secret(&secret, None) {
                self.releases.done(&secret);
                continue;
            }
            let reader = self.settings.reader.clone();
            let failed = Finished::SecretReleased(secret.clone(), false);
            self.spawn(failed, async move {
                let released = reader.release_secret(&secret.namespace, &secret.name).await.is_ok();
                Finished::SecretReleased(secret, released)
            });
        }
    }
}
