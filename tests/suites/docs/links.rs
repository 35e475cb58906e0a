//! Links lead somewhere, the book lists all its pages, and commands that the docs name exist.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use aifactory_tests::layout;

use super::{files, none, read};

fn pages() -> Vec<PathBuf> {
    let mut pages = files("docs/src", ".md");
    pages.extend(["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(PathBuf::from));
    pages
}

/// Text outside of code blocks.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose
}

/// Targets of `[text](target)`, code left out.
fn targets(text: &str) -> Vec<String> {
    let prose: String = prose(text).split('`').step_by(2).collect();
    prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

/// The anchors of a page's headings, as mdBook and forges make them.
fn anchors(text: &str) -> BTreeSet<String> {
    prose(text)
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

#[test]
fn links_resolve() {
    let mut complaints = Vec::new();
    for page in pages() {
        for target in targets(&read(&page)) {
            if target.starts_with("https://") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if path.is_empty() { page.clone() } else { normal(&page.parent().unwrap_or(Path::new("")).join(path)) };
            if !layout::root().join(&file).exists() {
                complaints.push(format!("{}: {target}: no {}", page.display(), file.display()));
            } else if !anchor.is_empty() && !anchors(&read(&file)).contains(anchor) {
                complaints.push(format!("{}: {target}: no such heading", page.display()));
            }
        }
    }
    none(complaints);
}

#[test]
fn the_book_lists_every_page_once() {
    let listed = targets(&read("docs/src/SUMMARY.md"));
    let unique: BTreeSet<PathBuf> = listed.iter().map(|target| Path::new("docs/src").join(target)).collect();
    assert_eq!(listed.len(), unique.len(), "a page is listed twice");
    let there: BTreeSet<PathBuf> = files("docs/src", ".md").into_iter().filter(|path| !path.ends_with("SUMMARY.md")).collect();
    none(there.symmetric_difference(&unique).map(|path| format!("{}: listed or there, not both", path.display())).collect());
}

#[test]
fn paths_in_the_docs_exist() {
    let mut complaints = Vec::new();
    let mut texts = pages();
    texts.extend(files("examples", ".yaml"));
    texts.extend(files("charts", ".yaml"));
    for page in texts {
        let text = read(&page);
        let words = text.split(|c: char| c.is_whitespace() || matches!(c, '`' | '(' | ')' | '"' | ','));
        for word in words.map(|word| word.trim_end_matches(['.', ':', ';'])) {
            let ours = ["examples/", "charts/", "docs/src/", "tests/", "operator/", "crds/"].iter().any(|start| word.starts_with(start));
            if ours && !word.contains(['*', '<', '{', '…']) && !layout::root().join(word).exists() {
                complaints.push(format!("{}: {word} is not there", page.display()));
            }
        }
    }
    none(complaints);
}

#[test]
fn make_targets_in_the_docs_exist() {
    let makefile = read("Makefile");
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter(|line| !line.starts_with(['\t', ' ', '#', '.']))
        .filter_map(|line| line.split_once(':'))
        .flat_map(|(names, _)| names.split_whitespace())
        .collect();
    let mut complaints = Vec::new();
    for page in pages() {
        let text = read(&page);
        // In prose "make" is a verb: only what stands in code counts.
        for rest in text.split("`make ").skip(1).chain(text.split("\nmake ").skip(1)) {
            let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            let by_pattern = targets.iter().any(|target| target.split_once('%').is_some_and(|(start, _)| name.starts_with(start)));
            if !targets.contains(name.as_str()) && !by_pattern {
                complaints.push(format!("{}: make {name} is no target", page.display()));
            }
        }
    }
    none(complaints);
}
