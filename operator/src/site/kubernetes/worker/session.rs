//! A session with a site's Kubernetes: its watches, the repeated test of the site's policies, and the release of its claim.

use std::collections::BTreeSet;
use std::time::Duration;

use aifactory_api::{OwnerRef, Reason};
use aifactory_plan::engine;
use aifactory_plan::model::freshness::Moment;
use aifactory_plan::model::intent::SiteIntent;
use aifactory_plan::model::report::{Finding, Held};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{KubernetesDriver, Listing, REQUESTS};
use crate::site::connection::{Backoff, Turn};
use crate::site::controller;
use crate::site::kubernetes::apply::{Applier, Outcome};
use crate::site::kubernetes::contact::{self, Served, Session, check_policies};
use crate::site::kubernetes::watch::watch;

/// How often the site's policies are tested.
const POLICY_TEST: Duration = Duration::from_secs(60);
/// How soon they are tested again where a test failed, at first and at most.
const POLICY_TEST_AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Pause before the release of a claim that failed is tried again, at first and at most.
const RELEASE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// The state of a session.
pub(super) struct Active {
    pub session: Session,
    pub applier: Applier,
    _watches: JoinSet<()>,
    pub unlisted: BTreeSet<Listing>,
    policy_test: Turn,
    policy_test_backoff: Backoff,
    /// The site's policies are not in force, or could not be tested: only access is removed.
    pub unguarded: Option<Finding>,
    release: Turn,
    release_backoff: Backoff,
}

/// Result of a task of a session.
pub(super) enum Event {
    PolicyTest(u64, Result<(), Finding>),
    Served(u64, Result<Served, Finding>),
    Executed(u64, Moment, OwnerRef, Result<Outcome, String>),
    Released(u64, Result<(), Finding>),
}

impl KubernetesDriver {
    /// Starts a session and its watches.
    pub(super) fn session(&mut self, id: u64, site: &SiteIntent, found: Session) -> Active {
        let kinds = engine::ALL.watched(site, &found.served.kinds);
        let watches = watch(&found.clients.watch, &self.core.metrics, &site.hub, &kinds, &self.core.watches(), id);
        let now = Instant::now();
        let unguarded = found.unguarded.clone();
        let mut policy_test_backoff = Backoff::new(POLICY_TEST_AGAIN.0, POLICY_TEST_AGAIN.1);
        let tested_in = if unguarded.is_some() { policy_test_backoff.failed() } else { POLICY_TEST };
        self.unrecorded_uid = None;
        Active {
            applier: Applier::new(found.clients.rpc.clone(), &site.hub, REQUESTS),
            session: found,
            _watches: watches,
            unlisted: kinds.into_iter().map(Listing::Kind).chain([Listing::Nodes, Listing::Pods, Listing::Policy, Listing::SlurmUsers]).collect(),
            policy_test: Turn::At(now + tested_in),
            policy_test_backoff,
            unguarded,
            release: Turn::At(now),
            release_backoff: Backoff::new(RELEASE.0, RELEASE.1),
        }
    }

    /// Starts the tasks of a session that are due, apart from reconciling.
    pub(super) fn attend(&mut self, now: Instant) {
        let releasable = self.releasable();
        let Some((id, active)) = self.core.connection.id().zip(self.core.connection.session_mut()) else { return };
        let client = active.session.clients.rpc.clone();
        let (test, release) = (active.policy_test.take(now), releasable && active.release.take(now));
        let panicked = || Finding::stalled(Reason::InternalError, "the operator failed while it talked with the site; its log says where");
        if test {
            let (tested, asked) = (client.clone(), client.clone());
            self.core.spawn(Event::PolicyTest(id, Err(panicked())), async move { Event::PolicyTest(id, check_policies(&tested).await) });
            self.core.spawn(Event::Served(id, Err(panicked())), async move { Event::Served(id, Served::by(&asked).await) });
        }
        if release {
            self.core.spawn(Event::Released(id, Err(panicked())), async move { Event::Released(id, contact::release(&client).await) });
        }
    }

    /// When the next task of the session is due, apart from reconciling.
    pub(super) fn session_deadline(&self) -> Option<Instant> {
        let active = self.core.connection.session()?;
        let release = active.release.deadline().filter(|_| self.releasable());
        active.policy_test.deadline().into_iter().chain(release).min()
    }

    pub(super) fn policies_tested(&mut self, session: u64, result: Result<(), Finding>) {
        let Some(active) = self.core.connection.session_of(session) else { return };
        let pause = if result.is_ok() { POLICY_TEST } else { active.policy_test_backoff.failed() };
        if result.is_ok() {
            active.policy_test_backoff.reset();
        }
        active.policy_test = Turn::At(Instant::now() + pause);
        let unguarded = match result {
            Ok(()) => None,
            Err(problem) if problem.reason == Reason::SitePoliciesMissing => Some(problem),
            // A test that could not be made changes nothing: policies that were missing still count as missing.
            Err(_) => return,
        };
        if active.unguarded == unguarded {
            return;
        }
        if unguarded.is_none() && !active.session.claimed {
            // Contact is made again, since it writes the claim, which must be there before any other write.
            controller::disconnect(self, None);
            return;
        }
        active.unguarded = unguarded;
        self.site_dirty = true;
        self.queue_all();
    }

    /// Contact decides which kinds are watched, so it is made again after an engine was installed or removed.
    pub(super) fn served(&mut self, session: u64, found: Result<Served, Finding>) {
        let known = self.core.connection.session_of(session).map(|active| &active.session.served);
        if let (Some(known), Ok(found)) = (known, found)
            && *known != found
        {
            tracing::info!(site = %self.core.key, "The site serves other engines");
            controller::disconnect(self, None);
        }
    }

    pub(super) fn claim_released(&mut self, session: u64, released: bool) {
        let Some(active) = self.core.connection.session_of(session) else { return };
        let pause = if released { Duration::ZERO } else { active.release_backoff.failed() };
        active.release = Turn::At(Instant::now() + pause);
        self.released = released;
        self.site_dirty = true;
    }

    /// Whether the claim is to be released now.
    fn releasable(&self) -> bool {
        !self.released
            && self.synced()
            && self.core.site.as_ref().is_some_and(|site| site.release)
            && self.schedule.busy() == 0
            && self.held().values().all(|held| *held == Held::Retained)
    }
}
