//! A session with Slurm: how contact is made with the credential.

use aifactory_api::Reason;
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::intent::SiteIntent;
use aifactory_plan::model::report::Finding;
use jiff::Timestamp;

use super::site_config::{KEYS, ReadConfig};
use crate::credential::Fingerprint;
use crate::credential::reader::CredentialReader;
use crate::site::slurm::client::SlurmClient;
use crate::site::slurm::contact::{Contact, contact};
use crate::site::slurm::token::Token;

/// A Slurm that answers.
pub(super) struct Session {
    pub client: SlurmClient,
    pub contact: Contact,
    pub expires: Option<Timestamp>,
}

/// A session, the credential that it was made with, and what was read beside that.
pub(super) struct Found {
    pub session: Session,
    pub fingerprint: Fingerprint,
    pub config: ReadConfig,
}

/// Makes contact.
pub(super) async fn connect(reader: &CredentialReader, source: &CredentialSource, site: &SiteIntent) -> Result<Found, Finding> {
    let missing = || Finding::stalled(Reason::InvalidSpec, "the site's slurm.rest is missing");
    let rest = site.slurm.as_ref().and_then(|slurm| slurm.rest.as_ref()).ok_or_else(missing)?;
    let (value, texts) = reader.secret(source, &KEYS).await?;
    let fingerprint = Fingerprint::of(&value);
    let token = Token::new(rest, &value.into()).map_err(|error| Finding::stalled(Reason::CredentialInvalid, error.to_string()))?;
    let expires = token.expires_at();
    let client =
        SlurmClient::new(rest, token, &reader.settings).map_err(|error| Finding::stalled(Reason::InvalidSpec, format!("slurm.rest: {error}")))?;
    let contact = contact(&client, site).await?;
    Ok(Found { session: Session { client, contact, expires }, fingerprint, config: ReadConfig::of(&texts) })
}
