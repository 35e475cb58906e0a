//! How a site's Slurm is driven: what its controller asks of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use aifactory_api::{Kind, OwnerRef};
use aifactory_plan::model::intent::{Intent, SiteIntent};
use aifactory_plan::model::report::Finding;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::session::{Found, connect};
use super::site_config::{KEYS, ReadConfig, fingerprints};
use super::{Event, GATHER, Session, SlurmDriver};
use crate::credential::Fingerprint;
use crate::credential::reader::Look;
use crate::site::connection::Transition;
use crate::site::controller::{Contact, Core, Driver};
use crate::site::slurm::contact;

impl Driver for SlurmDriver {
    type Session = Session;
    type Found = Found;
    type NoContact = Finding;
    type Beside = Option<ReadConfig>;
    type Observation = ();
    type Event = Event;

    fn core(&mut self) -> &mut Core<Self> {
        &mut self.core
    }

    /// The site's own maps are read where they have changed.
    fn look(&mut self) -> BoxFuture<'static, (Look, Option<ReadConfig>)> {
        let (reader, source, known) = (self.core.reader.clone(), self.core.source.clone(), self.own_config.fingerprints());
        Box::pin(async move {
            let look = reader.look(&source).await;
            let moved = look.fingerprint(&source).is_ok() && known.is_some_and(|known| known != fingerprints(&look));
            let read = if moved { reader.secret(&source, &KEYS).await.ok() } else { None };
            (look, read.map(|(_, texts)| ReadConfig::of(&texts)))
        })
    }

    fn on_look(&mut self, config: Option<ReadConfig>) {
        if config.is_some_and(|config| self.own_config.learn(config)) {
            self.resync_at = Instant::now();
        }
    }

    fn connect(&mut self, site: SiteIntent) -> BoxFuture<'static, Result<Found, Finding>> {
        let (reader, source) = (self.core.reader.clone(), self.core.source.clone());
        Box::pin(async move { connect(&reader, &source, &site).await })
    }

    fn on_no_contact(&mut self, problem: Finding) -> Finding {
        problem
    }

    fn begin(&mut self, _: u64, _: &SiteIntent, found: Found) -> (Session, Fingerprint) {
        self.own_config.learn(found.config);
        // slurmdbd, or slurmctld, may be another process than before.
        self.heard.confirmed.clear();
        self.resync_at = Instant::now();
        self.usage_at = Instant::now();
        (found.session, found.fingerprint)
    }

    fn probe(session: &Session) -> BoxFuture<'static, Result<(), Finding>> {
        let (client, contact) = (session.client.clone(), session.contact.clone());
        Box::pin(async move { contact::probe(&client, &contact).await })
    }

    fn on_transition(&mut self, transition: Transition<Session>) {
        if let Transition::Lost(_) = transition {
            // A pass of the former session may still write; its outcome is not believed.
            self.held = None;
        }
    }

    fn correct(&self, mut site: SiteIntent) -> SiteIntent {
        site.expected_uid = site.expected_uid.filter(|id| self.given_up.as_ref() != Some(id));
        site
    }

    fn on_site(&mut self, before: Option<SiteIntent>) -> Contact {
        let Some(site) = &self.core.site else { return Contact::Keep };
        self.released &= site.release;
        self.resync_at = Instant::now();
        let reached = |site: &SiteIntent| site.slurm.as_ref().map(|slurm| (slurm.cluster_name.clone(), slurm.rest.clone()));
        if before.as_ref().and_then(reached) != reached(site) {
            Contact::Restart
        } else if self.must_contact_again(before.as_ref(), site) {
            Contact::Again
        } else {
            Contact::Keep
        }
    }

    fn on_intent(&mut self, owner: OwnerRef, before: Option<Arc<Intent>>) {
        let Some(intent) = self.core.intents.get(&owner) else { return };
        match owner.kind {
            Kind::AccessGrant => {
                let urgent = intent.takes_access(before.as_deref());
                self.dirty.insert(owner);
                // New grants wait for the end of a pass, and go together then.
                self.news.fetch_or(before.is_some() || urgent, Ordering::Relaxed);
                self.gather(urgent);
            }
            Kind::GPUPool | Kind::AIFactory => self.report_pool(&owner),
        }
    }

    fn on_withdrawn(&mut self, owner: OwnerRef) {
        self.forget(&owner);
    }

    fn on_tombstone(&mut self, owner: OwnerRef) {
        self.forget(&owner);
        // Otherwise something of it may be there again later, from a backup of the database.
        if self.held.as_ref().is_none_or(|held| held.contains_key(&owner)) {
            self.dirty.insert(owner);
            self.news.store(true, Ordering::Relaxed);
            self.gather(true);
        }
    }

    fn on_observation(&mut self, (): ()) {}

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Pass(session, pass) => self.passed(session, *pass),
            Event::PassPanicked => self.pass_panicked(),
            Event::Usage(session, usage, cycle) => self.counted(session, *usage, *cycle),
            Event::UsagePanicked => self.usage_panicked(),
        }
    }

    fn dispatch(&mut self, _: Instant) {
        self.begin_pass();
        self.begin_usage();
    }

    fn report(&mut self, _: Instant) {
        self.report_site();
    }

    fn deadline(&mut self, _: Instant) -> Option<Instant> {
        self.core.connection.session()?;
        let idle = [self.dirty_at, Some(self.resync_at), self.wake.values().min().copied()].into_iter().flatten().filter(|_| !self.passing);
        let usage = Some(self.usage_due()).filter(|_| self.usage.is_some() && self.held.is_some());
        idle.chain(usage).min()
    }
}

impl SlurmDriver {
    /// A pass begins at once, or when no more intents come.
    fn gather(&mut self, urgent: bool) {
        let now = Instant::now();
        let since = *self.gathering.get_or_insert(now);
        if urgent {
            self.dirty_at = Some(now);
        } else if self.dirty_at.is_none_or(|at| at > now) {
            self.dirty_at = Some((now + GATHER.0).min(since + GATHER.1));
        }
    }

    fn forget(&mut self, owner: &OwnerRef) {
        self.plans.remove(owner);
        self.failures.remove(owner);
        self.wake.remove(owner);
    }
}
