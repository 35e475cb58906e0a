//! Reading: every guard that `serde_yaml` lacks, in front of it.

use std::{
    cell::{Cell, RefCell},
    fmt,
};

use granit_parser::{Event, Parser, ScalarStyle};
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{YamlError, scalar};

/// How much a reader accepts.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most bytes of text.
    pub bytes: usize,
    /// Most values, aliases expanded.
    pub nodes: usize,
    /// Whether anchors and aliases may be used.
    pub anchors: bool,
}

impl Limits {
    /// For manifests that somebody hands to a command.
    pub const MANIFESTS: Limits = Limits { bytes: 64 << 20, nodes: 4_000_000, anchors: true };
    /// For text out of a Secret that anybody may have written.
    pub const UNTRUSTED: Limits = Limits { bytes: 64 << 10, nodes: 4_000, anchors: false };
}

/// Reads all documents of a text; empty ones are left out.
pub fn read_documents(text: &str) -> Result<Vec<Value>, YamlError> {
    read_within(text, Limits::MANIFESTS)
}

/// Reads all documents of a text within limits of one's own.
pub fn read_within(text: &str, limits: Limits) -> Result<Vec<Value>, YamlError> {
    if text.len() > limits.bytes {
        return Err(YamlError::TooLarge { limit: limits.bytes });
    }
    scan(text, limits)?;
    let guard = Guard { left: Cell::new(limits.nodes), limit: limits.nodes, refusal: RefCell::new(None) };
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        match (Node { guard: &guard }).deserialize(document) {
            Ok(Value::Null) => {}
            Ok(value) => documents.push(value),
            Err(error) => return Err(guard.explain(&error)),
        }
    }
    Ok(documents)
}

/// Looks at the notation, which the deserializer hides: a quoted `"no"` is fine, a plain `no` is not.
fn scan(text: &str, limits: Limits) -> Result<(), YamlError> {
    for next in Parser::new_from_str(text) {
        let (event, span) = next.map_err(|error| YamlError::Syntax { line: error.marker().line(), detail: error.to_string() })?;
        let line = span.start.line();
        if !limits.anchors && (event.is_alias() || event.anchor_id().is_some()) {
            return Err(YamlError::Anchor { line });
        }
        if event.tag().is_some() {
            return Err(YamlError::Tag { line });
        }
        if let Event::Scalar(value, ScalarStyle::Plain, _, _) = &event {
            if let Some(meaning) = scalar::ambiguity(value) {
                return Err(YamlError::Ambiguous { line, text: value.to_string(), meaning });
            }
            if scalar::is_integer_out_of_range(value) {
                return Err(YamlError::Number { line });
            }
        }
    }
    Ok(())
}

/// What is left to read, and why reading stopped: serde's errors can carry text only.
struct Guard {
    left: Cell<usize>,
    limit: usize,
    refusal: RefCell<Option<Refusal>>,
}

enum Refusal {
    TooManyNodes,
    DuplicateKey(String),
    KeyNotString,
    Number,
    Tag,
}

impl Guard {
    fn refuse<E: serde::de::Error>(&self, refusal: Refusal) -> E {
        self.refusal.replace(Some(refusal));
        E::custom("refused")
    }

    fn take<E: serde::de::Error>(&self) -> Result<(), E> {
        match self.left.get().checked_sub(1) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => Err(self.refuse(Refusal::TooManyNodes)),
        }
    }

    fn explain(&self, error: &serde_yaml::Error) -> YamlError {
        let line = error.location().map_or(0, |location| location.line());
        match self.refusal.take() {
            Some(Refusal::TooManyNodes) => YamlError::TooManyNodes { limit: self.limit },
            Some(Refusal::DuplicateKey(key)) => YamlError::DuplicateKey { line, key },
            Some(Refusal::KeyNotString) => YamlError::KeyNotString { line },
            Some(Refusal::Number) => YamlError::Number { line },
            Some(Refusal::Tag) => YamlError::Tag { line },
            None => YamlError::Syntax { line, detail: error.to_string() },
        }
    }
}

#[derive(Clone, Copy)]
struct Node<'g> {
    guard: &'g Guard,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.guard.take()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E: serde::de::Error>(self, _: i128) -> Result<Value, E> {
        Err(self.guard.refuse(Refusal::Number))
    }

    fn visit_u128<E: serde::de::Error>(self, _: u128) -> Result<Value, E> {
        Err(self.guard.refuse(Refusal::Number))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| self.guard.refuse(Refusal::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key_seed(self)? {
            let Value::String(key) = key else { return Err(self.guard.refuse(Refusal::KeyNotString)) };
            if fields.contains_key(&key) {
                return Err(self.guard.refuse(Refusal::DuplicateKey(key)));
            }
            let value = map.next_value_seed(self)?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }

    fn visit_enum<A: serde::de::EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(self.guard.refuse(Refusal::Tag))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Limits, read_documents, read_within};
    use crate::yaml::YamlError;

    #[test]
    fn documents_are_read_in_order_and_empty_ones_skipped() {
        let read = read_documents("# only a comment\n---\na: 1\n---\n---\n- x\n- \"no\"\n...\n").unwrap();
        assert_eq!(read, [json!({"a": 1}), json!(["x", "no"])]);
        assert!(read_documents("").unwrap().is_empty());
    }

    #[test]
    fn strings_that_look_like_times_stay_strings() {
        let read =
            read_documents("notBefore: 2026-12-01T00:00:00Z\nday: 2026-12-01\ntime: 12:30:45\nfloat: 1e3\nhex: 0x1F\nempty:\ntilde: ~\n").unwrap();
        let expected = json!({"notBefore": "2026-12-01T00:00:00Z", "day": "2026-12-01", "time": "12:30:45", "float": 1000.0, "hex": 31, "empty": null, "tilde": null});
        assert_eq!(read, [expected]);
    }

    #[test]
    fn ambiguous_scalars_are_refused_with_their_line() {
        for (text, line) in
            [("a: no", 1), ("a: b\nc: [x, on]", 2), ("a:\n  y: 1", 2), ("a: 012", 1), ("a: 1_000", 1), ("<<: {a: 1}", 1), ("a: .nan", 1)]
        {
            let error = read_documents(text).unwrap_err();
            assert!(matches!(error, YamlError::Ambiguous { .. }), "{text}: {error}");
            assert_eq!(error.line(), Some(line), "{text}");
        }
        assert_eq!(read_documents("a: 'no'\nb: \"012\"\nc: |-\n  on\n").unwrap(), [json!({"a": "no", "b": "012", "c": "on"})]);
        assert_eq!(
            read_documents("x: no").unwrap_err().to_string(),
            "line 1: `no` without quotes is a boolean for kubectl and a string for others; write \"no\" for the string, or the value that you mean"
        );
    }

    #[test]
    fn duplicate_keys_are_refused_at_every_depth() {
        for (text, line) in [("a: 1\na: 2", 2), ("x:\n  - a: 1\n    b: 2\n    'a': 3", 4), ("{a: 1, \"a\": 2}", 1)] {
            let error = read_documents(text).unwrap_err();
            assert!(matches!(&error, YamlError::DuplicateKey { key, .. } if key == "a"), "{text}: {error}");
            assert!(error.line().is_some_and(|at| at <= line), "{text}: {error}");
        }
    }

    #[test]
    fn keys_tags_and_numbers_out_of_reach_are_refused() {
        assert!(matches!(read_documents("1: a"), Err(YamlError::KeyNotString { .. })));
        assert!(matches!(read_documents("true: a"), Err(YamlError::KeyNotString { .. })));
        assert!(matches!(read_documents("? [a]\n: b"), Err(YamlError::KeyNotString { .. })));
        assert!(matches!(read_documents("a: !!binary aGk="), Err(YamlError::Tag { .. })));
        assert!(matches!(read_documents("a: !Foo {}"), Err(YamlError::Tag { .. })));
        assert!(matches!(read_documents("a: 340282366920938463463374607431768211456"), Err(YamlError::Number { .. })));
        assert!(matches!(read_documents("a: -9223372036854775809"), Err(YamlError::Number { .. })));
        assert!(matches!(read_documents("a: 18446744073709551616"), Err(YamlError::Number { .. })));
        assert!(matches!(read_documents("a: [b"), Err(YamlError::Syntax { .. })));
    }

    #[test]
    fn aliases_expand_within_a_budget() {
        assert_eq!(read_documents("a: &x {k: v}\nb: *x").unwrap(), [json!({"a": {"k": "v"}, "b": {"k": "v"}})]);
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..9 {
            let below = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", [below.as_str(); 10].join(","));
        }
        assert!(read_documents(&bomb).is_err());
        assert!(matches!(read_within("a: &x 1\n", Limits::UNTRUSTED), Err(YamlError::Anchor { line: 1 })));
        assert!(matches!(read_within("a: 1\nb: *x\n", Limits::UNTRUSTED), Err(YamlError::Anchor { .. } | YamlError::Syntax { .. })));
    }

    #[test]
    fn size_count_and_depth_are_bounded() {
        let limits = Limits { bytes: 16, nodes: 3, anchors: false };
        assert!(matches!(read_within(&"a".repeat(17), limits), Err(YamlError::TooLarge { limit: 16 })));
        assert!(matches!(read_within("[1,2,3]", limits), Err(YamlError::TooManyNodes { limit: 3 })));
        assert!(read_documents(&"[".repeat(50_000)).is_err());
        assert!(read_documents(&format!("{}{}", "[".repeat(5_000), "]".repeat(5_000))).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_reading_panic(text in proptest::prelude::any::<String>(), lines in "([ -]{0,4}[a-z&*!|>\\[\\]{}:,'\"#%@`?~0-9._-]{0,12}\n){0,12}") {
            for text in [text, lines] {
                let _ = read_within(&text, Limits::UNTRUSTED);
                let _ = read_documents(&text);
            }
        }
    }

    #[test]
    fn deep_text_is_refused_and_not_followed() {
        for text in ["[".repeat(50_000), "{a: ".repeat(10_000), "- ".repeat(20_000), format!("{}1{}", "[".repeat(500), "]".repeat(500))] {
            assert!(read_within(&text, Limits::UNTRUSTED).is_err());
        }
    }
}
