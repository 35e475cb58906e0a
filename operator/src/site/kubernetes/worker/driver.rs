//! The driver's interface to the controller.

use std::sync::Arc;

use aifactory_api::OwnerRef;
use aifactory_plan::engine;
use aifactory_plan::model::intent::{Intent, SiteIntent};
use aifactory_plan::model::report::Finding;
use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::time::Instant;

use super::KubernetesDriver;
use super::session::{Active, Event};
use crate::credential::Fingerprint;
use crate::credential::reader::Look;
use crate::site::connection::Transition;
use crate::site::controller::{Contact, Core, Driver};
use crate::site::kubernetes::contact::{self, NoContact, Session};
use crate::site::kubernetes::watch::Observation;

impl Driver for KubernetesDriver {
    type Session = Active;
    type Found = Session;
    type NoContact = NoContact;
    type Beside = ();
    type Observation = Observation;
    type Event = Event;

    fn core(&mut self) -> &mut Core<Self> {
        &mut self.core
    }

    fn look(&mut self) -> BoxFuture<'static, (Look, ())> {
        let (reader, source) = (self.core.reader.clone(), self.core.source.clone());
        Box::pin(async move { (reader.look(&source).await, ()) })
    }

    fn on_look(&mut self, (): ()) {}

    fn connect(&mut self, site: SiteIntent) -> BoxFuture<'static, Result<Session, NoContact>> {
        let (reader, source) = (self.core.reader.clone(), self.core.source.clone());
        Box::pin(async move { contact::connect(&reader, &source, &site).await })
    }

    fn on_no_contact(&mut self, no_contact: NoContact) -> Finding {
        let NoContact { problem, cluster_uid } = no_contact;
        self.unrecorded_uid = cluster_uid;
        problem
    }

    fn begin(&mut self, id: u64, site: &SiteIntent, found: Session) -> (Active, Fingerprint) {
        let fingerprint = found.fingerprint;
        (self.session(id, site, found), fingerprint)
    }

    fn probe(session: &Active) -> BoxFuture<'static, Result<(), Finding>> {
        let client = session.session.clients.rpc.clone();
        Box::pin(async move { contact::probe(&client).await })
    }

    fn on_transition(&mut self, transition: Transition<Active>) {
        if let Transition::Lost(_) = transition {
            self.hours.unwatched(self.core.connection.last_contact().unwrap_or_else(Timestamp::now));
        }
        self.site_dirty = true;
    }

    fn on_site(&mut self, before: Option<SiteIntent>) -> Contact {
        self.queue_all();
        let Some((before, site)) = before.zip(self.core.site.as_ref()) else { return Contact::Keep };
        let kept = (before.release && !site.release) || (before.left && !site.left);
        if kept {
            // The claim may have been released: contact writes it again, or finds that another factory has claimed the cluster.
            self.released = false;
        }
        let unrecorded = before.recorded && !site.recorded;
        // With a new part of the site, such as a Slurm, other engines are active, and other kinds are watched.
        let served = self.core.connection.session().map(|active| &active.session.served.kinds);
        let watched = served.is_some_and(|served| engine::ALL.watched(&before, served) != engine::ALL.watched(site, served));
        // The fields that decide whether contact succeeds; where they change, it is tried at once.
        let decisive = |site: &SiteIntent| (site.expected_uid.clone(), site.accepted_uid.clone(), site.recorded);
        if kept || unrecorded || watched {
            Contact::Again
        } else if decisive(&before) != decisive(site) {
            Contact::Retry
        } else {
            Contact::Keep
        }
    }

    fn on_intent(&mut self, owner: OwnerRef, before: Option<Arc<Intent>>) {
        let Some(intent) = self.core.intents.get(&owner).cloned() else { return };
        let urgent = intent.takes_access(before.as_deref());
        let changed = self.refusals.set(&owner, Some(&intent));
        self.refused(changed);
        self.pools.set(&owner, Some(&intent));
        self.held_dirty.insert(owner.clone());
        self.schedule.add_anew(owner, urgent);
        self.shared_may_differ();
    }

    fn on_withdrawn(&mut self, owner: OwnerRef) {
        self.forget(&owner);
    }

    fn on_tombstone(&mut self, owner: OwnerRef) {
        self.forget(&owner);
        self.schedule.add_anew(owner, true);
    }

    fn on_observation(&mut self, observation: Observation) {
        self.observe(observation);
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::PolicyTest(session, result) => self.policies_tested(session, result),
            Event::Served(session, found) => self.served(session, found),
            Event::Released(session, result) => self.claim_released(session, result.is_ok()),
            Event::Executed(session, asked, owner, result) => self.executed(session, asked, owner, result),
        }
    }

    fn dispatch(&mut self, now: Instant) {
        self.attend(now);
        self.reconcile_due(now);
    }

    fn report(&mut self, now: Instant) {
        self.report_site(now);
    }

    fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let report = self.site_report_at.filter(|_| self.site_dirty || !self.held_dirty.is_empty());
        [self.schedule.next_wake(now), self.session_deadline(), report].into_iter().flatten().min()
    }
}

impl KubernetesDriver {
    fn forget(&mut self, owner: &OwnerRef) {
        self.findings.remove(owner);
        self.schedule.forget(owner);
        self.pools.set(owner, None);
        let changed = self.refusals.set(owner, None);
        self.refused(changed);
        self.held_dirty.insert(owner.clone());
        self.shared_may_differ();
    }

    /// Queues the factory's own objects: those that several owners share depend on who has something at the site.
    fn shared_may_differ(&mut self) {
        if engine::ALL.shares() {
            self.schedule.add(self.core.key.factory.clone());
        }
    }
}
