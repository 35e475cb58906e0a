//! Keeps the list of namespaces with living grants up to date, which the hub's admission policy reads.

use tokio::time::Instant;

use super::Hub;
use super::outcome::Finished;
use crate::hub::deletion_protection;

impl Hub {
    pub(super) fn store_living(&mut self) {
        if self.storing || (self.living_stored && !self.grants_changed) || self.living_retry_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.living_retry_at = None;
        self.grants_changed = false;
        let living = self.cache.living_namespaces();
        if self.living_stored && living == self.living {
            return;
        }
        self.storing = true;
        self.living.clone_from(&living);
        let (client, namespace) = (self.settings.client.clone(), self.settings.namespace.clone());
        self.spawn(Finished::Living(false), async move { Finished::Living(deletion_protection::store(&client, &namespace, &living).await) });
    }
}
