//! Kinds of objects at a site. The set is open: each engine defines the kinds that it works with.

use std::cmp::Ordering;
use std::fmt;

use serde::{Serialize, Serializer};

/// A kind that is written or read at a site, Nodes and Pods aside. Two kinds are equal where their [`KindInfo`] is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectKind(&'static KindInfo);

/// The constant properties of a kind.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct KindInfo {
    /// API group; empty for the core one.
    pub group: &'static str,
    /// Version in which it is read and written.
    pub version: &'static str,
    /// The kind, as `RoleBinding`.
    pub kind: &'static str,
    /// The resource, as `rolebindings`.
    pub plural: &'static str,
    /// Whether all of `spec` is ours: a rule that others add to a network policy widens it.
    pub owns_spec: bool,
    /// What its objects do to the access of a grant's members.
    pub effect: Effect,
    /// When objects that are not wanted any more go.
    pub removal: Removal,
}

/// What the objects of a kind do to the access of a grant's members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// They give access: they are removed before anything else happens, and written after everything that bounds it.
    GivesAccess,
    /// They keep members apart from others, or within bounds.
    Fences,
    /// Neither.
    Neutral,
}

/// When objects that are not wanted any more go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Removal {
    /// As soon as they are not wanted.
    Swept,
    /// When the engine or the life cycle of their owner removes them, since something else has to happen before.
    Planned,
    /// Never: they stay also when their owner releases the site.
    Never,
}

impl KindInfo {
    /// A kind that neither gives nor bounds access, and whose objects go as soon as they are not wanted.
    pub const fn new(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Self {
        Self { group, version, kind, plural, owns_spec: false, effect: Effect::Neutral, removal: Removal::Swept }
    }
}

impl ObjectKind {
    /// The kind of which this is known.
    pub const fn new(info: &'static KindInfo) -> Self {
        Self(info)
    }

    /// All that is known of it.
    pub fn info(self) -> &'static KindInfo {
        self.0
    }

    /// API group, version, kind and plural.
    pub fn gvk(self) -> (&'static str, &'static str, &'static str, &'static str) {
        (self.0.group, self.0.version, self.0.kind, self.0.plural)
    }

    /// Whether all of `spec` is ours.
    pub fn owns_spec(self) -> bool {
        self.0.owns_spec
    }

    /// Whether its objects give access to members.
    pub fn gives_access(self) -> bool {
        self.0.effect == Effect::GivesAccess
    }

    /// Whether its objects keep members apart from others, or within bounds.
    pub fn fences(self) -> bool {
        self.0.effect == Effect::Fences
    }

    /// Whether its objects go as soon as they are not wanted.
    pub fn is_swept(self) -> bool {
        self.0.removal == Removal::Swept
    }

    /// Whether its objects stay also when their owner releases the site.
    pub fn stays(self) -> bool {
        self.0.removal == Removal::Never
    }

    /// `group/version`, or `version` for the core group.
    pub fn api_version(self) -> String {
        let (group, version, _, _) = self.gvk();
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
    }
}

impl Ord for ObjectKind {
    fn cmp(&self, other: &Self) -> Ordering {
        // Keys of objects are compared by the million, and mostly within one kind.
        if std::ptr::eq(self.0, other.0) {
            return Ordering::Equal;
        }
        (self.0.group, self.0.plural, self.0.version).cmp(&(other.0.group, other.0.plural, other.0.version))
    }
}

impl PartialOrd for ObjectKind {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.kind)
    }
}

impl Serialize for ObjectKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.kind)
    }
}
