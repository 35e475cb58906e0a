//! Certificates and keys of one cluster. Every cluster has an authority of its own, as real ones do: what opens one
//! site opens no other.

use std::fmt;
use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};

use crate::error::{Error, Result};

/// `O` once more: the library keeps one value a type, and a user may have two groups.
const SECOND_ORGANISATION: &[u64] = &[2, 5, 4, 10];

/// A certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, PEM.
    pub certificate: String,
    /// The private key, PKCS #8 PEM.
    pub key: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes an authority.
    pub fn new(name: &str) -> Result<Self> {
        let make = || {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            CertifiedIssuer::self_signed(params, KeyPair::generate()?)
        };
        make().map(|issuer| Self { issuer }).map_err(|source| Error::Certificate { subject: name.to_owned(), source })
    }

    /// The authority's certificate, PEM.
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// A serving certificate for names and addresses.
    pub fn server(&self, names: &[&str]) -> Result<Identity> {
        let make = || {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let mut params = CertificateParams::new(names)?;
            params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            self.sign(params)
        };
        make().map_err(|source| Error::Certificate { subject: names.join(", "), source })
    }

    /// A client certificate for a user and at most two groups, valid until the given time or for ever.
    pub fn client(&self, user: &str, groups: &[&str], until: Option<SystemTime>) -> Result<Identity> {
        if groups.len() > 2 {
            return Err(Error::TooManyGroups { user: user.to_owned(), count: groups.len() });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        let types = [DnType::OrganizationName, DnType::CustomDnType(SECOND_ORGANISATION.to_vec())];
        for (kind, group) in types.into_iter().zip(groups) {
            params.distinguished_name.push(kind, *group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if let Some(until) = until {
            params.not_after = until.into();
        }
        self.sign(params).map_err(|source| Error::Certificate { subject: user.to_owned(), source })
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Identity, rcgen::Error> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        Ok(Identity { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }
}

/// A key pair that signs ServiceAccount tokens: private and public key, PEM.
pub(crate) fn signing_key() -> Result<(String, String)> {
    KeyPair::generate()
        .map(|key| (key.serialize_pem(), key.public_key_pem()))
        .map_err(|source| Error::Certificate { subject: "ServiceAccount tokens".to_owned(), source })
}
