//! What readers of YAML 1.1 and 1.2 make of a scalar without quotes.

/// Words that YAML 1.1 reads as booleans and YAML 1.2 as strings.
const OLD_BOOLEANS: [&str; 8] = ["y", "n", "yes", "no", "on", "off", "Y", "N"];

/// What kubectl makes of an unquoted scalar, when other readers make something else of it.
pub(super) fn ambiguity(text: &str) -> Option<&'static str> {
    if is_word(text, &OLD_BOOLEANS) {
        return Some("a boolean for kubectl and a string for others");
    }
    if text == "<<" {
        return Some("a merge key for kubectl and a plain key for others");
    }
    if is_special_float(text) {
        return Some("no number that JSON can hold");
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let plain = digits.replace('_', "");
    if plain.len() != digits.len() && is_number(&plain) {
        return Some("a number for kubectl and a string for others");
    }
    let mut chars = digits.chars();
    let (first, second) = (chars.next(), chars.next());
    if first == Some('0') && (matches!(second, Some('o' | 'b' | 'O' | 'B')) && is_number(digits) || is_digits(digits) && second.is_some()) {
        return Some("a number with another base for some readers");
    }
    None
}

/// Whether it is a whole number that readers would round to a float.
pub(super) fn is_integer_out_of_range(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    is_digits(digits) && text.parse::<i64>().is_err() && text.parse::<u64>().is_err()
}

/// Whether a string may be written without quotes so that every reader sees this string.
///
/// Errs on the side of quotes: a string that starts with anything but a letter or `/` may be a number, a date or a time to somebody.
pub(super) fn is_safe_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let lower = text.to_ascii_lowercase();
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && !text.ends_with([' ', ':'])
        && !WORDS.contains(&lower.as_str())
        && !text.contains(": ")
        && !text.contains(" #")
        && text.chars().all(|c| c.is_ascii_graphic() || c == ' ' || (c.is_alphanumeric() && !needs_escape(c)))
}

/// Whether a character must be escaped between double quotes: controls, line breaks of YAML 1.1, byte order marks.
pub(super) fn needs_escape(c: char) -> bool {
    matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

fn is_word(text: &str, words: &[&str]) -> bool {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return false };
    let rest = chars.as_str();
    let one_case = rest.chars().all(|c| c.is_ascii_lowercase()) || text.chars().all(|c| c.is_ascii_uppercase());
    one_case && first.is_ascii_alphabetic() && words.contains(&text.to_ascii_lowercase().as_str())
}

fn is_special_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    matches!(unsigned, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN")
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_number(text: &str) -> bool {
    let based = |prefix: [&str; 2], radix: u32| {
        prefix.iter().filter_map(|p| text.strip_prefix(p)).any(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix)))
    };
    is_digits(text) || text.parse::<f64>().is_ok() || based(["0x", "0X"], 16) || based(["0o", "0O"], 8) || based(["0b", "0B"], 2)
}

#[cfg(test)]
mod tests {
    use super::{ambiguity, is_safe_plain};

    #[test]
    fn what_readers_disagree_about_is_known() {
        for text in [
            "y", "N", "yes", "No", "ON", "off", "<<", ".inf", "-.INF", ".NaN", "012", "-012", "089", "00", "0o14", "0b101", "1_000", "0x1_F",
            "1_0.5", "+1_0", "12e0_3",
        ] {
            assert!(ambiguity(text).is_some(), "{text}");
        }
    }

    #[test]
    fn what_all_read_alike_passes() {
        for text in [
            "yEs",
            "nO",
            "none",
            "note",
            "one",
            "0",
            "10",
            "-3",
            "0.5",
            "1e3",
            "0x1F",
            "10_node",
            "0abc",
            "0.10.1",
            "12:30:45",
            "2026-11-20",
            "2026-11-20T00:00:00Z",
            "true",
            "null",
            "~",
            "",
            "a_b",
            "10.0.0.0/8",
            "::1",
        ] {
            assert!(ambiguity(text).is_none(), "{text}");
        }
    }

    #[test]
    fn only_harmless_strings_go_without_quotes() {
        for text in [
            "no",
            "On",
            "NULL",
            "1",
            "-x",
            "a: b",
            "a #b",
            "a:",
            "",
            " a",
            "*a",
            "&a",
            "!t",
            "{a",
            "[a",
            "#a",
            "@a",
            "`a",
            "%a",
            "'a",
            "\"a",
            "- a",
            "? a",
            "a\nb",
            "a\tb",
            "é\u{2028}",
        ] {
            assert!(!is_safe_plain(text), "{text:?}");
        }
        for text in ["nodes", "v1alpha1", "aifactory.dev/v1alpha1", "a:b", "It's \"fine\", [really]", "/api", "Größe"] {
            assert!(is_safe_plain(text), "{text:?}");
        }
    }
}
