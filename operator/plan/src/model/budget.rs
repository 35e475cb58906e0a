//! GPU-hours: exact conversions between the units of grants, Slurm and Pods.
//!
//! Grants are written in canonical GPU-hours; Slurm enforces device-minutes and job records count device-seconds. All arithmetic is on integers:
//! rounded down where something is granted, and cut to four decimals where it is shown.

use aifactory_api::grant::LocalBudget;
use aifactory_api::pool::Accounting;

use crate::model::site_key::Part;

/// Device-minutes in `hours` canonical GPU-hours, rounded down.
pub fn device_minutes(hours: i64, accounting: Accounting) -> i64 {
    let minutes = i128::from(hours.max(0)) * 60 * i128::from(accounting.per_device_hours.max(1)) / i128::from(accounting.canonical_gpu_hours.max(1));
    i64::try_from(minutes).unwrap_or(i64::MAX)
}

/// The unit in which Slurm counts jobs.
pub const OF_JOBS: &str = "gres/gpu-minutes";
/// The unit in which Pods are counted.
pub const OF_PODS: &str = "device-minutes";

/// The part of a site that a row of status is about.
pub fn part_of(budget: &LocalBudget) -> Part {
    if budget.unit == OF_PODS { Part::Kubernetes } else { Part::Slurm }
}

/// The longest time between two counts of what running Pods use, in seconds.
pub const PERIOD: i64 = 15;

/// The longest grace period for Pods of a used-up budget, in seconds. It is so much shorter than [`PERIOD`] that Pods end within the part of the
/// budget that is held back for this.
pub const GRACE: u32 = 10;

/// Device-seconds after which nothing more starts on Kubernetes: the part of the budget, less what the GPUs of a grant may use between two counts; at
/// least half of the part, so that a small one can be used.
pub fn closes_at(device_minutes: i64, max_gpus: i64) -> i64 {
    let part = device_minutes.max(0).saturating_mul(60);
    part - max_gpus.max(0).saturating_mul(PERIOD).min(part / 2)
}

/// Canonical GPU-hours in device-seconds, in ten-thousandths of an hour, rounded down.
pub fn ten_thousandths(device_seconds: i64, accounting: Accounting) -> i64 {
    let exact = i128::from(device_seconds.max(0)) * i128::from(accounting.canonical_gpu_hours.max(1)) * 10_000;
    i64::try_from(exact / (3600 * i128::from(accounting.per_device_hours.max(1)))).unwrap_or(i64::MAX)
}

/// Ten-thousandths of an hour as people read them: `1234.5`.
pub fn shown(ten_thousandths: i64) -> String {
    let (whole, rest) = (ten_thousandths / 10_000, ten_thousandths.rem_euclid(10_000));
    if rest == 0 { whole.to_string() } else { format!("{whole}.{rest:04}").trim_end_matches('0').to_owned() }
}

/// Parses the output of [`shown`].
pub fn parse(text: &str) -> Option<i64> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if !digits(whole) || !digits(rest) || rest.len() > 4 {
        return None;
    }
    whole.parse::<i64>().ok()?.checked_mul(10_000)?.checked_add(format!("{rest:0<4}").parse().ok()?)
}

#[cfg(test)]
mod tests {
    use aifactory_api::pool::Accounting;
    use proptest::prelude::*;

    use super::{device_minutes, parse, shown, ten_thousandths};

    const HALF: Accounting = Accounting { canonical_gpu_hours: 1, per_device_hours: 2 };
    const THIRD: Accounting = Accounting { canonical_gpu_hours: 3, per_device_hours: 1 };

    #[test]
    fn hours_become_minutes_and_back() {
        assert_eq!(device_minutes(5000, Accounting::default()), 300_000);
        assert_eq!(device_minutes(1, HALF), 120);
        assert_eq!(device_minutes(1, THIRD), 20);
        assert_eq!(ten_thousandths(7200, HALF), 10_000);
        assert_eq!(ten_thousandths(1, Accounting::default()), 2);
        let widest = Accounting { canonical_gpu_hours: 1, per_device_hours: 1000 };
        assert_eq!(ten_thousandths(device_minutes(1_000_000_000_000, widest) * 60, widest) / 10_000, 1_000_000_000_000);
    }

    #[test]
    fn people_read_four_decimals_at_most() {
        assert_eq!(shown(0), "0");
        assert_eq!(shown(12_345_000), "1234.5");
        assert_eq!(shown(10_001), "1.0001");
        assert_eq!(shown(100_000), "10");
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(hours in 0..i64::MAX) {
            prop_assert_eq!(parse(&shown(hours)), Some(hours));
        }


        #[test]
        fn no_conversion_gives_more_than_was_granted(hours in 0..1_000_000_i64, canonical in 1..1000_i64, device in 1..1000_i64) {
            let accounting = Accounting { canonical_gpu_hours: canonical, per_device_hours: device };
            let minutes = device_minutes(hours, accounting);
            prop_assert!(ten_thousandths(minutes * 60, accounting) <= hours * 10_000);
            // One minute more would be more than was granted.
            prop_assert!(i128::from(minutes + 1) * i128::from(canonical) > i128::from(hours) * 60 * i128::from(device));
        }
    }
}
