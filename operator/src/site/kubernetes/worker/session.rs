//! Whether the site answers, whether its policies guard it, and that its claim is given up.

use super::*;

impl Worker {
    /// Begins what is due for the connection and its session.
    pub(super) fn attend(&mut self) {
        let now = Instant::now();
        for task in self.connection.due(now) {
            self.begin(task);
        }
        let releasable = self.releasable();
        let Some((id, active)) = self.connection.id().zip(self.connection.session_mut()) else { return };
        let client = active.session.clients.rpc.clone();
        if active.policy_test.take(now) {
            let (tested, asked) = (client.clone(), client.clone());
            self.tasks.spawn(Event::Panicked(Work::PolicyTest(id)), async move { Event::PolicyTest(id, check_policies(&tested).await) });
            self.tasks.spawn(Event::Panicked(Work::Served), async move { Event::Served(id, Served::by(&asked).await) });
        }
        if releasable && active.release.take(now) {
            self.tasks.spawn(Event::Panicked(Work::Release(id)), async move { Event::Released(id, contact::release(&client).await) });
        }
    }

    fn begin(&mut self, task: Task) {
        let panicked = Event::Panicked(Work::Connection(task));
        let (reader, source) = (self.reader.clone(), self.source.clone());
        match task {
            Task::Look => {
                self.tasks.spawn(panicked, async move { Event::Look(reader.look(&source).await) });
            }
            Task::Contact(contact) => {
                let Some(site) = self.site.clone() else { return };
                let handle = self.tasks.spawn(panicked, async move { Event::Contact(contact, contact::connect(&reader, &source, &site).await) });
                self.connection.contacting(contact, handle);
            }
            Task::Probe(session) => {
                let Some(client) = self.connection.session().map(|active| active.session.clients.rpc.clone()) else { return };
                self.tasks.spawn(panicked, async move { Event::Probe(session, within(PROBE_LIMIT, contact::probe(&client)).await) });
            }
        }
    }

    /// Takes note of what has become of the connection.
    pub(super) fn moved(&mut self, transition: Transition<Active>) {
        match transition {
            Transition::Unchanged => return,
            Transition::Connected | Transition::Apart => {}
            Transition::Lost(_) => self.hours.unwatched(self.connection.last_contact().unwrap_or_else(Timestamp::now)),
        }
        self.site_dirty = true;
    }

    pub(super) fn disconnect(&mut self, problem: Option<Finding>) {
        let transition = self.connection.disconnect(problem, Instant::now());
        self.moved(transition);
    }

    /// What is watched is decided at contact, so an engine that was installed or taken away needs another.
    pub(super) fn served(&mut self, session: u64, found: Result<Served, Finding>) {
        let known = self.connection.session_of(session).map(|active| &active.session.served);
        if let (Some(known), Ok(found)) = (known, found)
            && *known != found
        {
            tracing::info!(site = %self.key, "The site serves other engines");
            self.disconnect(None);
        }
    }

    /// A task has panicked: it is tried again later.
    pub(super) fn panicked(&mut self, work: Work) {
        tracing::error!(site = %self.key, "A task panicked");
        self.metrics.panicked(Kind::AIFactory);
        let now = Instant::now();
        match work {
            Work::Connection(task) => {
                let transition = self.connection.task_panicked(task, now);
                self.moved(transition);
            }
            Work::PolicyTest(session) => {
                if let Some(active) = self.connection.session_of(session) {
                    active.policy_test = Turn::At(now + active.policy_test_backoff.failed());
                }
            }
            // It is asked with every test of the policies.
            Work::Served => {}
            Work::Release(session) => self.claim_released(session, false),
        }
    }

    pub(super) fn claim_released(&mut self, session: u64, released: bool) {
        let Some(active) = self.connection.session_of(session) else { return };
        let pause = if released { Duration::ZERO } else { active.release_backoff.failed() };
        active.release = Turn::At(Instant::now() + pause);
        self.released = released;
        self.site_dirty = true;
    }

    /// Whether the claim is to be given up now.
    pub(super) fn releasable(&self) -> bool {
        !self.released
            && self.synced()
            && self.site.as_ref().is_some_and(|site| site.release)
            && self.schedule.busy() == 0
            && self.held().values().all(|held| *held == Held::Retained)
    }
}
