//! Identifiers, a type for each kind, so that one can not be taken for another.
//!
//! They are serialised as the text alone. Nothing turns them into text without being asked, and a text becomes one only by [`HubId::new`] and its
//! like: where a resource, an object or an answer is read.

use std::borrow::Borrow;
use std::fmt;

use aifactory_api::OwnerRef;
use aifactory_api::name::tenant_namespace;
use serde::{Deserialize, Serialize};

macro_rules! identifiers {
    ($($(#[$doc:meta])* $name:ident,)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The identifier with this text.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// Its text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether its text is empty: then it names nothing.
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }

        // Messages quote identifiers with `{:?}`.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

identifiers! {
    /// A hub, for ever: random, made once, written on everything that the hub holds anywhere.
    HubId,
    /// The namespace of a grant at a site; see [`TenantNamespace::of`].
    TenantNamespace,
    /// The ClusterName of a Slurm.
    ClusterName,
    /// An account of a Slurm database.
    AccountName,
    /// A QOS of a Slurm database.
    QosName,
    /// A partition of a Slurm cluster.
    PartitionName,
    /// A user of a Slurm cluster.
    UserName,
}

impl TenantNamespace {
    /// The namespace that a grant of this hub has at every site.
    pub fn of(hub: &HubId, grant: &OwnerRef) -> Self {
        Self(tenant_namespace(hub.as_str(), grant))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{AccountName, QosName};

    #[test]
    fn an_identifier_is_stored_and_shown_as_its_text() {
        let account = AccountName::new("grant-a");
        assert_eq!((serde_json::json!(account), format!("{account} {account:?}")), (serde_json::json!("grant-a"), "grant-a \"grant-a\"".to_owned()));
        assert_eq!(serde_json::from_str::<AccountName>("\"grant-a\"").ok(), Some(account));
        let map = BTreeMap::from([(QosName::new("normal"), 1)]);
        assert_eq!((serde_json::json!(map), map.get("normal")), (serde_json::json!({"normal": 1}), Some(&1)));
    }
}
