//! What proves to Slurm who asks.

use std::fmt;
use std::sync::{Arc, Mutex};

use aifactory_api::slurm::SlurmRest;
use aifactory_plan::model::id::UserName;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::hmac;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde_json::{Value, json};

/// How long a signed token is good, in seconds.
const LIFETIME: i64 = 300;

/// A token, or the key that makes them.
#[derive(Clone)]
pub struct Token {
    kind: Kind,
}

/// A token, and when it was made.
type Signed = (Arc<SecretString>, Timestamp);

#[derive(Clone)]
enum Kind {
    Fixed { token: Arc<SecretString>, expires: Option<Timestamp> },
    Key { key: Arc<SecretSlice<u8>>, user: UserName, last: Arc<Mutex<Option<Signed>>> },
}

/// Why a Secret holds no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts of base64url.
    #[error("the Secret holds no token; write what `scontrol token` prints after SLURM_JWT=")]
    NoToken,
    /// Empty or too short to sign with.
    #[error("the Secret holds no key; write the cluster's jwt_hs256.key, at least 16 bytes")]
    NoKey,
}

impl Token {
    /// From the value of the Secret that the settings name.
    pub fn new(rest: &SlurmRest, secret: &SecretSlice<u8>) -> Result<Self, TokenError> {
        let kind = if rest.key_secret_ref.is_some() {
            if secret.expose_secret().len() < 16 {
                return Err(TokenError::NoKey);
            }
            Kind::Key { key: Arc::new(secret.clone()), user: UserName::new(&rest.user), last: Arc::default() }
        } else {
            let text = std::str::from_utf8(secret.expose_secret()).map_err(|_| TokenError::NoToken)?.trim();
            let text = text.strip_prefix("SLURM_JWT=").unwrap_or(text);
            let claims = claims(text).ok_or(TokenError::NoToken)?;
            let expires = claims.get("exp").and_then(Value::as_i64).and_then(|at| Timestamp::from_second(at).ok());
            Kind::Fixed { token: Arc::new(SecretString::from(text.to_owned())), expires }
        };
        Ok(Self { kind })
    }

    /// When a fixed token expires.
    pub fn expires_at(&self) -> Option<Timestamp> {
        match &self.kind {
            Kind::Fixed { expires, .. } => *expires,
            Kind::Key { .. } => None,
        }
    }

    /// What to send now.
    pub fn at(&self, now: Timestamp) -> Arc<SecretString> {
        match &self.kind {
            Kind::Fixed { token, .. } => token.clone(),
            Kind::Key { key, user, last } => {
                let mut last = last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if let Some((token, made)) = last.as_ref()
                    && (0..LIFETIME / 2).contains(&now.duration_since(*made).as_secs())
                {
                    return token.clone();
                }
                let token = Arc::new(SecretString::from(sign(key.expose_secret(), user, now)));
                *last = Some((token.clone(), now));
                token
            }
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

fn claims(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (Some(header), Some(claims), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else { return None };
    URL_SAFE_NO_PAD.decode(header).ok()?;
    URL_SAFE_NO_PAD.decode(signature).ok().filter(|signature| !signature.is_empty())?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

/// RFC 7519 with HS256, as Slurm's auth/jwt reads it: `sun` is the user.
fn sign(key: &[u8], user: &UserName, now: Timestamp) -> String {
    let at = now.as_second();
    let claims = json!({"iat": at, "exp": at + LIFETIME, "sun": user}).to_string();
    let head = format!("{}.{}", URL_SAFE_NO_PAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#), URL_SAFE_NO_PAD.encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), head.as_bytes());
    format!("{head}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[cfg(test)]
mod tests;
