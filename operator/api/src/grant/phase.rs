//! Where a grant stands, as a whole and at one site: closed sets, compared as types and written down as words in status alone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

phases! {
    /// Where a grant stands. It is for people: whether the grant may still give access somewhere is `mayGiveAccess`.
    GrantPhase {
        /// Before `notBefore`.
        Scheduled,
        /// At least one site gives access.
        Active,
        /// `spec.state` is Paused: no new work starts.
        Paused,
        /// The budget is used up at every site: no new work starts until more hours are granted.
        Exhausted,
        /// After `notAfter`.
        Expired,
        /// `spec.state` is Revoked, or the grant is being deleted.
        Revoked,
        /// No site gives access, and only a person can change that.
        Refused,
        /// Spec and clock ask for access, and no site gives it yet; also what unknown values mean.
        #[serde(other)] Pending,
    }
}

phases! {
    /// Where a grant stands at one site.
    SiteRowPhase {
        /// Work is under way at the site, or fails.
        Pending,
        /// Members can work.
        Bound,
        /// No new work starts.
        Paused,
        /// Access is gone, data is kept.
        Locked,
        /// The site holds nothing of the grant.
        Gone,
        /// The site does not take the grant, or the hub does not give it there.
        Refused,
        /// The site can not be asked; also what unknown values mean.
        #[serde(other)] Unknown,
    }
}

// The macro takes no attribute for the default variant.
#[allow(clippy::derivable_impls)]
impl Default for SiteRowPhase {
    fn default() -> Self {
        SiteRowPhase::Unknown
    }
}
