//! YAML is any text: it is read within its bounds or refused, and what was read is written so that it is read again as the same.

#![no_main]

use aifactory_operator::yaml::{Limits, read_within, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = read_within(text, Limits::UNTRUSTED);
    for document in read_within(text, Limits::MANIFESTS).unwrap_or_default() {
        let Ok(written) = write(&document) else { continue };
        assert_eq!(read_within(&written, Limits::MANIFESTS).unwrap_or_default(), [document], "{written}");
    }
});
