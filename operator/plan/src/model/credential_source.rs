//! Where a site's credential is.

use serde::{Deserialize, Serialize};

/// Where a site's credential is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CredentialSource {
    /// In a Secret of the hub.
    Secret {
        /// Namespace of the Secret, which is the factory's.
        namespace: String,
        /// Its name.
        name: String,
        /// The key in it.
        key: String,
    },
    /// The hub is the site: the operator's own identity.
    Local,
}
