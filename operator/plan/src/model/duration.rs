//! Durations as our resources write them: a whole number and `s`, `m` or `h`.

/// Seconds of `1h`, `30m` or `0s`; `None` where it is something else.
pub fn seconds(text: &str) -> Option<i64> {
    let (digits, factor) = match text.as_bytes().last()? {
        b's' => (text.strip_suffix('s')?, 1),
        b'm' => (text.strip_suffix('m')?, 60),
        b'h' => (text.strip_suffix('h')?, 3600),
        _ => return None,
    };
    digits.parse::<i64>().ok().filter(|value| *value >= 0)?.checked_mul(factor)
}
