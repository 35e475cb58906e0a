//! A credential against a TLS server: who is trusted, and what is shown to whom.

use std::sync::{Arc, Mutex};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
        server::WebPkiClientVerifier,
    },
};

use super::{AddressRules, SiteCredential};
use crate::{
    client::{ClientSettings, explain},
    lease::WriteGate,
};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn issue(authority: &Authority, name: &str, usage: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.extended_key_usages = vec![usage];
    (params.signed_by(&key, authority).unwrap(), key)
}

/// What a server was shown.
#[derive(Debug, Default)]
struct Shown {
    authorization: Option<String>,
    client_certificate: bool,
}

/// A server with a certificate for `site.example`, which notes what each request shows. Returns its port.
async fn serve(authority: &Authority, shown: Arc<Mutex<Vec<Shown>>>) -> u16 {
    let (certificate, key) = issue(authority, "site.example", ExtendedKeyUsagePurpose::ServerAuth);
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build().unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            let head = String::from_utf8(head).unwrap();
            let authorization = head.lines().find_map(|line| line.strip_prefix("authorization: ")).map(str::to_owned);
            let client_certificate = stream.get_ref().1.peer_certificates().is_some();
            shown.lock().unwrap().push(Shown { authorization, client_certificate });
            let body = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    port
}

async fn ask(port: u16, trusted: &Authority, server_name: &str, user: &str) -> Result<ConfigMap, String> {
    let text = format!(
        "clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority-data: {}, {server_name}}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n",
        STANDARD.encode(trusted.pem())
    );
    let rules = AddressRules::allowing(["127.0.0.0/8".parse().unwrap()]);
    let credential = SiteCredential::parse(text.as_bytes(), &rules).unwrap();
    let clients = credential.clients(&ClientSettings { gate: WriteGate::closed(), addresses: Some(rules), requests: None }).unwrap();
    Api::<ConfigMap>::namespaced(clients.rpc, "x").get("a").await.map_err(|error| explain(&error))
}

#[tokio::test]
async fn the_named_server_is_trusted_and_shown_the_credential() {
    let site = authority();
    let shown = Arc::default();
    let port = serve(&site, Arc::clone(&shown)).await;
    ask(port, &site, "tls-server-name: site.example", "token: abc.def").await.unwrap();
    let (certificate, key) = issue(&site, "client", ExtendedKeyUsagePurpose::ClientAuth);
    let user = format!("client-certificate-data: {}, client-key-data: {}", STANDARD.encode(certificate.pem()), STANDARD.encode(key.serialize_pem()));
    ask(port, &site, "tls-server-name: site.example", &user).await.unwrap();

    let shown = shown.lock().unwrap();
    let [by_token, by_certificate] = shown.as_slice() else { panic!("{shown:?}") };
    assert!(by_token.authorization.as_deref() == Some("Bearer abc.def") && !by_token.client_certificate, "{by_token:?}");
    assert!(by_certificate.authorization.is_none() && by_certificate.client_certificate, "{by_certificate:?}");
}

#[tokio::test]
async fn an_impostor_is_shown_nothing() {
    let (site, impostor) = (authority(), authority());
    let shown = Arc::default();
    let port = serve(&impostor, Arc::clone(&shown)).await;
    let untrusted = ask(port, &site, "tls-server-name: site.example", "token: abc").await.unwrap_err();
    assert!(untrusted.contains("certificate"), "{untrusted}");
    let misnamed = ask(port, &impostor, "tls-server-name: other.example", "token: abc").await.unwrap_err();
    assert!(misnamed.contains("certificate"), "{misnamed}");
    let unnamed = ask(port, &impostor, "disable-compression: true", "token: abc").await.unwrap_err();
    assert!(unnamed.contains("certificate"), "{unnamed}");
    assert!(shown.lock().unwrap().is_empty());
}
