//! Kubeconfig documents with everything inline.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::KubeConfigOptions;
use serde_json::json;

use crate::error::{Error, Result, at};
use crate::pki::Identity;

/// How a client authenticates.
#[derive(Clone)]
pub enum Credential {
    /// A bearer token.
    Token(String),
    /// A client certificate.
    Certificate(Identity),
    /// Nothing: an anonymous client.
    Anonymous,
}

/// A kubeconfig for one server and one credential.
#[derive(Clone)]
pub struct Kubeconfig {
    /// The server's URL.
    pub server: String,
    /// The authority that signed the server's certificate, PEM.
    pub authority: String,
    /// The name to expect in the server's certificate, when it is not the one in the URL.
    pub tls_server_name: Option<String>,
    /// Who the client is.
    pub credential: Credential,
}

impl fmt::Debug for Kubeconfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, .. } = self;
        formatter.debug_struct("Kubeconfig").field("server", server).finish_non_exhaustive()
    }
}

impl Kubeconfig {
    /// The same credential at another address; the certificate's name stays 127.0.0.1.
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.server = format!("https://{address}");
        self.tls_server_name = Some("127.0.0.1".to_owned());
        self
    }

    /// The document, with certificates and token inline.
    pub fn to_yaml(&self) -> Result<String> {
        let mut cluster = json!({
            "server": self.server,
            "certificate-authority-data": STANDARD.encode(&self.authority),
        });
        if let (Some(name), Some(fields)) = (&self.tls_server_name, cluster.as_object_mut()) {
            fields.insert("tls-server-name".to_owned(), json!(name));
        }
        let user = match &self.credential {
            Credential::Token(token) => json!({"token": token}),
            Credential::Certificate(identity) => json!({
                "client-certificate-data": STANDARD.encode(&identity.certificate),
                "client-key-data": STANDARD.encode(&identity.key),
            }),
            Credential::Anonymous => json!({}),
        };
        serde_yaml::to_string(&json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "cluster", "cluster": cluster}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "context", "context": {"cluster": "cluster", "user": "user"}}],
            "current-context": "context",
        }))
        .map_err(|error| self.refused(error.to_string()))
    }

    /// Writes the document for its owner alone.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_private(path, &self.to_yaml()?)
    }

    /// A client that never retries by itself, so that tests see what the server says.
    pub async fn client(&self) -> Result<kube::Client> {
        let parsed = kube::config::Kubeconfig::from_yaml(&self.to_yaml()?).map_err(|error| self.refused(error.to_string()))?;
        let mut config =
            kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await.map_err(|error| self.refused(error.to_string()))?;
        config.default_retry = false;
        kube::Client::try_from(config).map_err(|error| self.refused(error.to_string()))
    }

    fn refused(&self, message: String) -> Error {
        Error::Kubeconfig { server: self.server.clone(), message }
    }
}

/// Writes a file that only its owner can read.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(at(path))
}
