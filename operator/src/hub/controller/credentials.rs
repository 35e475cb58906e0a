//! Secrets with sites' credentials that carry our finalizer: it goes when nobody uses the Secret any more, whatever key of it.

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
    /// Whether a part of some site is reached with this Secret: by its worker, by the spec of its factory, or, where that can not be read, by what is
    /// stored of the part. Parts of the factory `without` do not count.
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

    /// The Secrets of a factory that goes, less those that others use.
    pub(super) fn secrets_of_only(&self, owner: &OwnerRef) -> Vec<SecretName> {
        let sources = self.sites.of(owner).into_iter().filter_map(|key| self.sites.source(&key).cloned());
        let secrets: BTreeSet<SecretName> = sources.filter_map(|source| SecretName::of(&source)).collect();
        secrets.into_iter().filter(|secret| !self.uses_secret(secret, Some(owner))).collect()
    }

    /// Whether no other factory is in the namespace of this one, so that the right to read Secrets there may go with it.
    pub(super) fn is_last_in_namespace(&self, owner: &OwnerRef) -> bool {
        let other = |known: &&OwnerRef| known.kind == Kind::AIFactory && known.namespace == owner.namespace && *known != owner;
        !self.cache.factories().map(|(known, _)| known).chain(self.undecodable.keys()).any(|known| other(&known))
    }

    /// Looks soon whether the Secret of a credential that a worker has used is still needed.
    pub(super) fn release_unused(&mut self, source: Option<CredentialSource>) {
        if let Some(secret) = source.as_ref().and_then(SecretName::of) {
            self.releases.add(secret);
        }
    }

    /// Begins to take the finalizer off Secrets that nobody uses any more.
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
