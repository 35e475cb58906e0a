//! Foreign objects in a tenant's namespace that may give more than the grant gives.

use std::collections::BTreeMap;

use super::binding::BindingView;
use crate::model::object::ObjectKey;

/// A foreign object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stranger {
    /// UID.
    pub uid: String,
    /// Whom a role binding binds, and to what.
    pub binding: Option<BindingView>,
}

/// Objects of others in one namespace.
pub type Strangers = BTreeMap<ObjectKey, Stranger>;
