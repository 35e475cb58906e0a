//! Kubernetes quantities in the form in which the API server stores them, so that what is observed equals what was planned.

/// A count in decimal form: `5`, `5k`, `1500`.
pub fn count(value: i64) -> String {
    reduce(value, 1000, &["", "k", "M", "G", "T", "P", "E"])
}

/// Memory or storage of this many GiB in binary form: `120Gi`, `2Ti`.
pub fn gibibytes(value: i64) -> String {
    reduce(value, 1024, &["Gi", "Ti", "Pi", "Ei"])
}

/// A quota such as `5Ti` or `500Gi` in stored form; `None` where it is something else.
pub fn storage(text: &str) -> Option<String> {
    if text == "0" {
        return Some(text.to_owned());
    }
    let (digits, factor) = match text.strip_suffix("Gi") {
        Some(digits) => (digits, 1),
        None => (text.strip_suffix("Ti")?, 1024),
    };
    let value: i64 = digits.parse().ok().filter(|value| *value > 0)?;
    Some(gibibytes(value.checked_mul(factor)?))
}

/// Reads a stored count such as `5` or `2k`; `None` where it is not a whole number.
pub fn parse_count(text: &str) -> Option<i64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, suffix) = text.split_at_checked(digits)?;
    let factor = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(factor)
}

fn reduce(mut value: i64, base: i64, suffixes: &[&str]) -> String {
    let mut suffixes = suffixes.iter();
    let mut suffix = suffixes.next().copied().unwrap_or_default();
    if value == 0 {
        return "0".to_owned();
    }
    while value % base == 0 {
        let Some(larger) = suffixes.next() else { break };
        value /= base;
        suffix = larger;
    }
    format!("{value}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::{count, gibibytes, parse_count, storage};

    #[test]
    fn canonical_forms() {
        assert_eq!(count(0), "0");
        assert_eq!(count(1500), "1500");
        assert_eq!(count(5000), "5k");
        assert_eq!(gibibytes(2048), "2Ti");
        assert_eq!(gibibytes(120), "120Gi");
        assert_eq!(storage("5Ti").as_deref(), Some("5Ti"));
        assert_eq!(storage("2048Gi").as_deref(), Some("2Ti"));
        assert_eq!(storage("12GiB"), None);
        assert_eq!(parse_count("5k"), Some(5000));
        assert_eq!(parse_count("100m"), None);
    }
}
