//! What an engine does with a kind: which of its objects concern it, and how they are seen.

use aifactory_api::labels;

use crate::model::kind::ObjectKind;

/// A kind that an engine works with. Watches, discovery and the site's role follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindUse {
    /// The kind.
    pub kind: ObjectKind,
    /// Where objects lie that may concern the engine.
    pub place: Place,
    /// The one name that is watched; `None`: all.
    pub name: Option<&'static str>,
    /// Under which name status shows the API that brings the kind; `None`: every cluster serves it.
    pub api: Option<&'static str>,
    /// Which objects the index keeps.
    pub care: Care,
}

/// Where objects are that may concern an engine. Most objects of a site are elsewhere, and are dropped before they are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where their own name begins as ours do.
    Named,
    /// In namespaces whose names begin as ours do.
    Tenants,
    /// Either.
    TenantsAndNamed,
    /// Anywhere.
    Anywhere,
}

/// Which objects of a kind are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    /// Ours.
    Owned,
    /// Ours, and those of others in tenants' namespaces, since they may widen what a grant gives.
    OwnedAndWidening,
    /// The engine's view of all of them, whoever owns them; the site's pools are reconciled when a view changes.
    All,
    /// None: they are written and never read.
    Unseen,
}

impl KindUse {
    /// Objects of ours of a kind that every cluster serves.
    pub const fn new(kind: ObjectKind, place: Place) -> Self {
        Self { kind, place, name: None, api: None, care: Care::Owned }
    }

    /// Whether an object with this namespace and name may concern the engine.
    pub fn concerns(&self, namespace: &str, name: &str) -> bool {
        let ours = |text: &str| text.starts_with(labels::PREFIX);
        match self.place {
            Place::Named => ours(name),
            Place::Tenants => ours(namespace),
            Place::TenantsAndNamed => ours(namespace) || ours(name),
            Place::Anywhere => true,
        }
    }
}
