//! Why a site's credential was not taken. Messages name fields and rules, never a value: any value may be a secret that slipped.

/// Why the URL of a server was not taken; read after the field that holds it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No plain URL of host, port and path.
    #[error("{rule}")]
    Invalid {
        /// Which rule it breaks.
        rule: &'static str,
    },
    /// Without encryption.
    #[error("must begin with https://")]
    NotHttps,
    /// At an address that no site has.
    #[error("is {why}; --allow-site-cidr can permit an address range")]
    AddressForbidden {
        /// What is there.
        why: &'static str,
    },
    /// A name that can not be a site's.
    #[error("names {why}")]
    HostForbidden {
        /// What is there.
        why: &'static str,
    },
}

impl From<UrlError> for CredentialError {
    fn from(url: UrlError) -> Self {
        match url {
            UrlError::Invalid { .. } => Self::InvalidServer { url },
            UrlError::NotHttps => Self::NotHttps { url },
            UrlError::AddressForbidden { .. } => Self::AddressForbidden { url },
            UrlError::HostForbidden { .. } => Self::HostForbidden { url },
        }
    }
}

/// Declares the error with its reasons, so that no variant can lack one and documentation can list them all.
macro_rules! credential_errors {
    ($($(#[doc = $doc:literal])+ #[error($($message:tt)+)] $name:ident $({ $($(#[doc = $fdoc:literal])+ $field:ident: $type:ty),+ $(,)? })?,)+) => {
        /// Why a kubeconfig was refused.
        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum CredentialError {
            $($(#[doc = $doc])+ #[error($($message)+)] $name $({ $($(#[doc = $fdoc])+ $field: $type),+ })?,)+
        }

        impl CredentialError {
            /// Every reason that [`CredentialError::reason`] can give.
            pub const REASONS: &[&str] = &[$(stringify!($name)),+];

            /// The reason for the refusal, stable, for conditions, metrics and tests.
            pub fn reason(&self) -> &'static str {
                match self { $(CredentialError::$name $({ $($field: _),+ })? => stringify!($name),)+ }
            }
        }
    };
}

credential_errors! {
    /// Longer than any honest kubeconfig.
    #[error("the kubeconfig is longer than {limit} bytes")]
    TooLarge {
        /// Most bytes allowed.
        limit: usize
    },
    /// Not text.
    #[error("the kubeconfig is not UTF-8 text")]
    NotUtf8,
    /// Not YAML, or YAML that readers understand differently.
    #[error("the kubeconfig is not plain YAML{}: {why}", at(*.line))]
    InvalidYaml {
        /// Where, if known.
        line: Option<usize>,
        /// What is wrong, without what is written there.
        why: &'static str
    },
    /// A key is given twice in one mapping.
    #[error("the kubeconfig gives a key twice in one mapping{}", at(*.line))]
    DuplicateKey {
        /// Where, if known.
        line: Option<usize>
    },
    /// Anchors or aliases.
    #[error("the kubeconfig uses anchors or aliases{}; write values out", at(*.line))]
    AliasRefused {
        /// Where, if known.
        line: Option<usize>
    },
    /// No document, or several.
    #[error("the kubeconfig must hold one YAML document, and holds {count}")]
    NotOneDocument {
        /// Documents found.
        count: usize
    },
    /// A field has another type than kubeconfigs give it.
    #[error("{path} is missing, or no {expected}")]
    InvalidField {
        /// Where.
        path: String,
        /// What it must be.
        expected: &'static str
    },
    /// A field that no list of ours knows.
    #[error("{path} holds a field that is not on the list of allowed ones: {allowed}")]
    UnknownField {
        /// Where.
        path: String,
        /// The allowed fields.
        allowed: String
    },
    /// Two entries of one name, or several contexts and no current one.
    #[error("{path} is ambiguous: {rule}")]
    Ambiguous {
        /// Where.
        path: &'static str,
        /// What it must be.
        rule: &'static str
    },
    /// The current context, or what it names, is not there.
    #[error("{path} names an entry that is not there")]
    MissingEntry {
        /// Where.
        path: &'static str
    },
    /// A command that would run in the operator's place.
    #[error("{path}: commands are never run; use a token, or a client certificate as data")]
    ExecRefused {
        /// Where.
        path: String
    },
    /// The old way to name a command.
    #[error("{path}: auth providers are not used; use a token, or a client certificate as data")]
    AuthProviderRefused {
        /// Where.
        path: String
    },
    /// A file of the operator's own.
    #[error("{path}: files are never read; put the content into the matching `-data` field, or into `token`")]
    FilePathRefused {
        /// Where.
        path: String
    },
    /// A connection to whoever answers.
    #[error("{path}: TLS is always verified; give certificate-authority-data")]
    InsecureTlsRefused {
        /// Where.
        path: String
    },
    /// User name and password.
    #[error("{path}: user names and passwords are not used; use a token, or a client certificate as data")]
    BasicAuthRefused {
        /// Where.
        path: String
    },
    /// Acting as somebody else.
    #[error("{path}: impersonation is not used; give a credential of the operator's own")]
    ImpersonationRefused {
        /// Where.
        path: String
    },
    /// A proxy chosen by the kubeconfig.
    #[error("{path}: a kubeconfig may not choose a proxy")]
    ProxyRefused {
        /// Where.
        path: String
    },
    /// A server URL that is no plain https URL of host, port and path.
    #[error("cluster.server {url}")]
    InvalidServer {
        /// What is wrong.
        url: UrlError
    },
    /// A server without encryption.
    #[error("cluster.server {url}")]
    NotHttps {
        /// What is wrong.
        url: UrlError
    },
    /// A server at an address that no site has.
    #[error("cluster.server {url}")]
    AddressForbidden {
        /// What is wrong.
        url: UrlError
    },
    /// A server whose name can not be a site's.
    #[error("cluster.server {url}")]
    HostForbidden {
        /// What is wrong.
        url: UrlError
    },
    /// No certificate authority.
    #[error("cluster.certificate-authority-data is missing; the certificate authorities of the host are not trusted for sites")]
    MissingCertificateAuthority,
    /// A certificate authority that is no list of certificates.
    #[error("cluster.certificate-authority-data must be base64 of 1 to {limit} PEM certificates and nothing else")]
    InvalidCertificateAuthority {
        /// Most certificates allowed.
        limit: usize
    },
    /// A server name that is none.
    #[error("cluster.tls-server-name is not a host name")]
    InvalidServerName,
    /// Nothing to authenticate with.
    #[error("user holds no credential; give a token, or client-certificate-data with client-key-data")]
    NoIdentity,
    /// Two ways to authenticate.
    #[error("user holds a token and a client certificate; keep one of them")]
    TwoIdentities,
    /// Half a client certificate.
    #[error("user holds only one of client-certificate-data and client-key-data; give both")]
    IncompleteClientCertificate,
    /// A client certificate that is none.
    #[error("user.client-certificate-data must be base64 of PEM certificates and nothing else")]
    InvalidClientCertificate,
    /// A key that can not be used, or not with the certificate.
    #[error("user.client-key-data must be base64 of one unencrypted PEM private key that belongs to client-certificate-data")]
    InvalidClientKey,
    /// A token that no header can carry.
    #[error("user.token must be one line of visible ASCII characters without spaces, at most {limit} bytes")]
    InvalidToken {
        /// Most bytes allowed.
        limit: usize
    },
    /// Everything was well formed, and the TLS library still refuses it.
    #[error("the TLS library refuses certificate-authority-data or the server name")]
    TlsRefused,
}

fn at(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(", line {line}"))
}
