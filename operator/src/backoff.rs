//! How long to wait after failures, for each key on its own.

use std::{collections::HashMap, fmt, hash::Hash, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};

type Delays = <ExponentialBuilder as BackoffBuilder>::Backoff;

/// Exponential delays with jitter, one sequence a key.
pub struct Backoff<K> {
    builder: ExponentialBuilder,
    max: Duration,
    failing: HashMap<K, Delays>,
}

impl<K: Clone + Eq + Hash> Backoff<K> {
    /// Delays from `min` up to `max`, doubling. Half of each longer delay is chance, so that keys that failed together do not come back together.
    pub fn new(min: Duration, max: Duration) -> Self {
        // Jitter adds up to as much again.
        let builder = ExponentialBuilder::new().with_min_delay(min).with_max_delay(max / 2).without_max_times().with_jitter();
        Self { builder, max, failing: HashMap::new() }
    }

    /// The delay after one more failure of this key.
    pub fn next(&mut self, key: &K) -> Duration {
        let builder = self.builder;
        let delays = self.failing.entry(key.clone()).or_insert_with(|| builder.build());
        delays.next().map_or(self.max, |delay| delay.min(self.max))
    }

    /// Forgets the failures of this key.
    pub fn reset(&mut self, key: &K) {
        self.failing.remove(key);
    }

    /// How many keys fail at present.
    pub fn failing(&self) -> usize {
        self.failing.len()
    }
}

impl<K: Clone + Eq + Hash> Default for Backoff<K> {
    /// From 0.2 s to a minute.
    fn default() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(60))
    }
}

impl<K> fmt::Debug for Backoff<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backoff").field("max", &self.max).field("failing", &self.failing.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Backoff;

    #[test]
    fn delays_double_within_bounds_and_start_again_after_success() {
        let mut backoff = Backoff::default();
        let delays: Vec<Duration> = (0..20).map(|_| backoff.next(&"a")).collect();
        for (round, delay) in delays.iter().enumerate() {
            let least = Duration::from_millis(200 << round.min(10)).min(Duration::from_secs(30));
            assert!(*delay >= least && *delay <= (least * 2).min(Duration::from_secs(60)), "round {round}: {delay:?}");
        }
        assert!(backoff.next(&"b") <= Duration::from_millis(400));
        assert_eq!(backoff.failing(), 2);
        backoff.reset(&"a");
        assert!(backoff.next(&"a") <= Duration::from_millis(400));
    }
}
