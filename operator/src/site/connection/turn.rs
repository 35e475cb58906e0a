//! Timing of a task that is repeated and never runs twice at a time.

use std::time::Duration;

use tokio::time::Instant;

/// When a task begins, or that it runs. A task that runs has no deadline until its end sets the next one, so that the loop never sleeps until a time
/// that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It has no time yet.
    Never,
    /// At this time.
    At(Instant),
    /// The task runs.
    InFlight,
}

impl Turn {
    /// Whether the task is due; if so, it counts as running from now on.
    pub fn take(&mut self, now: Instant) -> bool {
        let due = matches!(*self, Self::At(at) if at <= now);
        if due {
            *self = Self::InFlight;
        }
        due
    }

    /// When the task is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::At(at) => Some(*at),
            Self::Never | Self::InFlight => None,
        }
    }

    /// The task begins by this time, unless it runs.
    pub fn sooner(&mut self, at: Instant) {
        match self {
            Self::At(known) => *known = at.min(*known),
            Self::Never => *self = Self::At(at),
            Self::InFlight => {}
        }
    }
}

/// The pause before something that failed is tried again, which doubles up to a cap.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// A back-off that has not begun.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, next: first }
    }

    /// The pause after one more failure.
    pub fn failed(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.cap);
        pause
    }

    /// The next failure is the first again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}
