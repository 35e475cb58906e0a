//! What the code has a closed set of, the book explains: all of it, and nothing that is not there.

use std::collections::BTreeSet;

use aifactory_api::Reason;
use aifactory_api::grant::{GrantPhase, SiteRowPhase};

use super::{none, read};

const CONDITIONS: &str = "docs/src/conditions.md";

/// Headings of this level, with the text below each.
fn sections(text: &str, level: &str) -> Vec<(String, String)> {
    let mut sections: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix(level).and_then(|rest| rest.strip_prefix(' ')) {
            sections.push((heading.trim().to_owned(), String::new()));
        } else if line.starts_with("## ") || line.starts_with("# ") {
            sections.push((String::new(), String::new()));
        } else if let Some((_, body)) = sections.last_mut() {
            body.push_str(line);
            body.push('\n');
        }
    }
    sections.into_iter().filter(|(heading, _)| !heading.is_empty()).collect()
}

#[test]
fn every_reason_is_explained_with_cause_and_fix() {
    let text = read(CONDITIONS);
    let reasons = text.split_once("\n## Reasons\n").expect("a chapter on reasons").1;
    let sections = sections(reasons, "###");
    let known: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    let explained: BTreeSet<&str> = sections.iter().map(|(heading, _)| heading.as_str()).collect();
    let mut complaints: Vec<String> = Vec::new();
    complaints.extend(known.difference(&explained).map(|reason| format!("{reason} is not explained")));
    complaints.extend(explained.difference(&known).map(|reason| format!("{reason} is explained and not in the code")));
    assert_eq!(sections.len(), explained.len(), "a reason is explained twice");
    for (reason, body) in &sections {
        for part in ["**Cause.**", "**Fix.**"] {
            if !body.contains(part) {
                complaints.push(format!("{reason} lacks {part}"));
            }
        }
    }
    none(complaints);
}

/// Strings of a source file that stand between these two.
fn quoted(source: &str, before: &str, after: &str) -> BTreeSet<String> {
    let text = read(source);
    let found: BTreeSet<String> = text.split(before).skip(1).filter_map(|rest| rest.split_once(after)).map(|(value, _)| value.to_owned()).collect();
    assert!(!found.is_empty(), "{source} has nothing after {before:?}");
    found
}

#[test]
fn every_condition_type_is_explained() {
    let source = read("operator/api/src/condition.rs");
    let types: BTreeSet<String> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("ConditionType::")?.split_once(" => \""))
        .map(|(name, _)| name.to_owned())
        .collect();
    let text = read(CONDITIONS);
    let chapter = text.split_once("\n## Types\n").expect("a chapter on types").1.split_once("\n## ").expect("another chapter").0;
    let explained: BTreeSet<String> =
        chapter.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name.to_owned()).collect();
    assert_eq!(types, explained);
}

#[test]
fn every_phase_is_documented_as_in_the_types() {
    let text = read("docs/src/concepts/status.md");
    let table = |head: &str| -> Vec<(String, String)> {
        let rows = text.split_once(head).expect("the table").1.lines().skip(2).take_while(|line| line.starts_with('|'));
        rows.filter_map(|row| row.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "))
            .map(|(phase, meaning)| (phase.to_owned(), meaning.to_owned()))
            .collect()
    };
    let known = |phase: &str, meaning: &str| (phase.to_owned(), meaning.to_owned());
    let grants: Vec<_> = GrantPhase::ALL.iter().map(|phase| known(phase.as_str(), phase.meaning())).collect();
    let sites: Vec<_> = SiteRowPhase::ALL.iter().map(|phase| known(phase.as_str(), phase.meaning())).collect();
    assert_eq!(table("\n| phase | |"), grants);
    assert_eq!(table("\n| phase at a site | |"), sites);
}

/// Phases are for people. What admission protects hangs on what sites have said, so that no policy knows a phase.
#[test]
fn no_policy_compares_a_phase() {
    let folder = aifactory_tests::layout::root().join("charts/aifactory-hub");
    let mut complaints = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let words = GrantPhase::ALL.iter().filter(|phase| text.contains(&format!("'{phase}'")) || text.contains(&format!("\"{phase}\"")));
        complaints.extend(words.map(|phase| format!("{}: compares with {phase}", path.display())));
    }
    none(complaints);
}

#[test]
fn every_label_and_annotation_is_explained() {
    let text = read("docs/src/reference/labels.md");
    let names = quoted("operator/api/src/labels.rs", ": &str = \"", "\"");
    let missing = names.iter().filter(|name| name.contains(".dev/") && !text.contains(&format!("`{name}")));
    none(missing.map(|name| format!("{name} is not explained")).collect());
}

#[test]
fn every_metric_is_explained() {
    let text = read("docs/src/operations/metrics.md");
    let source = read("operator/src/telemetry/metrics.rs");
    // A call may be laid out over several lines.
    let flat: String = source.split_whitespace().collect::<Vec<_>>().join(" ").replace("register( ", "register(");
    let names: BTreeSet<&str> = flat.split("registry.register(\"").skip(1).filter_map(|rest| rest.split_once('"')).map(|(name, _)| name).collect();
    assert!(names.len() > 5, "{names:?}");
    none(
        names.iter().filter(|name| !text.contains(&format!("`aifactory_{name}"))).map(|name| format!("aifactory_{name} is not explained")).collect(),
    );
}

#[test]
fn every_task_that_may_panic_is_explained() {
    let text = read("docs/src/operations/metrics.md");
    let names = aifactory_operator::telemetry::metrics::ProcessTask::ALL.map(|task| task.as_str());
    none(names.iter().filter(|name| !text.contains(&format!("`{name}`"))).map(|name| format!("{name} is not explained")).collect());
}

#[test]
fn every_refusal_of_a_credential_is_explained() {
    let source = read("operator/src/credential/error.rs");
    let declared = source.split_once("credential_errors! {\n").expect("the macro's use").1;
    let mut names = BTreeSet::new();
    let mut after_error = false;
    for line in declared.lines().take_while(|line| *line != "}") {
        if after_error {
            names.insert(line.trim().split([',', ' ']).next().unwrap_or_default().to_owned());
        }
        after_error = line.starts_with("    #[error(") && line.ends_with(")]");
    }
    assert!(names.len() > 20, "{names:?}");
    let text = read("docs/src/operations/credentials.md");
    none(names.iter().filter(|name| !text.contains(&format!("`{name}`"))).map(|name| format!("{name} is not explained")).collect());
}

#[test]
fn every_flag_is_explained() {
    let operator = aifactory_tests::layout::operator_binary().expect("an operator");
    let help = std::process::Command::new(operator).args(["run", "--help"]).output().unwrap();
    assert!(help.status.success(), "{help:?}");
    let help = String::from_utf8(help.stdout).unwrap();
    let flags = |text: &str| -> BTreeSet<String> {
        let found = text.split("--").skip(1).map(|rest| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect::<String>());
        found.filter(|flag| !flag.is_empty() && flag != "help").collect()
    };
    let offered: String = help.lines().filter(|line| line.trim_start().starts_with("--")).collect();
    let text = read("docs/src/operations/install.md");
    let table: String = text.lines().filter(|line| line.starts_with("| `--")).collect();
    assert!(!offered.is_empty());
    assert_eq!(flags(&offered), flags(&table));
}
