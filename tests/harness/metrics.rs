//! Reading Prometheus text.

use std::collections::BTreeMap;

/// Samples of a `/metrics` page.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    samples: Vec<Sample>,
}

/// One line of the page.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Name of the series.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Metrics {
    /// Reads a page; lines that are no samples are passed over.
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect();
        Self { samples }
    }

    /// All samples.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The sum over all series of a name that carry the labels; `None` when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self
            .samples
            .iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|seen| seen == value)))
            .peekable();
        found.peek()?;
        Some(found.map(|sample| sample.value).sum())
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, rest) = match line.split_once('{') {
        // A label's value may hold anything but an unescaped quote, so the last brace ends the labels.
        Some((name, rest)) => {
            let (labels, value) = rest.rsplit_once('}')?;
            ((name, labels), value)
        }
        None => {
            let (name, value) = line.split_once(' ')?;
            ((name, ""), value)
        }
    };
    let (name, labels) = series;
    Some(Sample { name: name.to_owned(), labels: parse_labels(labels), value: rest.split_whitespace().next()?.parse().ok()? })
}

fn parse_labels(mut text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    while let Some((key, rest)) = text.split_once("=\"") {
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    end = at;
                    break;
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, escaped)) => value.push(escaped),
                    None => {}
                },
                other => value.push(other),
            }
        }
        labels.insert(key.trim_start_matches([',', ' ']).to_owned(), value);
        text = rest.get(end + 1..).unwrap_or_default();
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn reads_what_prometheus_writes() {
        let metrics = Metrics::parse(
            "# TYPE writes counter\nwrites_total{site=\"a}\",verb=\"pa\\\"tch\"} 3\nwrites_total{site=\"b\",verb=\"patch\"} 4 17\nup 1\n",
        );
        assert_eq!(metrics.sum("writes_total", &[]), Some(7.0));
        assert_eq!(metrics.sum("writes_total", &[("site", "a}"), ("verb", "pa\"tch")]), Some(3.0));
        assert_eq!(metrics.sum("up", &[]), Some(1.0));
        assert_eq!(metrics.sum("down", &[]), None);
    }
}
