//! Text for people, in bounds.

/// At most five names, and how many more there are.
pub fn bounded(names: &[String]) -> String {
    let shown = names.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(5) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// At most `length` characters.
pub fn shorten(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        text.to_owned()
    } else {
        let mut cut: String = text.chars().take(length.saturating_sub(1)).collect();
        cut.push('…');
        cut
    }
}
