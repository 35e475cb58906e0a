//! The credential, and whether Slurm answers with it.

use super::own_word::{KEYS, ReadWord, seen};
use super::*;
use crate::credential::Fingerprint;
use crate::credential::reader::Look;
use crate::site::slurm::contact::{self, contact};
use crate::site::slurm::token::Token;

/// What a look at the Secret showed, and the site's own maps where they have changed.
pub(super) struct Seen {
    look: Look,
    word: Option<ReadWord>,
}

/// A session, the credential that it was made with, and what was read beside that.
pub(super) struct Made {
    session: Session,
    fingerprint: Fingerprint,
    word: ReadWord,
}

impl Worker {
    /// Begins what is due for the connection.
    pub(super) fn attend(&mut self) {
        for task in self.connection.due(Instant::now()) {
            self.begin(task);
        }
    }

    fn begin(&mut self, task: Task) {
        let panicked = Event::Panicked(Work::Connection(task));
        let (reader, source) = (self.reader.clone(), self.source.clone());
        match task {
            Task::Look => {
                let known = self.own_word.fingerprints();
                self.tasks.spawn(panicked, async move {
                    let look = reader.look(&source).await;
                    let moved = look.fingerprint(&source).is_ok() && known.is_some_and(|known| known != seen(&look));
                    let read = if moved { reader.secret(&source, &KEYS).await.ok() } else { None };
                    Event::Look(Box::new(Seen { look, word: read.map(|(_, texts)| ReadWord::of(&texts)) }))
                });
            }
            Task::Contact(id) => {
                let site = self.site.clone();
                let handle = self.tasks.spawn(panicked, async move { Event::Contact(id, Box::new(connect(&reader, &source, site.as_ref()).await)) });
                self.connection.contacting(id, handle);
            }
            Task::Probe(id) => {
                let Some(client) = self.connection.session().map(|session| session.client.clone()) else { return };
                self.tasks.spawn(panicked, async move { Event::Probe(id, within(PROBE_LIMIT, contact::probe(&client)).await) });
            }
        }
    }

    pub(super) fn looked(&mut self, seen: Seen) {
        if seen.word.is_some_and(|word| self.own_word.learn(word)) {
            self.resync_at = Instant::now();
        }
        let transition = self.connection.looked(seen.look.fingerprint(&self.source), seen.look.read_at, Instant::now());
        self.moved(transition);
    }

    pub(super) fn contacted(&mut self, id: u64, result: Result<Made, Finding>) {
        let transition = match result {
            Ok(Made { session, fingerprint, word }) => {
                if self.connection.awaits(id) {
                    self.own_word.learn(word);
                }
                self.connection.connected(id, session, Some(fingerprint), Now::read())
            }
            Err(problem) => self.connection.failed(id, problem, Instant::now()),
        };
        self.moved(transition);
    }

    pub(super) fn disconnect(&mut self, problem: Option<Finding>) {
        let transition = self.connection.disconnect(problem, Instant::now());
        self.moved(transition);
    }

    /// Takes note of what has become of the connection.
    pub(super) fn moved(&mut self, transition: Transition<Session>) {
        match transition {
            Transition::Unchanged | Transition::Apart => {}
            Transition::Connected => {
                self.resync_at = Instant::now();
                self.usage_at = Instant::now();
            }
            // A pass of the former session may still write; its outcome is not believed.
            Transition::Lost(_) => self.held = None,
        }
    }
}

async fn connect(reader: &CredentialReader, source: &CredentialSource, site: Option<&SiteIntent>) -> Result<Made, Finding> {
    let missing = || Finding::stalled(Reason::InvalidSpec, "the site's slurm.rest is missing");
    let site = site.ok_or_else(missing)?;
    let rest = site.slurm.as_ref().and_then(|slurm| slurm.rest.as_ref()).ok_or_else(missing)?;
    let (value, texts) = reader.secret(source, &KEYS).await?;
    let fingerprint = Fingerprint::of(&value);
    let token = Token::new(rest, &value.into()).map_err(|error| Finding::stalled(Reason::CredentialInvalid, error.to_string()))?;
    let expires = token.expires_at();
    let client =
        SlurmClient::new(rest, token, &reader.settings).map_err(|error| Finding::stalled(Reason::InvalidSpec, format!("slurm.rest: {error}")))?;
    let contact = contact(&client, site).await?;
    Ok(Made { session: Session { client, contact, expires }, fingerprint, word: ReadWord::of(&texts) })
}
