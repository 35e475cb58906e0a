//! Explanations of client errors for people.

use std::io;

use tokio::time::error::Elapsed;

use crate::text;

/// The explanation for a server that does not answer.
pub const NO_ANSWER: &str = "no answer in time";

/// Longest explanation; it goes into conditions.
const MAX: usize = 600;

/// Why a call failed, with its causes and without debug output: what the server said, or why there was none.
pub fn explain(error: &kube::Error) -> String {
    let text = match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        kube::Error::Api(status) => format!("the server answered {} {}", status.code, status.reason),
        other => causes(other),
    };
    text::cut(text, MAX)
}

fn causes(error: &kube::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        // All timeouts get one text: which layer's timeout fires first is chance, and a condition that named it would change at each attempt.
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) || error.is::<Elapsed>() {
            return NO_ANSWER.to_owned();
        }
        parts.push(error.to_string());
        next = error.source();
    }
    // Many error types repeat the message of their source.
    let mut distinct: Vec<&str> = Vec::new();
    for (position, part) in parts.iter().enumerate() {
        if !parts.iter().skip(position + 1).any(|deeper| part.contains(deeper.as_str())) {
            distinct.push(part);
        }
    }
    distinct.join(": ")
}
