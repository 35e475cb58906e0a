//! The key of a part of a site of a factory.

use std::fmt;

use aifactory_api::OwnerRef;
use serde::{Deserialize, Serialize};

/// Which part of a site. Each has an address and a credential of its own, and may be there without the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Part {
    /// Its Kubernetes.
    #[default]
    Kubernetes,
    /// Its Slurm, by REST.
    Slurm,
}

/// A part of a site of a factory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SiteKey {
    /// The factory.
    pub factory: OwnerRef,
    /// The site's name.
    pub site: String,
    /// The part.
    pub part: Part,
}

impl SiteKey {
    /// The Kubernetes of a site of a factory.
    pub fn new(factory: OwnerRef, site: impl Into<String>) -> Self {
        Self { factory, site: site.into(), part: Part::Kubernetes }
    }

    /// The Slurm of a site of a factory.
    pub fn slurm(factory: OwnerRef, site: impl Into<String>) -> Self {
        Self { factory, site: site.into(), part: Part::Slurm }
    }

    /// The same site's other part.
    pub fn other(&self) -> Self {
        let part = match self.part {
            Part::Kubernetes => Part::Slurm,
            Part::Slurm => Part::Kubernetes,
        };
        Self { part, ..self.clone() }
    }

    /// The site's name as status shows it to a resource of the factory `home`: alone for its own sites; `namespace/site` for those of a factory that is
    /// named like its namespace, and `namespace/factory/site` for all others, so that no two sites have one name.
    pub fn display(&self, home: &OwnerRef) -> String {
        let OwnerRef { kind: _, namespace, name } = &self.factory;
        if self.factory == *home {
            self.site.clone()
        } else if namespace == name {
            format!("{namespace}/{}", self.site)
        } else {
            format!("{namespace}/{name}/{}", self.site)
        }
    }
}

impl fmt::Display for SiteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.factory.namespace, self.factory.name, self.site)?;
        match self.part {
            Part::Kubernetes => Ok(()),
            Part::Slurm => f.write_str("/slurm"),
        }
    }
}
