//! Views: what engines keep of objects, as values of types of their own that the index stores without knowing them.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use crate::model::object::{ObjectKey, ObjectKind};

/// What an engine keeps of one object.
#[derive(Clone, Debug)]
pub struct View(Arc<dyn Viewed>);

trait Viewed: Any + Debug + Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn same(&self, other: &dyn Any) -> bool;
}

impl<T: Any + Debug + PartialEq + Send + Sync> Viewed for T {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn same(&self, other: &dyn Any) -> bool {
        other.downcast_ref::<T>() == Some(self)
    }
}

impl View {
    /// A view of this value.
    pub fn new<T: Any + Debug + PartialEq + Send + Sync>(value: T) -> Self {
        Self(Arc::new(value))
    }

    /// The value, for the engine that knows its type.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.as_ref().as_any().downcast_ref()
    }
}

impl PartialEq for View {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_ref().same(other.0.as_ref().as_any())
    }
}

/// The views of a site's objects.
#[derive(Debug, Default)]
pub struct Views {
    known: BTreeMap<ObjectKey, View>,
    listed: BTreeSet<ObjectKind>,
}

impl Views {
    /// The view of an object.
    pub fn get<T: Any>(&self, key: &ObjectKey) -> Option<&T> {
        self.known.get(key)?.get()
    }

    /// The views of all objects of a kind.
    pub fn of_kind<T: Any>(&self, kind: ObjectKind) -> impl Iterator<Item = (&ObjectKey, &T)> {
        self.keys(kind).filter_map(|key| Some((key, self.get(key)?)))
    }

    /// The objects of a kind that have a view.
    pub fn keys(&self, kind: ObjectKind) -> impl Iterator<Item = &ObjectKey> {
        self.known.range(ObjectKey::cluster(kind, "")..).map(|(key, _)| key).take_while(move |key| key.kind == kind)
    }

    /// Whether all objects of a kind have been seen.
    pub fn is_listed(&self, kind: ObjectKind) -> bool {
        self.listed.contains(&kind)
    }

    /// Stores that all objects of a kind have been seen.
    pub fn set_listed(&mut self, kind: ObjectKind) {
        self.listed.insert(kind);
    }

    /// Whether this view of an object is stored already.
    pub fn is_known(&self, key: &ObjectKey, view: &View) -> bool {
        self.known.get(key) == Some(view)
    }

    /// Stores a view; returns whether it has changed.
    pub fn put(&mut self, key: ObjectKey, view: View) -> bool {
        let news = !self.is_known(&key, &view);
        self.known.insert(key, view);
        news
    }

    /// Forgets the view of an object; returns whether there was one.
    pub fn remove(&mut self, key: &ObjectKey) -> bool {
        self.known.remove(key).is_some()
    }
}
