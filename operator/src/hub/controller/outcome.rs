//! Results of a reconcile, and of the work that it spawns.

use aifactory_api::OwnerRef;
use aifactory_plan::hub::known_sites::KnownSites;
use aifactory_plan::model::freshness::Moment;

use super::credentials::SecretName;
use crate::hub::known_sites::KnownSitesError;
use crate::hub::watch::WatchEvent;
use crate::hub::writes::{Write, WriteError};

/// Result of spawned work.
pub(super) enum Finished {
    Written {
        owner: OwnerRef,
        result: Result<Option<WatchEvent>, WriteError>,
        status: bool,
        asked: Moment,
    },
    /// The conditions of a resource that can not be reconciled were written, or could not be.
    ConditionsWritten {
        owner: OwnerRef,
        result: Result<Option<WatchEvent>, WriteError>,
        asked: Moment,
    },
    Released(OwnerRef, bool),
    ProtectionStored(bool),
    KnownStored(KnownSites, Result<(), KnownSitesError>),
    /// What is stored of the known parts was read, after so many writes.
    KnownRead(u64, Result<Option<KnownSites>, KnownSitesError>),
    SecretReleased(SecretName, bool),
}

/// What a reconcile asks for.
pub(super) enum Outcome {
    Nothing,
    /// The status says less than is known, and is written later.
    Later,
    Write(Write),
    /// Remove the finalizer from Secrets, then from the resource.
    Release(Vec<SecretName>),
}

impl Outcome {
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Outcome::Nothing => "nothing",
            Outcome::Later => "write the status later",
            Outcome::Write(Write::AddFinalizer) => "add the finalizer",
            Outcome::Write(Write::RemoveFinalizer) => "remove the finalizer",
            Outcome::Write(Write::Status(_)) => "write the status",
            Outcome::Write(Write::Conditions(_)) => "say why it can not be worked on",
            Outcome::Release(_) => "release credentials",
        }
    }
}
