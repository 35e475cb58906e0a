//! Moments of the clock, as the API server stores them.

use jiff::Timestamp;

/// The API server stores whole seconds.
pub fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
