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
    /// `None`: it was not measured.
    met: Option<bool>,
}

impl Line {
    fn print(&self) {
        let met = match self.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "not measured",
        };
        println!("{:4} {:60} {:>26}  {:24} {met}", self.row, self.what, self.measured, self.bar);
    }
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
        let line = Line { row, what: what.into(), measured, bar, met: Some(met) };
        line.print();
        self.lines.push(line);
    }

    /// A row that can not be measured here, and why.
    pub fn skip(&mut self, row: &'static str, what: impl Into<String>, bar: &'static str, why: String) {
        let line = Line { row, what: what.into(), measured: why, bar, met: None };
        line.print();
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
        lines.iter().for_each(|line| line.print());
        if self.reference.is_empty() {
            return;
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
