//! The credential, and whether Slurm answers with it.

use std::collections::BTreeMap;

use aifactory_api::labels;
use secrecy::SecretSlice;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::site::slurm::contact::{self, contact};
use crate::site::slurm::token::Token;

/// What a look at the Secret showed.
pub(super) struct Look {
    fingerprint: [u8; 32],
    value: SecretSlice<u8>,
    word: SiteWord,
}

impl Look {
    async fn at(reader: &CredentialReader, source: &CredentialSource) -> Result<Self, Finding> {
        let (value, others) = reader.secret(source, &[labels::SLURM_USERS, labels::SITE_POLICY]).await?;
        let mut hasher = Sha256::new();
        hasher.update(&value);
        let word = SiteWord { policy: map(&others, labels::SITE_POLICY)?, users: map(&others, labels::SLURM_USERS)? };
        for (key, value) in word.policy.iter().chain(&word.users) {
            hasher.update((key.len() as u64).to_be_bytes());
            hasher.update(key);
            hasher.update((value.len() as u64).to_be_bytes());
            hasher.update(value);
        }
        Ok(Self { fingerprint: hasher.finalize().into(), value: value.into(), word })
    }
}

/// A map that the site keeps as YAML beside the credential.
fn map(others: &BTreeMap<String, String>, key: &str) -> Result<BTreeMap<String, String>, Finding> {
    let Some(text) = others.get(key) else { return Ok(BTreeMap::new()) };
    let bad = || {
        Finding::stalled(
            Reason::CredentialInvalid,
            format!("key {key} of the credential's Secret is no map of text to text; example: `p-4711: u4711`"),
        )
    };
    let documents = crate::yaml::read_documents(text).map_err(|_| bad())?;
    let Some(entries) = documents.first().map(|value| value.as_object().ok_or_else(bad)).transpose()? else { return Ok(BTreeMap::new()) };
    entries.iter().map(|(key, value)| Ok((key.clone(), value.as_str().map(str::to_owned).unwrap_or_else(|| value.to_string())))).collect()
}

impl Worker {
    /// Begins looks, contacts and probes that are due.
    pub(super) fn attend(&mut self) {
        let now = Instant::now();
        let Some(site) = &self.site else { return };
        if !self.looking && self.look_at <= now {
            self.looking = true;
            let (reader, source) = (self.reader.clone(), self.source.clone());
            self.tasks.spawn(async move { Event::Look(Look::at(&reader, &source).await) });
        }
        let Some(rest) = site.slurm.as_ref().and_then(|slurm| slurm.rest.clone()) else { return };
        match &mut self.session {
            Some(session) => {
                if session.probe_at <= now && !session.probing {
                    session.probing = true;
                    let (id, client) = (session.id, session.client.clone());
                    self.tasks.spawn(async move { Event::Probe(id, contact::probe(&client).await) });
                }
            }
            None => {
                let Some(secret) = self.secret.clone() else { return };
                if self.contacting.is_some() || self.contact_at.is_none_or(|at| at > now) {
                    return;
                }
                let (settings, site) = (self.reader.settings.clone(), site.clone());
                self.contacting = Some(self.tasks.spawn(async move {
                    let made = async {
                        let token = Token::new(&rest, &secret).map_err(|error| Finding::stalled(Reason::CredentialInvalid, error.to_string()))?;
                        let expires = token.expires_at();
                        let client = SlurmClient::new(&rest, token, &settings)
                            .map_err(|error| Finding::stalled(Reason::InvalidSpec, format!("slurm.rest: {error}")))?;
                        let contact = contact(&client, &site).await?;
                        Ok((client, contact, expires))
                    };
                    Event::Contact(Box::new(made.await))
                }));
            }
        }
    }

    pub(super) fn looked(&mut self, result: Result<Look, Finding>) {
        self.looking = false;
        self.look_at = Instant::now() + ROTATION;
        let seen = match &result {
            Ok(look) => Ok(look.fingerprint),
            // The hub does not answer: the credential in use is still the last one known.
            Err(problem) if problem.reason == Reason::InternalError => return,
            Err(problem) => Err(problem.reason),
        };
        if self.credential.as_ref() == Some(&seen) {
            return;
        }
        if self.credential.is_some() {
            tracing::info!(site = %self.key, "The credential changed");
        }
        self.credential = Some(seen);
        self.contact_pause = CONTACT.0;
        match result {
            Ok(look) => {
                self.secret = Some(Arc::new(look.value));
                self.own_word = look.word;
                self.lose(None);
            }
            Err(problem) => {
                self.secret = None;
                self.lose(Some(problem));
            }
        }
    }

    pub(super) fn contacted(&mut self, result: Result<Made, Finding>) {
        self.contacting = None;
        match result {
            Ok((client, contact, expires)) => {
                tracing::info!(site = %self.key, version = contact.version, "Connected");
                self.contact_pause = CONTACT.0;
                self.sessions += 1;
                let probe_at = Instant::now() + PROBE;
                self.session = Some(Session { id: self.sessions, client, contact, expires, failed_probes: 0, probing: false, probe_at });
                self.problem = None;
                self.last_contact = Some(Timestamp::now());
                self.held = None;
                self.resync_at = Instant::now();
                self.usage_at = Instant::now();
            }
            Err(problem) => {
                if self.problem.as_ref() != Some(&problem) {
                    tracing::warn!(site = %self.key, reason = %problem.reason, "No contact: {}", problem.message);
                }
                self.contact_at = Some(Instant::now() + self.contact_pause);
                self.contact_pause = (self.contact_pause * 2).min(CONTACT.1);
                self.problem = Some(problem);
            }
        }
    }

    pub(super) fn probed(&mut self, session: u64, result: Result<(), Finding>) {
        let Some(session) = self.session.as_mut().filter(|known| known.id == session) else { return };
        session.probing = false;
        match result {
            Ok(()) => {
                session.failed_probes = 0;
                session.probe_at = Instant::now() + PROBE;
                self.last_contact = Some(Timestamp::now());
            }
            Err(problem) => {
                session.failed_probes += 1;
                session.probe_at = Instant::now();
                if session.failed_probes >= 2 {
                    tracing::warn!(site = %self.key, reason = %problem.reason, "Lost: {}", problem.message);
                    self.lose(Some(problem));
                }
            }
        }
    }

    /// Ends the session; contact is made anew.
    pub(super) fn lose(&mut self, problem: Option<Finding>) {
        self.session = None;
        if let Some(contact) = self.contacting.take() {
            contact.abort();
        }
        self.contact_at = Some(Instant::now());
        self.problem = problem;
        // A pass of the former session may still write; its outcome is not believed.
        self.held = None;
    }
}
