//! Values of command-line flags that need more than clap's own parsers.

use std::time::Duration;

/// Reads a duration such as `15s`, `500ms` or `1m30s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let duration: jiff::SignedDuration = text.parse().map_err(|_| format!("`{text}` is no duration; write for example 15s, 500ms or 1m30s"))?;
    Duration::try_from(duration).map_err(|_| "a duration must not be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::duration;

    #[test]
    fn durations_are_read_with_their_unit() {
        assert_eq!(duration("15s"), Ok(Duration::from_secs(15)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        for text in ["", "15", "soon", "-3s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
