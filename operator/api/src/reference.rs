//! Which of our resources something is about.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of our three kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// An institution and its sites.
    AIFactory,
    /// A homogeneous GPU partition.
    GPUPool,
    /// A time-limited right to use pools.
    AccessGrant,
}

impl Kind {
    /// The kind as written in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::AIFactory => "AIFactory",
            Kind::GPUPool => "GPUPool",
            Kind::AccessGrant => "AccessGrant",
        }
    }

    /// The inverse of [`Kind::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Kind::AIFactory, Kind::GPUPool, Kind::AccessGrant].into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A resource on the hub, by name. Never by UID: a restore gives the same resource another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OwnerRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace on the hub.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl OwnerRef {
    /// A reference to the resource of this kind, namespace and name.
    pub fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }

    /// Reads what [`fmt::Display`] writes, `Kind/namespace/name`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let kind = Kind::parse(parts.next()?)?;
        let (namespace, name) = (parts.next()?, parts.next()?);
        if parts.next().is_some() || namespace.is_empty() || name.is_empty() {
            return None;
        }
        Some(Self::new(kind, namespace, name))
    }
}

impl fmt::Display for OwnerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}
