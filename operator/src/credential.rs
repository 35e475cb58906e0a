//! Site credentials: from the bytes of a Secret that anybody may have written to clients that reach the named server and nothing else.
//!
//! A kubeconfig is executable input. It can name commands, files of the reader, proxies, and addresses that only the reader reaches.
//! Nothing of it is handed to kube's own loader: it is read by allow-lists into [`SiteCredential`], which builds its configuration by hand.
//! Parsing runs no command, opens no file and sends no packet.

mod address;
mod error;
mod identity;
mod kubeconfig;
pub mod reader;
mod server;

use std::{fmt, time::Duration};

use jiff::Timestamp;
use kube::{
    Config,
    client::{ConfigExt as _, RustlsTlsError},
};
use sha2::{Digest as _, Sha256};

pub use address::{AddressArgs, AddressRules};
pub use error::{CredentialError, UrlError};
use identity::Identity;
pub use server::parse_service;

use crate::{
    client::{ClientSettings, Clients},
    yaml::{self, YamlError},
};

/// A credential for one site, checked. Its `Debug` output holds no secret.
#[derive(Clone, Debug)]
pub struct SiteCredential {
    server: http::Uri,
    server_name: Option<String>,
    certificate_authorities: CertificateAuthorities,
    identity: Identity,
    fingerprint: Fingerprint,
}

/// Certificates in DER; `Debug` prints no bytes.
#[derive(Clone)]
struct CertificateAuthorities(Vec<Vec<u8>>);

impl fmt::Debug for CertificateAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.0.len())
    }
}

/// Hash of a kubeconfig, by which a new credential is recognised.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a Secret's bytes, also of bytes that are no credential.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl SiteCredential {
    /// Reads the bytes of a Secret's key.
    pub fn parse(bytes: &[u8], rules: &AddressRules) -> Result<Self, CredentialError> {
        let limits = yaml::Limits::UNTRUSTED;
        if bytes.len() > limits.bytes {
            return Err(CredentialError::TooLarge { limit: limits.bytes });
        }
        let text = str::from_utf8(bytes).map_err(|_| CredentialError::NotUtf8)?;
        let documents = yaml::read_within(text, limits).map_err(|error| not_yaml(&error))?;
        let [document] = documents.as_slice() else {
            return Err(CredentialError::NotOneDocument { count: documents.len() });
        };
        let selected = kubeconfig::select(document)?;
        let server = server::parse(selected.server, rules)?;
        let server_name = selected.server_name.map(server::parse_name).transpose()?;
        let authority = selected.certificate_authority.ok_or(CredentialError::MissingCertificateAuthority)?;
        let credential = Self {
            server,
            server_name,
            certificate_authorities: CertificateAuthorities(identity::certificate_authorities(authority)?),
            identity: Identity::parse(selected.token, selected.client_certificate, selected.client_key)?,
            fingerprint: Fingerprint::of(bytes),
        };
        // What the TLS library refuses is found out here, where the reason gets into a condition.
        credential.config(None).rustls_client_config().map_err(|error| not_tls(&error))?;
        Ok(credential)
    }

    /// URL of the server. It holds no secret, since a URL with credentials is refused.
    pub fn server(&self) -> &http::Uri {
        &self.server
    }

    /// When the site stops accepting it: the end of the client certificate, or the `exp` claim of the token.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.identity.expires_at()
    }

    /// The fingerprint, by which a credential that replaces this one is recognised.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Clients for the site. The address rules in `settings` must be those that the credential was read with.
    pub fn clients(&self, settings: &ClientSettings) -> Result<Clients, kube::Error> {
        Clients::new(&self.config(None), settings)
    }

    /// A client configuration with exactly the fields that were checked: no proxy, no retries, no file.
    pub fn config(&self, read_timeout: Option<Duration>) -> Config {
        let mut config = Config::new(self.server.clone());
        config.root_cert = Some(self.certificate_authorities.0.clone());
        config.tls_server_name = self.server_name.clone();
        config.auth_info = self.identity.auth_info();
        config.connect_timeout = Some(crate::client::CONNECT_TIMEOUT);
        config.read_timeout = read_timeout;
        config.reset_reader_on_write = true;
        config.default_retry = false;
        config
    }
}

/// Keeps the position of a YAML error and drops its text, which may quote a secret.
fn not_yaml(error: &YamlError) -> CredentialError {
    let line = error.line();
    let why = match error {
        YamlError::DuplicateKey { .. } => return CredentialError::DuplicateKey { line },
        YamlError::Anchor { .. } => return CredentialError::AliasRefused { line },
        YamlError::TooLarge { limit } => return CredentialError::TooLarge { limit: *limit },
        YamlError::Ambiguous { .. } => "a value without quotes that readers understand differently, such as on, no or 012",
        YamlError::Tag { .. } => "a tag",
        YamlError::KeyNotString { .. } => "a key that is not a string",
        YamlError::Number { .. } => "a number that is too large",
        YamlError::TooManyNodes { .. } => "too many values",
        YamlError::Syntax { .. } | YamlError::TooDeep { .. } | YamlError::KeyTooLong { .. } => "its structure",
    };
    CredentialError::InvalidYaml { line, why }
}

fn not_tls(error: &kube::Error) -> CredentialError {
    match error {
        kube::Error::RustlsTls(RustlsTlsError::MissingCertificate) => CredentialError::InvalidClientCertificate,
        kube::Error::RustlsTls(
            RustlsTlsError::InvalidIdentityPem(_)
            | RustlsTlsError::MissingPrivateKey
            | RustlsTlsError::InvalidPrivateKey(_)
            | RustlsTlsError::UnknownPrivateKeyFormat,
        ) => CredentialError::InvalidClientKey,
        _ => CredentialError::TlsRefused,
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
