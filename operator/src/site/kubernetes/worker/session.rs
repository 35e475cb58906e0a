//! Whether the site answers, with which credential, and whether its policies guard it.

use super::*;

impl Worker {
    /// A credential that was replaced is used at once, whether the site answered to the former one or not.
    pub(super) fn looked(&mut self, result: Result<Option<Fingerprint>, Finding>) {
        self.looking = false;
        self.look_at = Instant::now() + ROTATION;
        let found = match result {
            Ok(Some(found)) => Ok(found),
            Ok(None) => return,
            // The hub does not answer: the credential in use is still the last one known.
            Err(problem) if problem.reason == Reason::InternalError => return,
            Err(problem) => Err(problem),
        };
        let known = match &self.active {
            Some(active) => Some(Ok(active.session.fingerprint)),
            None => self.credential,
        };
        let seen = found.as_ref().map(|found| *found).map_err(|problem| problem.reason);
        self.credential = Some(seen);
        if known.is_some_and(|known| known != seen) {
            tracing::info!(site = %self.key, "The credential changed");
            self.contact_pause = CONTACT.0;
            self.disconnect(found.err());
        }
    }

    pub(super) fn probed(&mut self, session: u64, result: Result<(), Finding>) {
        let Some(active) = self.active.as_mut().filter(|active| active.id == session) else { return };
        active.probing = false;
        match result {
            Ok(()) => {
                active.failed_probes = 0;
                active.probe_at = Instant::now() + PROBE;
                self.last_contact = Some(Timestamp::now());
            }
            Err(problem) => {
                active.failed_probes += 1;
                active.probe_at = Instant::now();
                if active.failed_probes >= 2 {
                    tracing::warn!(site = %self.key, reason = %problem.reason, "Lost: {}", problem.message);
                    self.disconnect(Some(problem));
                }
            }
        }
    }

    /// What is watched is decided at contact, so an engine that was installed or taken away needs another.
    pub(super) fn served(&mut self, session: u64, found: Result<Served, Finding>) {
        let known = self.active.as_ref().filter(|active| active.id == session).map(|active| &active.session.served);
        if let (Some(known), Ok(found)) = (known, found)
            && *known != found
        {
            tracing::info!(site = %self.key, "The site serves other engines");
            self.disconnect(None);
        }
    }

    pub(super) fn disconnect(&mut self, problem: Option<Finding>) {
        if self.active.is_some() {
            self.hours.unwatched(self.last_contact.unwrap_or_else(Timestamp::now));
        }
        self.active = None;
        if let Some(contact) = self.contacting.take() {
            contact.abort();
        }
        self.contact_at = Some(Instant::now());
        self.problem = problem;
        self.site_dirty = true;
    }

    /// Begins to make contact where there is none.
    pub(super) fn contact(&mut self) {
        let Some(site) = &self.site else { return };
        if self.active.is_some() || self.contacting.is_some() || self.contact_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        let (reader, source, site) = (self.reader.clone(), self.source.clone(), site.clone());
        self.contacting = Some(self.tasks.spawn(async move { Event::Contact(contact::connect(&reader, &source, &site).await) }));
    }

    /// Begins probes and tests that are due.
    pub(super) fn attend(&mut self) {
        let releasable = self.releasable();
        if self.site.is_some() && !self.looking && self.look_at <= Instant::now() {
            self.looking = true;
            let (reader, source) = (self.reader.clone(), self.source.clone());
            self.tasks.spawn(async move { Event::Look(reader.fingerprint(&source).await) });
        }
        let Some(active) = &mut self.active else { return };
        let (now, id, client) = (Instant::now(), active.id, active.session.clients.rpc.clone());
        let later = now + Duration::from_secs(3600);
        if active.probe_at <= now && !active.probing {
            active.probing = true;
            let client = client.clone();
            self.tasks.spawn(async move { Event::Probe(id, contact::probe(&client).await) });
        }
        if active.policy_test_at <= now {
            active.policy_test_at = later;
            let tested = client.clone();
            self.tasks.spawn(async move { Event::PolicyTest(id, check_policies(&tested).await) });
            let asked = client.clone();
            self.tasks.spawn(async move { Event::Served(id, Served::by(&asked).await) });
        }
        if releasable && !active.releasing && !self.released {
            active.releasing = true;
            self.tasks.spawn(async move { Event::Released(id, contact::release(&client).await) });
        }
    }

    pub(super) fn releasable(&self) -> bool {
        self.synced()
            && self.site.as_ref().is_some_and(|site| site.release)
            && self.schedule.busy() == 0
            && self.held().values().all(|held| *held == Held::Retained)
    }
}
