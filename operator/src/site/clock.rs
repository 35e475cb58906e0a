//! The current time on both clocks: deadlines use the monotonic clock, times in resources are compared with the wall clock.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// The longest sleep until a wall-clock time, since that clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(24 * 3600);

/// One moment, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub instant: Instant,
    /// The wall clock.
    pub timestamp: Timestamp,
}

impl Now {
    /// Reads both clocks.
    pub fn read() -> Self {
        Self { instant: Instant::now(), timestamp: Timestamp::now() }
    }

    /// The monotonic time for a wall-clock time: now where that has passed, and at most a day ahead.
    pub fn instant_of(&self, at: Timestamp) -> Instant {
        let wait = Duration::try_from(at.duration_since(self.timestamp)).unwrap_or_default();
        self.instant + wait.min(LONGEST_SLEEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_has_passed_is_due_at_once_and_one_far_off_is_looked_at_daily() {
        let now = Now::read();
        assert_eq!(now.instant_of(Timestamp::MIN), now.instant);
        assert_eq!(now.instant_of(now.timestamp + Duration::from_millis(1500)), now.instant + Duration::from_millis(1500));
        assert_eq!(now.instant_of(Timestamp::MAX), now.instant + LONGEST_SLEEP);
    }
}
