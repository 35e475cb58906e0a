//! Shortens texts.

/// Cuts a text that is longer than `max` bytes, between characters, and marks the cut.
pub fn cut(mut text: String, max: usize) -> String {
    const MORE: &str = "…";
    if text.len() > max {
        let room = max.saturating_sub(MORE.len());
        let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str(MORE);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("short".to_owned(), 1_000), "short");
        for text in ["a".repeat(5_000), "é".repeat(5_000), "😀".repeat(5_000)] {
            let short = cut(text, 1_000);
            assert!(short.len() <= 1_000 && short.len() > 990 && short.ends_with('…'));
        }
    }
}
