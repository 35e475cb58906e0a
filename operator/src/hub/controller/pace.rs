//! Limits how often a status is written: a result at once, progress and mere numbers at intervals.

use std::time::Duration;

use tokio::time::Instant;

/// How long a status with "in progress" is held back, since a final one often follows at once.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a status with "in progress" is updated.
const STILL: Duration = Duration::from_secs(30);
/// How often a status is updated where only numbers have changed.
const NUMBERS: Duration = Duration::from_secs(30);

/// What a new status changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing: the stored status is up to date.
    Nothing,
    /// Numbers.
    Numbers,
    /// More than numbers.
    Words,
}

/// When a status is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Not before something changes.
    Never,
    /// Not before this time.
    At(Instant),
    /// Now.
    Now,
}

/// Since when a resource is in progress, and when its status was written last.
#[derive(Debug, Default)]
pub struct Pace {
    generation: i64,
    /// Since when the resource has been in progress for this generation without interruption.
    moving: Option<Instant>,
    written: Option<Instant>,
}

impl Pace {
    /// When to write a status that was computed now.
    pub fn due(&mut self, generation: i64, in_progress: bool, change: Change, now: Instant) -> Due {
        if self.generation != generation {
            self.generation = generation;
            self.moving = None;
        }
        self.moving = in_progress.then(|| self.moving.unwrap_or(now));
        if change == Change::Nothing {
            return Due::Never;
        }
        // A write before the progress began does not contain it.
        let at = self.moving.map(|since| match self.written.filter(|written| *written > since) {
            Some(written) => written + STILL,
            None => since + PATIENCE,
        });
        let numbers = self.written.map(|written| written + NUMBERS).filter(|_| change == Change::Numbers);
        match at.max(numbers) {
            Some(at) if at > now => Due::At(at),
            _ => Due::Now,
        }
    }

    /// A status was written.
    pub fn written(&mut self, now: Instant) {
        self.written = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_turns_bad_is_in_status_soon_also_right_after_a_write() {
        let (mut pace, begun) = (Pace::default(), Instant::now());
        let at = |milliseconds| begun + Duration::from_millis(milliseconds);
        assert_eq!(pace.due(1, true, Change::Words, begun), Due::At(begun + PATIENCE));
        assert_eq!(pace.due(1, false, Change::Words, at(100)), Due::Now);
        pace.written(at(110));
        assert_eq!(pace.due(1, false, Change::Nothing, at(120)), Due::Never);
        assert_eq!(pace.due(1, true, Change::Words, at(1_000)), Due::At(at(1_500)), "the namespace was deleted by hand");
        assert_eq!(pace.due(1, true, Change::Words, at(1_500)), Due::Now);
        pace.written(at(1_510));
        assert_eq!(pace.due(1, true, Change::Words, at(2_000)), Due::At(at(31_510)), "how far it is is told now and then");
        assert_eq!(pace.due(1, false, Change::Words, at(2_100)), Due::Now, "that it is done is told at once");
    }

    #[test]
    fn what_turns_bad_is_written_at_once_when_progress_is_stored_already() {
        let (mut pace, begun) = (Pace::default(), Instant::now());
        pace.written(begun);
        assert_eq!(pace.due(0, true, Change::Nothing, begun + Duration::from_secs(1)), Due::Never);
        assert_eq!(pace.due(0, true, Change::Words, begun + Duration::from_secs(2)), Due::Now);
    }

    #[test]
    fn another_generation_begins_anew_and_numbers_wait() {
        let (mut pace, begun) = (Pace::default(), Instant::now());
        assert_eq!(pace.due(1, true, Change::Words, begun), Due::At(begun + PATIENCE));
        pace.written(begun + Duration::from_secs(1));
        let later = begun + Duration::from_secs(2);
        assert_eq!(pace.due(2, true, Change::Words, later), Due::At(later + PATIENCE));
        assert_eq!(pace.due(2, false, Change::Numbers, later), Due::At(begun + Duration::from_secs(1) + NUMBERS));
        assert_eq!(pace.due(2, false, Change::Words, later), Due::Now);
    }
}
