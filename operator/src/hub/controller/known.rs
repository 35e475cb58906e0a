//! The parts of sites that may hold something: when one joins the stored set, and when it leaves.

use std::collections::BTreeSet;
use std::time::Duration;

use aifactory_api::{AIFactory, OwnerRef, Reason};
use aifactory_plan::hub::known_sites::{KnownSite, KnownSites, Membership};
use aifactory_plan::model::report::Finding;
use aifactory_plan::model::site_key::{Part, SiteKey};
use tokio::time::Instant;

use super::outcome::Finished;
use super::{Hub, KNOWN_CHECK};
use crate::hub::known_sites::{self, KnownSitesError};

/// Why nothing is given at a site that can not be stored.
const NO_ROOM: &str = "the hub has no room to remember this site, so that nothing is given there. Shorten slurm.rest.caBundle of the factory's sites to the \
                       certificates that are needed, or take sites out that are not used";
/// Pause before storing the set is tried again.
const RETRY: Duration = Duration::from_secs(2);

impl Hub {
    /// Takes in what an earlier process has stored. Factories that are not there any more are reconciled for the sake of these parts.
    pub(super) fn remember(&mut self, known: Option<KnownSites>) {
        self.known_from_status = known.is_none().then(BTreeSet::new);
        let known = known.unwrap_or_default();
        for factory in known.iter().map(|known| known.key.factory.clone()).collect::<BTreeSet<_>>() {
            self.schedule.add(factory);
        }
        self.cache.known = known.clone();
        self.known = known;
    }

    /// A release before this one stored no set: what it has claimed, status tells.
    pub(super) fn join_from_status(&mut self, owner: &OwnerRef, factory: &AIFactory) {
        if !self.known_from_status.as_mut().is_some_and(|seen| seen.insert(owner.clone())) {
            return;
        }
        for row in factory.status.iter().flat_map(|status| &status.sites) {
            let kubernetes = row.cluster_uid.as_ref().map(|_| SiteKey::new(owner.clone(), &row.name));
            let slurm = row.engines.iter().any(|engine| engine.name == "Slurm").then(|| SiteKey::slurm(owner.clone(), &row.name));
            for key in kubernetes.into_iter().chain(slurm) {
                let identity = row.cluster_uid.clone().filter(|_| key.part == Part::Kubernetes);
                self.join(&key, identity, true);
            }
        }
    }

    /// Takes in what a report of a part about itself means for the set.
    pub(super) fn learn_of(&mut self, key: &SiteKey) {
        let Some(report) = self.site_reports.get(key) else { return };
        let identity = report.cluster_uid.clone();
        match self.known.membership(key, report, || self.reports.any_access(key)) {
            Membership::Leaves => self.known.remove(key),
            Membership::Joins { entered } => self.join(key, identity, entered),
            Membership::Stays => {}
        }
    }

    /// Adds a part to the set, or brings up to date what is remembered of it. `entered`: it has let us in.
    pub(super) fn join(&mut self, key: &SiteKey, identity: Option<String>, entered: bool) {
        let Some(credential) = self.sites.source(key).cloned() else { return };
        let slurm = self.cache.site(key).and_then(|site| site.slurm.clone()).filter(|_| key.part == Part::Slurm);
        let stored = self.known.join(KnownSite { key: key.clone(), credential, slurm, identity, entered });
        if let Some(report) = self.site_reports.get_mut(key).filter(|_| !stored) {
            report.problem = Some(Finding::note(Reason::Pending, NO_ROOM));
        }
    }

    /// Forgets a part that a person has given up and that no spec names.
    pub(super) fn give_up(&mut self, key: &SiteKey) {
        self.known.remove(key);
    }

    pub(super) fn store_known(&mut self) {
        if self.storing_known || self.known_retry_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.known_retry_at = None;
        if self.known == self.cache.known {
            return;
        }
        self.write_known();
    }

    fn write_known(&mut self) {
        self.storing_known = true;
        self.known_writes += 1;
        let (client, namespace, known) = (self.settings.client.clone(), self.settings.namespace.clone(), self.known.clone());
        let panicked = Err(KnownSitesError::Timeout { namespace: namespace.clone() });
        self.spawn(Finished::KnownStored(known.clone(), panicked), async move {
            let result = known_sites::store(&client, &namespace, &known).await;
            Finished::KnownStored(known, result)
        });
    }

    /// Looks whether the set is still stored: somebody may delete it, or put an older one back.
    pub(super) fn check_known(&mut self) {
        let due = self.known_check_at.is_some_and(|at| at <= Instant::now());
        if !due || self.storing_known || self.known != self.cache.known {
            return;
        }
        self.known_check_at = None;
        let (client, namespace) = (self.settings.client.clone(), self.settings.namespace.clone());
        let panicked = Err(KnownSitesError::Timeout { namespace: namespace.clone() });
        let writes = self.known_writes;
        self.spawn(Finished::KnownRead(writes, panicked), async move { Finished::KnownRead(writes, known_sites::load(&client, &namespace).await) });
    }

    pub(super) fn known_read(&mut self, writes: u64, result: Result<Option<KnownSites>, KnownSitesError>) {
        self.known_check_at = Some(Instant::now() + KNOWN_CHECK);
        match result {
            // The set was written since the read began.
            _ if writes != self.known_writes => {}
            Ok(found) if found.as_ref().unwrap_or(&KnownSites::default()) == &self.cache.known => {}
            Err(error @ (KnownSitesError::Api { .. } | KnownSitesError::Timeout { .. })) => {
                tracing::debug!(%error, "The record of sites that may hold something could not be read");
            }
            Ok(_) | Err(KnownSitesError::Unreadable { .. } | KnownSitesError::Entry { .. }) => {
                tracing::warn!("Somebody else changed or deleted the record of sites that may hold something; it is written again");
                self.write_known();
            }
        }
    }

    pub(super) fn known_stored(&mut self, known: KnownSites, result: Result<(), KnownSitesError>) {
        self.storing_known = false;
        match result {
            Ok(()) => {
                let before = std::mem::replace(&mut self.cache.known, known);
                let changed = |one: &KnownSites, other: &KnownSites| -> Vec<OwnerRef> {
                    one.iter().filter(|known| other.get(&known.key) != Some(*known)).map(|known| known.key.factory.clone()).collect()
                };
                let factories: BTreeSet<OwnerRef> =
                    changed(&before, &self.cache.known).into_iter().chain(changed(&self.cache.known, &before)).collect();
                for factory in factories {
                    self.queue_dependents(&factory);
                    self.schedule.add(factory);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "The sites that may hold something could not be stored; nothing is written at a new one until they are");
                self.known_retry_at = Some(Instant::now() + RETRY);
            }
        }
    }
}
