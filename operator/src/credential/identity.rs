//! The secret part of a credential: a token or a client certificate, with its form checked and its expiry read.

use std::fmt;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jiff::Timestamp;
use kube::config::AuthInfo;
use secrecy::{ExposeSecret as _, SecretString};
use x509_parser::pem::Pem;

use super::error::CredentialError as Error;

const MAX_CERTIFICATES: usize = 32;
const MAX_TOKEN: usize = 16 << 10;

/// What the operator shows to the site.
#[derive(Clone)]
pub(super) enum Identity {
    Token(SecretString),
    Certificate {
        /// Base64 of PEM, as the client wants it.
        certificate: String,
        /// Base64 of PEM.
        key: SecretString,
        expires_at: Option<Timestamp>,
    },
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Identity::Token(_) => "Token",
            Identity::Certificate { .. } => "Certificate",
        })
    }
}

impl Identity {
    /// Takes exactly one way to authenticate.
    pub(super) fn parse(token: Option<&str>, certificate: Option<&str>, key: Option<&str>) -> Result<Self, Error> {
        match (token, certificate, key) {
            (None, None, None) => Err(Error::NoIdentity),
            (Some(token), None, None) => Self::token(token),
            (Some(_), _, _) => Err(Error::TwoIdentities),
            (None, Some(certificate), Some(key)) => Self::certificate(certificate, key),
            (None, Some(_), None) | (None, None, Some(_)) => Err(Error::IncompleteClientCertificate),
        }
    }

    fn token(token: &str) -> Result<Self, Error> {
        if token.len() > MAX_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::InvalidToken { limit: MAX_TOKEN });
        }
        Ok(Identity::Token(SecretString::from(token.to_owned())))
    }

    fn certificate(certificate: &str, key: &str) -> Result<Self, Error> {
        let pem = decode(certificate).ok_or(Error::InvalidClientCertificate)?;
        let certificates = certificates(&pem).ok_or(Error::InvalidClientCertificate)?;
        let leaf = certificates.first().ok_or(Error::InvalidClientCertificate)?;
        let expires_at = not_after(leaf).ok_or(Error::InvalidClientCertificate)?;

        let key_pem = decode(key).ok_or(Error::InvalidClientKey)?;
        let blocks: Vec<Pem> = Pem::iter_from_buffer(&key_pem).collect::<Result<_, _>>().map_err(|_| Error::InvalidClientKey)?;
        match blocks.as_slice() {
            [key] if matches!(key.label.as_str(), "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY") => {}
            _ => return Err(Error::InvalidClientKey),
        }
        Ok(Identity::Certificate {
            certificate: STANDARD.encode(&pem),
            key: SecretString::from(STANDARD.encode(&key_pem)),
            expires_at: Some(expires_at),
        })
    }

    /// When the site stops accepting it, where the credential names a time.
    pub(super) fn expires_at(&self) -> Option<Timestamp> {
        match self {
            Identity::Token(token) => token_expiry(token.expose_secret()),
            Identity::Certificate { expires_at, .. } => *expires_at,
        }
    }

    pub(super) fn auth_info(&self) -> AuthInfo {
        let mut info = AuthInfo::default();
        match self {
            Identity::Token(token) => info.token = Some(token.clone()),
            Identity::Certificate { certificate, key, .. } => {
                info.client_certificate_data = Some(certificate.clone());
                info.client_key_data = Some(key.clone());
            }
        }
        info
    }
}

/// The certificate authorities in DER, from base64 of PEM.
pub(super) fn certificate_authorities(text: &str) -> Result<Vec<Vec<u8>>, Error> {
    let refused = Error::InvalidCertificateAuthority { limit: MAX_CERTIFICATES };
    decode(text).and_then(|pem| certificates(&pem)).ok_or(refused)
}

/// Base64 as kubectl takes it: line breaks inside are fine.
fn decode(text: &str) -> Option<Vec<u8>> {
    let compact: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    STANDARD.decode(compact).ok()
}

fn certificates(pem: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for block in Pem::iter_from_buffer(pem) {
        let block = block.ok()?;
        if block.label != "CERTIFICATE" || found.len() >= MAX_CERTIFICATES {
            return None;
        }
        block.parse_x509().ok()?;
        found.push(block.contents);
    }
    (!found.is_empty()).then_some(found)
}

fn not_after(der: &[u8]) -> Option<Timestamp> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// The `exp` claim of a JWT. Not verified: the site does that; here it only warns people in time.
fn token_expiry(token: &str) -> Option<Timestamp> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?).ok()?;
    let exp = claims.get("exp")?;
    let seconds = exp.as_i64().or_else(|| exp.as_f64().filter(|exp| exp.is_finite() && exp.abs() < 1e15).map(|exp| exp as i64))?;
    Timestamp::from_second(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::{Identity, token_expiry};
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    fn jwt(claims: &str) -> String {
        format!("{}.{}.sig", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn the_end_of_a_token_is_its_exp_claim() {
        assert_eq!(token_expiry(&jwt(r#"{"exp":1893456000}"#)).unwrap().to_string(), "2030-01-01T00:00:00Z");
        assert_eq!(token_expiry(&jwt(r#"{"exp":1893456000.5}"#)).unwrap().to_string(), "2030-01-01T00:00:00Z");
        for token in ["opaque", "a.b.c", &jwt("{}"), &jwt(r#"{"exp":"soon"}"#), &jwt(r#"{"exp":1e300}"#), &jwt("[")] {
            assert!(token_expiry(token).is_none(), "{token}");
        }
    }

    #[test]
    fn debug_output_names_the_way_only() {
        let identity = Identity::parse(Some("canary-secret"), None, None).unwrap();
        assert_eq!(format!("{identity:?}"), "Token");
    }
}
