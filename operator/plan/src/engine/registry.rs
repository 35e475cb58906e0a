//! The engines that a site is driven with, and what follows from all of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::engine::contract::Engine;
use crate::engine::uses::{Care, KindUse};
use crate::model::intent::SiteIntent;
use crate::model::kind::ObjectKind;
use crate::model::view::View;

/// The engines that a site is driven with, in the order in which they add to a stage.
#[derive(Clone, Copy)]
pub struct Engines(&'static [&'static dyn Engine]);

/// The API that brings kinds which not every cluster serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Api {
    /// As status names it.
    pub name: &'static str,
    /// Its group.
    pub group: &'static str,
    /// The version that is needed.
    pub version: &'static str,
}

impl Engines {
    /// Just these.
    pub const fn new(engines: &'static [&'static dyn Engine]) -> Self {
        Self(engines)
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = &'static dyn Engine> {
        self.0.iter().copied()
    }

    /// The kinds that any of them works with.
    pub fn kinds(self) -> impl Iterator<Item = &'static KindUse> {
        self.iter().flat_map(|engine| engine.kinds())
    }

    /// What is done with a kind.
    pub fn use_of(self, kind: ObjectKind) -> Option<&'static KindUse> {
        self.kinds().find(|used| used.kind == kind)
    }

    /// The kinds that are watched at a site which serves these beside those that every cluster does.
    pub fn watched(self, site: &SiteIntent, served: &BTreeSet<ObjectKind>) -> BTreeSet<ObjectKind> {
        let concerned = self.iter().filter(|engine| engine.concerns(site)).flat_map(|engine| engine.kinds());
        let seen = concerned.filter(|used| used.care != Care::Unseen && (used.api.is_none() || served.contains(&used.kind)));
        seen.map(|used| used.kind).collect()
    }

    /// The APIs that not every cluster serves, with the kinds that are needed of each.
    pub fn apis(self) -> BTreeMap<Api, Vec<ObjectKind>> {
        let mut apis: BTreeMap<Api, Vec<ObjectKind>> = BTreeMap::new();
        for used in self.kinds() {
            if let Some(name) = used.api {
                let (group, version, _, _) = used.kind.gvk();
                apis.entry(Api { name, group, version }).or_default().push(used.kind);
            }
        }
        apis
    }

    /// The view that the kind's engine keeps of an object.
    pub fn read(self, kind: ObjectKind, object: &Value) -> Option<View> {
        self.iter().filter(|engine| engine.kinds().iter().any(|used| used.kind == kind)).find_map(|engine| engine.read(kind, object))
    }

    /// Whether the objects that a site has once depend on which owners have something there.
    pub fn shares(self) -> bool {
        self.iter().any(|engine| engine.shares())
    }
}

impl std::fmt::Debug for Engines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter().map(|engine| engine.name())).finish()
    }
}
