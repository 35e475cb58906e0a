//! YAML in and out: the only module that knows `serde_yaml`.
//!
//! Everything passes through [`serde_json::Value`], never straight into a type. YAML has two dialects in daily use: kubectl reads
//! `no`, `012` and `1_000` as false, 10 and 1000, while other readers see strings. What they disagree about is refused on the way in
//! and quoted on the way out, so a manifest means the same to us, to kubectl and to a Git diff.

mod read;
mod scalar;
mod write;

pub use read::{Limits, read_documents, read_within};
pub use write::{write, write_documents};

/// Why a text was not read, or a value not written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum YamlError {
    /// Longer than allowed.
    #[error("the text is longer than {limit} bytes")]
    TooLarge {
        /// Most bytes allowed.
        limit: usize,
    },
    /// More nodes than allowed, aliases expanded.
    #[error("the text holds more than {limit} values (aliases count each time they are used)")]
    TooManyNodes {
        /// Most nodes allowed.
        limit: usize,
    },
    /// Not YAML.
    #[error("line {line}: {detail}")]
    Syntax {
        /// Line, from 1; 0 when unknown.
        line: usize,
        /// The parser's message.
        detail: String,
    },
    /// A key is given twice in one mapping.
    #[error("line {line}: the key `{key}` is given twice in one mapping; keep one of them")]
    DuplicateKey {
        /// Line, from 1.
        line: usize,
        /// The key.
        key: String,
    },
    /// A key is no string.
    #[error("line {line}: a mapping key is not a string; put it in quotes")]
    KeyNotString {
        /// Line, from 1.
        line: usize,
    },
    /// A scalar without quotes that kubectl and other readers understand differently.
    #[error("line {line}: `{text}` without quotes is {meaning}; write \"{text}\" for the string, or the value that you mean")]
    Ambiguous {
        /// Line, from 1.
        line: usize,
        /// The scalar.
        text: String,
        /// What kubectl makes of it.
        meaning: &'static str,
    },
    /// A tag, such as `!!binary`.
    #[error("line {line}: tags are not used in manifests; remove the word that starts with `!`")]
    Tag {
        /// Line, from 1.
        line: usize,
    },
    /// An anchor or alias where none is allowed.
    #[error("line {line}: anchors and aliases are not allowed here; write the value out")]
    Anchor {
        /// Line, from 1.
        line: usize,
    },
    /// A number that JSON can not hold.
    #[error("line {line}: this number can not be held exactly; put it in quotes if it is a name")]
    Number {
        /// Line, from 1.
        line: usize,
    },
    /// Nested deeper than anybody writes.
    #[error("the value is nested deeper than {limit} levels")]
    TooDeep {
        /// Most levels allowed.
        limit: usize,
    },
    /// A key that YAML can not hold on one line.
    #[error("a key is longer than {limit} characters")]
    KeyTooLong {
        /// Most characters allowed.
        limit: usize,
    },
}

impl YamlError {
    /// The line that it is about, where known. Unlike the message it never repeats what was written there.
    pub fn line(&self) -> Option<usize> {
        match self {
            YamlError::Syntax { line, .. }
            | YamlError::DuplicateKey { line, .. }
            | YamlError::KeyNotString { line }
            | YamlError::Ambiguous { line, .. }
            | YamlError::Tag { line }
            | YamlError::Anchor { line }
            | YamlError::Number { line } => (*line > 0).then_some(*line),
            YamlError::TooLarge { .. } | YamlError::TooManyNodes { .. } | YamlError::TooDeep { .. } | YamlError::KeyTooLong { .. } => None,
        }
    }
}
