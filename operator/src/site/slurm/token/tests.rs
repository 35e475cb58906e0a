#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::*;

fn rest(key: bool) -> SlurmRest {
    let secret = serde_json::json!({"name": "bissen-slurm", "key": "value"});
    let field = if key { "keySecretRef" } else { "tokenSecretRef" };
    serde_json::from_value(serde_json::json!({"url": "http://slurm.example", field: secret})).unwrap()
}

fn secret(bytes: &[u8]) -> SecretSlice<u8> {
    bytes.to_vec().into()
}

#[test]
fn a_signed_token_is_one_that_slurm_takes_and_is_made_anew_in_time() {
    let key = [7_u8; 32];
    let token = Token::new(&rest(true), &secret(&key)).unwrap();
    let now: Timestamp = "2026-11-21T09:00:00Z".parse().unwrap();
    let first = token.at(now);
    let parts: Vec<&str> = first.expose_secret().split('.').collect();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    assert_eq!(claims, json!({"iat": now.as_second(), "exp": now.as_second() + 300, "sun": "slurm"}));
    let verifier = hmac::Key::new(hmac::HMAC_SHA256, &key);
    hmac::verify(&verifier, format!("{}.{}", parts[0], parts[1]).as_bytes(), &URL_SAFE_NO_PAD.decode(parts[2]).unwrap()).unwrap();
    let later = |seconds| token.at(now + jiff::SignedDuration::from_secs(seconds)).expose_secret().to_owned();
    assert_eq!(later(100), first.expose_secret());
    assert_ne!(later(200), first.expose_secret());
    assert_eq!(token.expires_at(), None);
    assert_eq!(format!("{token:?}"), "Token(…)");
}

#[test]
fn a_token_of_a_secret_says_when_it_expires() {
    let signed = sign(&[1; 32], &UserName::new("root"), "2026-11-21T09:00:00Z".parse().unwrap());
    for text in [signed.clone(), format!("SLURM_JWT={signed}\n")] {
        let token = Token::new(&rest(false), &secret(text.as_bytes())).unwrap();
        assert_eq!(token.expires_at(), Some("2026-11-21T09:05:00Z".parse().unwrap()));
        assert_eq!(token.at(Timestamp::now()).expose_secret(), signed);
    }
}

#[test]
fn what_is_no_token_or_key_is_refused() {
    for text in ["", "hello", "a.b.c", "a.b", "\u{1}\u{2}.x.y"] {
        assert_eq!(Token::new(&rest(false), &secret(text.as_bytes())).unwrap_err(), TokenError::NoToken, "{text:?}");
    }
    assert_eq!(Token::new(&rest(true), &secret(b"short")).unwrap_err(), TokenError::NoKey);
}
