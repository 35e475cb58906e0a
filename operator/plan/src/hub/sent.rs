//! What a part of a site was sent last of a resource, and which report answers it.

use std::sync::Arc;

use crate::model::digest::{Digest, digest_of};
use crate::model::intent::Intent;

/// An intent that was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The digest of the intent without its serial.
    content: Digest,
    /// The intent.
    pub intent: Arc<Intent>,
}

impl Sent {
    /// The intent as it is sent.
    pub fn new(intent: &Intent) -> Self {
        Self { content: digest_of(&Intent { serial: 0, ..intent.clone() }), intent: Arc::new(intent.clone()) }
    }

    /// Gives an intent without a serial the one under which it was sent, or is to be sent: an intent that comes back after another one is not answered
    /// by a report from before, since the part may have acted on the one in between.
    pub fn number(last: Option<&Self>, intent: &mut Intent) {
        let Some(last) = last else { return };
        let same = last.content == digest_of(intent);
        intent.serial = last.intent.serial + i64::from(!same);
    }
}
