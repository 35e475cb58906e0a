//! The table, and the same as JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::Failure;

struct Line {
    row: &'static str,
    what: String,
    measured: String,
    bar: &'static str,
    met: bool,
}

/// Rows as they are measured.
#[derive(Default)]
pub struct Table {
    lines: Vec<Line>,
    figures: BTreeMap<&'static str, BTreeMap<String, f64>>,
    reference: BTreeMap<&'static str, f64>,
}

impl Table {
    pub fn add(&mut self, row: &'static str, what: impl Into<String>, measured: String, bar: &'static str, met: bool) {
        let line = Line { row, what: what.into(), measured, bar, met };
        println!("{:4} {:60} {:>26}  {:24} {}", line.row, line.what, line.measured, line.bar, if line.met { "met" } else { "MISSED" });
        self.lines.push(line);
    }

    pub fn figure(&mut self, row: &'static str, name: &str, value: f64) {
        self.figures.entry(row).or_default().insert(name.to_owned(), value);
    }

    pub fn reference(&mut self, name: &'static str, value: f64) {
        self.reference.insert(name, value);
    }

    pub fn print(&self) {
        println!("\n{:4} {:60} {:>26}  {:24}", "row", "what", "measured", "bar");
        let mut lines: Vec<&Line> = self.lines.iter().collect();
        lines.sort_by_key(|line| line.row);
        for line in lines {
            println!("{:4} {:60} {:>26}  {:24} {}", line.row, line.what, line.measured, line.bar, if line.met { "met" } else { "MISSED" });
        }
        let text: Vec<String> = self.reference.iter().map(|(name, value)| format!("{name} {value:.1}")).collect();
        println!("\nbare server-side-apply client, same objects, same run: {}", text.join(", "));
    }

    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let mut value = json!(self.figures);
        if let Value::Object(rows) = &mut value {
            rows.insert("reference".to_owned(), json!(self.reference));
        }
        std::fs::write(path, format!("{value:#}\n"))?;
        Ok(())
    }
}

/// The value below which this share of the samples lies.
pub fn percentile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let index = ((samples.len() as f64 * share).ceil() as usize).clamp(1, samples.len().max(1)) - 1;
    samples.get(index).copied().unwrap_or(f64::NAN)
}
