//! Writing: block style, keys in canonical order, and quotes wherever some reader could see anything but the string.

use serde_json::{Map, Value};

use super::{YamlError, scalar};

const MAX_DEPTH: usize = 100;
/// YAML ends an implicit key after 1024 characters; escapes take up to six each.
const MAX_KEY: usize = 160;

/// Writes one document. Equal values give equal bytes.
pub fn write(value: &Value) -> Result<String, YamlError> {
    let mut out = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => mapping(&mut out, fields, 0, 0)?,
        Value::Array(items) if !items.is_empty() => sequence(&mut out, items, 0, 0)?,
        other => {
            inline(&mut out, other);
            out.push('\n');
        }
    }
    Ok(out)
}

/// Writes documents one after the other, with `---` between them.
pub fn write_documents<'v>(values: impl IntoIterator<Item = &'v Value>) -> Result<String, YamlError> {
    let documents = values.into_iter().map(write).collect::<Result<Vec<_>, _>>()?;
    Ok(documents.join("---\n"))
}

fn mapping(out: &mut String, fields: &Map<String, Value>, indent: usize, depth: usize) -> Result<(), YamlError> {
    let mut entries: Vec<_> = fields.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    for (position, (key, value)) in entries.into_iter().enumerate() {
        if position > 0 {
            pad(out, indent);
        }
        if key.chars().count() > MAX_KEY {
            return Err(YamlError::KeyTooLong { limit: MAX_KEY });
        }
        string(out, key);
        out.push(':');
        child(out, value, indent, depth, true)?;
    }
    Ok(())
}

fn sequence(out: &mut String, items: &[Value], indent: usize, depth: usize) -> Result<(), YamlError> {
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            pad(out, indent);
        }
        out.push('-');
        child(out, item, indent, depth, false)?;
    }
    Ok(())
}

/// Writes what stands after `key:` or `-`, with the line break that ends it.
fn child(out: &mut String, value: &Value, indent: usize, depth: usize, after_key: bool) -> Result<(), YamlError> {
    if depth >= MAX_DEPTH {
        return Err(YamlError::TooDeep { limit: MAX_DEPTH });
    }
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            open(out, indent + 2, after_key);
            mapping(out, fields, indent + 2, depth + 1)
        }
        // As kubectl writes them: the items of a list stand under its key, not further in.
        Value::Array(items) if !items.is_empty() => {
            let inner = if after_key { indent } else { indent + 2 };
            open(out, inner, after_key);
            sequence(out, items, inner, depth + 1)
        }
        Value::String(text) if is_block(text) => {
            block(out, text, indent + 2);
            Ok(())
        }
        other => {
            out.push(' ');
            inline(out, other);
            out.push('\n');
            Ok(())
        }
    }
}

fn open(out: &mut String, indent: usize, after_key: bool) {
    if after_key {
        out.push('\n');
        pad(out, indent);
    } else {
        out.push(' ');
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn inline(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => out.push_str(&number_text(&number.to_string())),
        Value::String(text) => string(out, text),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

/// YAML 1.1 wants a point in the mantissa and a sign in the exponent.
fn number_text(text: &str) -> String {
    let Some((mantissa, exponent)) = text.split_once('e') else { return text.to_owned() };
    let point = if mantissa.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with(['-', '+']) { "" } else { "+" };
    format!("{mantissa}{point}e{sign}{exponent}")
}

fn string(out: &mut String, text: &str) {
    if scalar::is_safe_plain(text) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if scalar::needs_escape(c) => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Whether a text is better read as a block, and is the same when read back from one.
fn is_block(text: &str) -> bool {
    let lines = text.strip_suffix('\n').unwrap_or(text);
    lines.contains('\n')
        && !lines.starts_with('\n')
        && !lines.ends_with('\n')
        && lines.split('\n').all(|line| !line.starts_with([' ', '\t']) && !line.ends_with([' ', '\t']) && !line.starts_with(['#', '-', '.', '%']))
        && lines.chars().all(|c| c == '\n' || !scalar::needs_escape(c))
}

fn block(out: &mut String, text: &str, indent: usize) {
    let (lines, chomp) = match text.strip_suffix('\n') {
        Some(lines) => (lines, " |\n"),
        None => (text, " |-\n"),
    };
    out.push_str(chomp);
    for line in lines.split('\n') {
        if !line.is_empty() {
            pad(out, indent);
            out.push_str(line);
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::{write, write_documents};
    use crate::yaml::{YamlError, read_documents};

    #[test]
    fn one_shape_for_one_value() {
        let value = json!({
            "spec": {"sites": [{"name": "bissen", "on": true}, ["a", ["b"]], [], {}], "text": "first\n\nthird\n", "port": "80"},
            "kind": "AIFactory", "apiVersion": "aifactory.dev/v1alpha1", "y": null, "number": 1e21, "when": "2026-11-20",
        });
        let expected = "apiVersion: aifactory.dev/v1alpha1\nkind: AIFactory\nnumber: 1.0e+21\nspec:\n  port: \"80\"\n  sites:\n  - name: bissen\n    \"on\": true\n  - - a\n    - - b\n  - []\n  - {}\n  text: |\n    first\n\n    third\nwhen: \"2026-11-20\"\n\"y\": null\n";
        assert_eq!(write(&value).unwrap(), expected);
        assert_eq!(write_documents([&json!({"a": 1}), &json!([2])]).unwrap(), "a: 1\n---\n- 2\n");
    }

    #[test]
    fn what_can_not_be_written_fails() {
        assert!(matches!(write(&json!({"k".repeat(2_000): 1})), Err(YamlError::KeyTooLong { .. })));
        let deep = (0..300).fold(json!(1), |inner, _| json!([inner]));
        assert!(matches!(write(&deep), Err(YamlError::TooDeep { .. })));
    }

    fn text() -> impl Strategy<Value = String> {
        let nasty = prop::sample::select(vec![
            "no",
            "On",
            "yes",
            "y",
            "N",
            "null",
            "~",
            "",
            " ",
            "012",
            "1_000",
            "1e3",
            ".5",
            "0x1F",
            "0o7",
            "+1",
            "-",
            "- a",
            "? a",
            ": a",
            "a: b",
            "a #b",
            "#",
            "12:30:45",
            "190:20:30",
            "2026-11-20",
            "<<",
            "=",
            "!t",
            "&a",
            "*a",
            "%TAG",
            "---",
            "...",
            "--- a",
            "a\n",
            "a\nb",
            "a\n\nb\n",
            "\n",
            "a\n b",
            "\ta",
            "a\r\nb",
            "a\u{85}b",
            "\u{2028}",
            "\u{feff}a",
            "é",
            "'",
            "\"",
            "\\",
            "|",
            ">",
            "{}",
            "[]",
            ".nan",
            "-.inf",
            "true",
            "FALSE",
            "a ",
            "a:",
            "@x",
            "`x",
            "\u{0}",
            "\u{7f}",
            "😀",
            "a\n---\nb",
            "a\n...\n",
            "a\n#b",
            "a\n%b",
            "x\n\n\n",
        ])
        .prop_map(str::to_owned);
        prop_oneof![nasty, "[a-zA-Z0-9 :#_./-]{0,12}", "\\PC{0,8}", proptest::collection::vec(any::<char>(), 0..6).prop_map(String::from_iter)]
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1.0e300..1.0e300f64).prop_map(Value::from),
            text().prop_map(Value::from),
            text().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::vec((text(), inner), 0..5).prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_reader_reads_what_was_written(value in value()) {
            let wrapped = json!({ "v": value });
            let text = write(&wrapped).unwrap();
            let ours = read_documents(&text);
            prop_assert_eq!(ours, Ok(vec![wrapped.clone()]), "{}", text);
            // An independent reader that understands YAML 1.1 booleans, numbers and merge keys as kubectl does.
            let other: Result<Value, _> = serde_saphyr::from_str(&text);
            prop_assert_eq!(other.map_err(|error| error.to_string()), Ok(wrapped), "{}", text);
        }
    }
}
