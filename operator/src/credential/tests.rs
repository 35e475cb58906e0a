//! The corpus of hostile kubeconfigs, and the honest ones that must pass.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::{AddressRules, CredentialError, Fingerprint, SiteCredential};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/kubeconfigs");
const CANARY: &str = "canary-7f3a9c";

struct Pair {
    certificate: String,
    key: String,
}

fn pair() -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["site.example".to_owned()]).unwrap();
    params.not_after = date_time_ymd(2040, 1, 2);
    let certificate = params.self_signed(&key).unwrap();
    Pair { certificate: STANDARD.encode(certificate.pem()), key: STANDARD.encode(key.serialize_pem()) }
}

fn kubeconfig(authority: &str, cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\npreferences: {{}}\nclusters:\n- name: c\n  cluster: {{certificate-authority-data: {authority}, {cluster}}}\ncontexts:\n- name: x\n  context: {{cluster: c, user: u, namespace: team}}\ncurrent-context: x\nusers:\n- name: u\n  user: {{{user}}}\n"
    )
}

fn parse(text: &str) -> Result<SiteCredential, CredentialError> {
    SiteCredential::parse(text.as_bytes(), &AddressRules::default())
}

#[test]
fn every_hostile_kubeconfig_is_refused_with_its_reason() {
    let mut seen = 0;
    for entry in fs::read_dir(CORPUS).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let first = String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_owned();
        let expected = first.strip_prefix("# expect: ").unwrap_or_else(|| panic!("{} must begin with `# expect: `", path.display()));
        assert!(CredentialError::REASONS.contains(&expected), "{}: {expected} is no reason", path.display());
        let refused = SiteCredential::parse(&bytes, &AddressRules::default()).map(|_| "accepted").map_err(|error| error.reason());
        assert_eq!(refused, Err(expected), "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 25, "{seen} cases");
    // The commands of the corpus would leave this file in the working directory.
    assert!(!Path::new("kubeconfig-was-executed").exists());
}

#[test]
fn every_reason_has_a_case() {
    let mut missing: Vec<&str> = CredentialError::REASONS.to_vec();
    for entry in fs::read_dir(CORPUS).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        missing.retain(|reason| !bytes.starts_with(format!("# expect: {reason}\n").as_bytes()));
    }
    // Too long for a file in the tree; and what only the TLS library could find.
    assert_eq!(missing, ["TooLarge", "TlsRefused"]);
    let large = format!("# {}\n", "x".repeat(64 << 10));
    assert_eq!(parse(&large).unwrap_err().reason(), "TooLarge");
}

#[test]
fn a_token_makes_a_client_of_exactly_the_checked_fields() {
    let text = kubeconfig(
        &pair().certificate,
        "server: 'https://api.bissen.example:6443', tls-server-name: site.example, insecure-skip-tls-verify: false",
        "token: abc.def",
    );
    let credential = parse(&text).unwrap();
    assert_eq!(credential.server(), "https://api.bissen.example:6443/");
    assert_eq!(credential.expires_at(), None);
    let config = credential.config(None);
    assert!(!config.default_retry && !config.accept_invalid_certs && config.proxy_url.is_none() && config.root_cert_file.is_none());
    assert_eq!(config.root_cert.as_ref().map(Vec::len), Some(1));
    assert_eq!(config.tls_server_name.as_deref(), Some("site.example"));
    assert_eq!(config.default_namespace, "default");
    let auth = config.auth_info;
    assert!(
        auth.token.is_some()
            && auth.token_file.is_none()
            && auth.exec.is_none()
            && auth.auth_provider.is_none()
            && auth.impersonate.is_none()
            && auth.username.is_none()
    );
}

#[test]
fn a_client_certificate_names_its_expiry() {
    let (ca, client) = (pair(), pair());
    let user = format!("client-certificate-data: {}, client-key-data: {}", client.certificate, client.key);
    let credential = parse(&kubeconfig(&ca.certificate, "server: 'https://10.1.2.3:6443'", &user)).unwrap();
    assert_eq!(credential.expires_at(), Some("2040-01-02T00:00:00Z".parse::<Timestamp>().unwrap()));
    assert!(credential.config(None).auth_info.token.is_none());
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let (a, b) = (pair(), pair());
    let user = format!("client-certificate-data: {}, client-key-data: {}", a.certificate, b.key);
    assert_eq!(parse(&kubeconfig(&a.certificate, "server: 'https://10.1.2.3'", &user)).unwrap_err(), CredentialError::InvalidClientKey);
}

#[test]
fn one_context_needs_no_choice() {
    let text = kubeconfig(&pair().certificate, "server: 'https://10.1.2.3'", "token: abc").replace("current-context: x\n", "current-context: ''\n");
    assert!(parse(&text).is_ok());
}

#[test]
fn another_content_is_another_credential() {
    let ca = pair().certificate;
    let [a, b] = ["abc", "abd"].map(|token| parse(&kubeconfig(&ca, "server: 'https://10.1.2.3'", &format!("token: {token}"))).unwrap());
    assert_eq!(a.fingerprint(), a.clone().fingerprint());
    assert_ne!(a.fingerprint(), b.fingerprint());
    assert_ne!(Fingerprint::of(b"x"), Fingerprint::of(b"y"));
}

#[test]
fn no_output_holds_a_secret() {
    let (ca, client) = (pair(), pair());
    let user = format!("client-certificate-data: {}, client-key-data: {}", client.certificate, client.key);
    let by_certificate = parse(&kubeconfig(&ca.certificate, "server: 'https://10.1.2.3'", &user)).unwrap();
    let by_token = parse(&kubeconfig(&ca.certificate, "server: 'https://10.1.2.3'", &format!("token: {CANARY}"))).unwrap();
    let key_line = &client.key[40..80];
    for text in [format!("{by_certificate:?} {by_token:?}"), format!("{:?} {:?}", by_certificate.config(None), by_token.config(None))] {
        assert!(!text.contains(CANARY) && !text.contains(key_line), "{text}");
    }
    assert!(!format!("{by_token:?}").contains(&STANDARD.encode("CERTIFICATE")));
}

#[test]
fn no_refusal_repeats_what_was_written() {
    let ca = pair().certificate;
    for user in [
        format!("token: '{CANARY} x'"),
        format!("{CANARY}: x"),
        format!("token: {{{CANARY}: 1}}"),
        format!("client-key-data: {CANARY}, client-certificate-data: {CANARY}"),
        format!("password: {CANARY}"),
        format!("exec: {{command: {CANARY}}}"),
        format!("as: {CANARY}"),
        format!("token: a, {CANARY}: 1, {CANARY}: 2"),
        format!("token: [{CANARY}"),
    ] {
        let error = parse(&kubeconfig(&ca, "server: 'https://10.1.2.3'", &user)).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(CANARY), "{error}");
    }
    for cluster in [
        format!("server: 'https://{CANARY}@x.example'"),
        format!("server: 'https://x.example/?token={CANARY}'"),
        format!("proxy-url: 'http://u:{CANARY}@p'"),
        format!("tls-server-name: '{CANARY}/', server: 'https://x.example'"),
    ] {
        let error = parse(&kubeconfig(&ca, &cluster, "token: a")).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(CANARY), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_reading_a_credential_panic(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
        at in 0..600_usize,
        length in 0..40_usize,
    ) {
        let _ = SiteCredential::parse(&bytes, &AddressRules::default());
        let mut text = kubeconfig("QUJD", "server: https://203.0.113.7:6443", "token: abc").into_bytes();
        let start = at.min(text.len());
        let end = (start + length).min(text.len());
        text.splice(start..end, bytes);
        let _ = SiteCredential::parse(&text, &AddressRules::default());
    }
}
