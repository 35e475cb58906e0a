//! The state machine of a connection to a site: credential, contact, probes, rotation, back-off and loss, the same for Kubernetes and Slurm.
//!
//! A plain value: it takes events and returns the tasks that are due. The controller that owns it runs the tasks and sleeps until
//! [`Connection::deadline`], which follows from the state: a task that [`Connection::due`] has returned has no deadline until it ends.

#[cfg(test)]
mod tests;
mod turn;

use std::mem;
use std::time::Duration;

use aifactory_api::Reason;
use aifactory_plan::model::report::Finding;
use jiff::Timestamp;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::clock::Now;
use crate::credential::Fingerprint;
pub use turn::{Backoff, Turn};

/// How often a site is probed.
pub const PROBE: Duration = Duration::from_secs(3);
/// The longest wait for the answer to a probe: with it, two failures in a row are known within 15 s.
pub const PROBE_LIMIT: Duration = Duration::from_secs(6);
/// How often a Secret is read to notice a new credential.
pub const LOOK: Duration = Duration::from_secs(2);
/// The pause before a site that did not answer is contacted again, at first and at most.
pub const CONTACT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// A task of the connection. The caller reports its end to the connection, also where it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Read which credential is there; ends with [`Connection::looked`].
    Look,
    /// Make contact; ends with [`Connection::connected`] or [`Connection::failed`] and this number.
    Contact(u64),
    /// Probe the session of this number; ends with [`Connection::probed`].
    Probe(u64),
}

/// What an event has changed.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Transition<S> {
    /// Nothing outside of the connection.
    Unchanged,
    /// A session has begun.
    Connected,
    /// There is still no session; the problem may be another one.
    Apart,
    /// This session has ended.
    Lost(S),
}

/// A connection with sessions of type `S`.
#[derive(Debug)]
pub struct Connection<S> {
    /// The site's name in the log.
    label: String,
    state: State<S>,
    look: Turn,
    /// The credential that the last look has found.
    seen: Option<Result<Fingerprint, Reason>>,
    /// Whether the credential is in a Secret.
    watches: bool,
    backoff: Backoff,
    /// The number of the last contact; a session has the number of the contact that began it.
    contacts: u64,
    last_contact: Option<Timestamp>,
}

#[derive(Debug)]
enum State<S> {
    /// Contact was not asked for yet.
    Idle,
    /// There is no usable credential; the next look may find one.
    NoCredential {
        problem: Finding,
    },
    Waiting {
        retry_at: Instant,
        problem: Option<Finding>,
    },
    Connecting {
        problem: Option<Finding>,
        _task: Option<AbortOnDrop>,
    },
    Active {
        session: S,
        fingerprint: Option<Fingerprint>,
        probe: Turn,
        failed_probes: u32,
    },
}

/// Aborts the task of a contact when this is dropped.
#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<S> Connection<S> {
    /// A connection that was not asked for yet. `watches`: the credential is in a Secret, which is read again and again.
    pub fn new(label: String, watches: bool) -> Self {
        Self {
            label,
            state: State::Idle,
            look: Turn::Never,
            seen: None,
            watches,
            backoff: Backoff::new(CONTACT.0, CONTACT.1),
            contacts: 0,
            last_contact: None,
        }
    }

    /// The session, while there is one.
    pub fn session(&self) -> Option<&S> {
        match &self.state {
            State::Active { session, .. } => Some(session),
            State::Idle | State::NoCredential { .. } | State::Waiting { .. } | State::Connecting { .. } => None,
        }
    }

    /// The session, while there is one.
    pub fn session_mut(&mut self) -> Option<&mut S> {
        match &mut self.state {
            State::Active { session, .. } => Some(session),
            State::Idle | State::NoCredential { .. } | State::Waiting { .. } | State::Connecting { .. } => None,
        }
    }

    /// The number of the session, while there is one.
    pub fn id(&self) -> Option<u64> {
        self.session().map(|_| self.contacts)
    }

    /// Whether this is the number of the present session; events of former sessions are dropped.
    pub fn is(&self, id: u64) -> bool {
        self.id() == Some(id)
    }

    /// The session, where it has this number.
    pub fn session_of(&mut self, id: u64) -> Option<&mut S> {
        if self.is(id) { self.session_mut() } else { None }
    }

    /// Whether the contact of this number is the one that is being made.
    pub fn awaits(&self, contact: u64) -> bool {
        matches!(self.state, State::Connecting { .. }) && self.contacts == contact
    }

    /// Why there is no session, where that is known.
    pub fn problem(&self) -> Option<&Finding> {
        match &self.state {
            State::NoCredential { problem } => Some(problem),
            State::Waiting { problem, .. } | State::Connecting { problem, .. } => problem.as_ref(),
            State::Idle | State::Active { .. } => None,
        }
    }

    /// When the site answered last.
    pub fn last_contact(&self) -> Option<Timestamp> {
        self.last_contact
    }

    /// The site has answered something else.
    pub fn answered(&mut self, at: Timestamp) {
        self.last_contact = Some(at);
    }

    /// When something is due next; after [`Connection::due`] this is never in the past.
    pub fn deadline(&self) -> Option<Instant> {
        let own = match &self.state {
            State::Waiting { retry_at, .. } => Some(*retry_at),
            State::Active { probe, .. } => probe.deadline(),
            State::Idle | State::NoCredential { .. } | State::Connecting { .. } => None,
        };
        own.into_iter().chain(self.look.deadline()).min()
    }

    /// The tasks that are due; the caller starts them, and they count as running from now on.
    pub fn due(&mut self, now: Instant) -> Vec<Task> {
        let mut tasks = Vec::new();
        if self.look.take(now) {
            tasks.push(Task::Look);
        }
        match &mut self.state {
            State::Waiting { retry_at, problem } if *retry_at <= now => {
                self.contacts += 1;
                tasks.push(Task::Contact(self.contacts));
                self.state = State::Connecting { problem: problem.take(), _task: None };
            }
            State::Active { probe, .. } => tasks.extend(probe.take(now).then_some(Task::Probe(self.contacts))),
            State::Idle | State::NoCredential { .. } | State::Waiting { .. } | State::Connecting { .. } => {}
        }
        tasks
    }

    /// Stores the handle of a contact's task, so that it is aborted when the contact is not needed any more.
    pub fn contacting(&mut self, contact: u64, task: AbortHandle) {
        match &mut self.state {
            State::Connecting { _task, .. } if self.contacts == contact => *_task = Some(AbortOnDrop(task)),
            _ => task.abort(),
        }
    }

    /// Contact is wanted from now on.
    pub fn begin(&mut self, now: Instant) {
        if matches!(self.state, State::Idle) {
            self.contact_at(now, None);
            self.look = if self.watches { Turn::At(now) } else { Turn::Never };
        }
    }

    /// The site's address or identity has changed: starts over, as if there had never been contact.
    pub fn restart(&mut self, now: Instant) -> Transition<S> {
        self.seen = None;
        self.backoff.reset();
        if self.watches {
            self.look.sooner(now);
        }
        let former = self.contact_at(now, None);
        self.ended(former)
    }

    /// Something has changed that may let contact succeed: a contact that waits or is under way starts over at once.
    pub fn retry_now(&mut self, now: Instant) {
        if let State::Waiting { problem, .. } | State::Connecting { problem, .. } = &mut self.state {
            let problem = problem.take();
            self.backoff.reset();
            self.contact_at(now, problem);
        }
    }

    /// The session may have broken: it is probed at once.
    pub fn suspect(&mut self, now: Instant) {
        if let State::Active { probe, .. } = &mut self.state {
            probe.sooner(now);
        }
    }

    /// Ends the session or the contact that is being made; makes contact again at once where there is a credential.
    pub fn disconnect(&mut self, problem: Option<Finding>, now: Instant) -> Transition<S> {
        match &self.state {
            State::Idle | State::NoCredential { .. } => Transition::Unchanged,
            State::Waiting { .. } | State::Connecting { .. } | State::Active { .. } => {
                let problem = problem.or_else(|| self.problem().cloned());
                let former = self.contact_at(now, problem);
                self.ended(former)
            }
        }
    }

    /// The contact of this number has succeeded. `fingerprint`: of the credential that was used, where it is in a Secret.
    pub fn connected(&mut self, contact: u64, session: S, fingerprint: Option<Fingerprint>, now: Now) -> Transition<S> {
        if !self.awaits(contact) {
            return Transition::Unchanged;
        }
        tracing::info!(site = %self.label, "Connected");
        self.backoff.reset();
        self.last_contact = Some(now.timestamp);
        if self.seen.is_some() && self.seen != fingerprint.map(Ok) {
            // The last look has found another credential than the one that was used, so it was replaced meanwhile; another look finds out which one
            // is there now.
            self.look.sooner(now.instant);
        }
        self.state = State::Active { session, fingerprint, probe: Turn::At(now.instant + PROBE), failed_probes: 0 };
        Transition::Connected
    }

    /// The contact of this number has failed.
    pub fn failed(&mut self, contact: u64, problem: Finding, now: Instant) -> Transition<S> {
        if !self.awaits(contact) {
            return Transition::Unchanged;
        }
        if self.problem() != Some(&problem) {
            tracing::warn!(site = %self.label, reason = %problem.reason, "Connection failed: {}", problem.message);
        }
        if self.watches && matches!(problem.reason, Reason::SecretNotFound | Reason::SecretForbidden) {
            // An earlier look may have found the Secret, so only another look can decide whether it is there.
            self.look.sooner(now + LOOK);
            self.state = State::NoCredential { problem };
        } else {
            let retry_at = now + self.backoff.failed();
            self.contact_at(retry_at, Some(problem));
        }
        Transition::Apart
    }

    /// The session of this number was probed.
    pub fn probed(&mut self, id: u64, result: Result<(), Finding>, now: Now) -> Transition<S> {
        match result {
            Ok(()) => self.probe_answered(id, now),
            // The next probe decides whether the site is lost.
            Err(problem) => self.probe_failed(id, problem, now.instant, now.instant),
        }
    }

    /// A look at the Secret, which was read at `read_at`, has ended. `None`: there is no Secret to look at.
    pub fn looked(&mut self, result: Result<Option<Fingerprint>, Finding>, read_at: Instant, now: Instant) -> Transition<S> {
        // Sites that share a Secret read it at the same time, so that one read serves all.
        self.look = if self.watches { Turn::At((read_at + LOOK).max(now + LOOK / 2)) } else { Turn::Never };
        match result {
            Ok(Some(found)) => self.credential_is(found, now),
            Ok(None) => Transition::Unchanged,
            // The hub does not answer: the credential in use is still the last one known.
            Err(problem) if problem.reason == Reason::InternalError => Transition::Unchanged,
            Err(problem) => self.no_credential(problem),
        }
    }

    /// A task has panicked; it is tried again after a pause.
    pub fn task_panicked(&mut self, task: Task, now: Instant) -> Transition<S> {
        let problem = Finding::stalled(Reason::InternalError, "the operator failed while it talked with the site; its log says where");
        match task {
            Task::Look => {
                self.look = Turn::At(now + LOOK);
                Transition::Unchanged
            }
            Task::Contact(contact) => self.failed(contact, problem, now),
            Task::Probe(id) => self.probe_failed(id, problem, now + PROBE, now),
        }
    }

    fn probe_answered(&mut self, id: u64, now: Now) -> Transition<S> {
        if self.is(id)
            && let State::Active { probe, failed_probes, .. } = &mut self.state
        {
            *failed_probes = 0;
            *probe = Turn::At(now.instant + PROBE);
            self.last_contact = Some(now.timestamp);
        }
        Transition::Unchanged
    }

    fn probe_failed(&mut self, id: u64, problem: Finding, again: Instant, now: Instant) -> Transition<S> {
        if !self.is(id) {
            return Transition::Unchanged;
        }
        let State::Active { probe, failed_probes, .. } = &mut self.state else { return Transition::Unchanged };
        *failed_probes += 1;
        *probe = Turn::At(again);
        if *failed_probes < 2 {
            return Transition::Unchanged;
        }
        tracing::warn!(site = %self.label, reason = %problem.reason, "Disconnected: {}", problem.message);
        self.disconnect(Some(problem), now)
    }

    /// A credential that was replaced is used at once, whether the site answered to the former one or not.
    fn credential_is(&mut self, found: Fingerprint, now: Instant) -> Transition<S> {
        let before = self.seen.replace(Ok(found));
        let changed = match &self.state {
            State::Idle => false,
            State::NoCredential { .. } => true,
            State::Waiting { .. } | State::Connecting { .. } => before.is_some_and(|before| before != Ok(found)),
            State::Active { fingerprint, .. } => *fingerprint != Some(found),
        };
        if !changed {
            return Transition::Unchanged;
        }
        tracing::info!(site = %self.label, "The credential changed");
        self.backoff.reset();
        let former = self.contact_at(now, None);
        self.ended(former)
    }

    fn no_credential(&mut self, problem: Finding) -> Transition<S> {
        self.seen = Some(Err(problem.reason));
        if matches!(self.state, State::Idle) || self.problem() == Some(&problem) && matches!(self.state, State::NoCredential { .. }) {
            return Transition::Unchanged;
        }
        tracing::warn!(site = %self.label, reason = %problem.reason, "No credential: {}", problem.message);
        self.backoff.reset();
        let former = mem::replace(&mut self.state, State::NoCredential { problem });
        self.ended(former)
    }

    fn contact_at(&mut self, retry_at: Instant, problem: Option<Finding>) -> State<S> {
        mem::replace(&mut self.state, State::Waiting { retry_at, problem })
    }

    fn ended(&self, former: State<S>) -> Transition<S> {
        match former {
            State::Active { session, .. } => Transition::Lost(session),
            State::Idle | State::NoCredential { .. } | State::Waiting { .. } | State::Connecting { .. } => Transition::Apart,
        }
    }
}
