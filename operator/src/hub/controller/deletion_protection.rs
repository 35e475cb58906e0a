//! Keeps the list of namespaces with living grants up to date, which the hub's admission policy reads.

use tokio::time::Instant;

use super::Hub;
use super::outcome::Finished;
use crate::hub::deletion_protection;

impl Hub {
    pub(super) fn store_deletion_protection(&mut self) {
        if self.storing_protection
            || (self.protection_stored && !self.grants_changed)
            || self.protection_retry_at.is_some_and(|at| at > Instant::now())
        {
            return;
        }
        self.protection_retry_at = None;
        self.grants_changed = false;
        let protected = self.cache.living_namespaces();
        if self.protection_stored && protected == self.protected_namespaces {
            return;
        }
        self.storing_protection = true;
        self.protected_namespaces.clone_from(&protected);
        let (client, namespace) = (self.settings.client.clone(), self.settings.namespace.clone());
        self.spawn(Finished::ProtectionStored(false), async move {
            Finished::ProtectionStored(deletion_protection::store(&client, &namespace, &protected).await)
        });
    }
}
