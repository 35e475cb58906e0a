//! The API reference of the book, generated from the CustomResourceDefinitions. `UPDATE=1` writes it; otherwise drift fails.

use std::fmt::Write as _;

use aifactory_tests::layout;
use serde_json::{Map, Value};

use super::{none, read};

/// Type of a field, as a reader would write it.
fn type_of(schema: &Value) -> String {
    match schema["type"].as_str() {
        Some("array") => format!("list of {}", type_of(&schema["items"])),
        Some("object") if schema["additionalProperties"].is_object() => format!("map to {}", type_of(&schema["additionalProperties"])),
        Some("object") => "object".to_owned(),
        Some("string") if schema["format"] == "date-time" => "time".to_owned(),
        Some(other) => other.to_owned(),
        None => "any".to_owned(),
    }
}

fn inline(value: &Value) -> String {
    value.as_str().map_or_else(|| format!("`{value}`"), |text| format!("`{text}`"))
}

/// Bounds of a value, or of the entries of a list.
fn bounds(schema: &Value) -> Vec<String> {
    let mut bounds = Vec::new();
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values.iter().filter(|value| !value.is_null()).map(inline).collect();
        bounds.push(format!("one of {}", values.join(", ")));
    }
    let number = |key: &str| schema[key].as_f64().map(|number| format!("{number}"));
    for (least, most, what) in [
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " entries"),
        ("minProperties", "maxProperties", " entries"),
    ] {
        match (number(least), number(most)) {
            (Some(least), Some(most)) if least == most => bounds.push(format!("{least}{what}")),
            (Some(least), Some(most)) => bounds.push(format!("{least} to {most}{what}")),
            (Some(least), None) => bounds.push(format!("at least {least}{what}")),
            (None, Some(most)) => bounds.push(format!("at most {most}{what}")),
            (None, None) => {}
        }
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        bounds.push(format!("pattern `{}`", pattern.replace('|', "\\|")));
    }
    if let Some(keys) = schema["x-kubernetes-list-map-keys"].as_array() {
        bounds.push(format!("keyed by {}", keys.iter().map(inline).collect::<Vec<_>>().join(", ")));
    }
    if schema["type"] == "array" {
        bounds.extend(bounds_of_entries(&schema["items"]));
    }
    bounds
}

fn bounds_of_entries(schema: &Value) -> Option<String> {
    if schema["type"] == "object" {
        return None;
    }
    let bounds = bounds(schema);
    (!bounds.is_empty()).then(|| format!("each: {}", bounds.join("; ")))
}

/// The object inside a field, if it has fields of its own.
fn inner(schema: &Value) -> Option<(&Map<String, Value>, &Value, &'static str)> {
    let (schema, mark) = if schema["type"] == "array" { (&schema["items"], "[]") } else { (schema, "") };
    schema["properties"].as_object().map(|fields| (fields, schema, mark))
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn table(out: &mut String, path: &str, schema: &Value) {
    let Some((fields, schema, mark)) = inner(schema) else { return };
    let path = format!("{path}{mark}");
    writeln!(out, "## `{path}`\n").unwrap();
    if let Some(text) = schema["description"].as_str() {
        writeln!(out, "{}\n", cell(text).replace("\\|", "|")).unwrap();
    }
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !fields.is_empty() {
        writeln!(out, "| field | type | | meaning |\n|---|---|---|---|").unwrap();
    }
    for (name, field) in fields {
        let need = if required.contains(&name.as_str()) {
            "required".to_owned()
        } else if field["default"].is_null() || field["default"].is_object() {
            String::new()
        } else {
            format!("default {}", inline(&field["default"]))
        };
        let bounds = bounds(field);
        let bounds = if bounds.is_empty() { String::new() } else { format!(" ({})", bounds.join("; ")) };
        let text = cell(field["description"].as_str().unwrap_or_default());
        writeln!(out, "| `{name}` | {} | {need} | {text}{bounds} |", type_of(field)).unwrap();
    }
    writeln!(out).unwrap();
    let rules: Vec<&str> = schema["x-kubernetes-validations"].as_array().into_iter().flatten().filter_map(|rule| rule["message"].as_str()).collect();
    if !rules.is_empty() {
        writeln!(out, "The API server refuses what breaks these rules, with these words:\n").unwrap();
        for rule in rules {
            writeln!(out, "- {}", cell(rule).replace("\\|", "|").replace('<', "&lt;")).unwrap();
        }
        writeln!(out).unwrap();
    }
    for (name, field) in fields {
        let rules: Vec<&str> = field["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|_| field["type"] != "object")
            .filter_map(|rule| rule["message"].as_str())
            .collect();
        for rule in rules {
            writeln!(out, "- `{name}`: {}", cell(rule).replace("\\|", "|").replace('<', "&lt;")).unwrap();
        }
        if field["type"] != "object" && !field["x-kubernetes-validations"].is_null() {
            writeln!(out).unwrap();
        }
    }
    for (name, field) in fields {
        if name != "conditions" {
            table(out, &format!("{path}.{name}"), field);
        }
    }
}

fn page(crd: &Value) -> (String, String) {
    let names = &crd["spec"]["names"];
    let kind = names["kind"].as_str().unwrap();
    let version = &crd["spec"]["versions"][0];
    let schema = &version["schema"]["openAPIV3Schema"];
    let mut out = format!("# {kind}\n\n<!-- Generated from the CustomResourceDefinition by tests/suites/docs/reference.rs; not edited. -->\n\n");
    let short: Vec<&str> = names["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    writeln!(
        out,
        "`apiVersion: {}/{}`, short name `{}`, namespaced.",
        crd["spec"]["group"].as_str().unwrap(),
        version["name"].as_str().unwrap(),
        short.join("`, `")
    )
    .unwrap();
    let columns: Vec<String> = version["additionalPrinterColumns"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|column| {
            let name = column["name"].as_str().unwrap_or_default();
            if column["priority"].as_i64().unwrap_or_default() > 0 { format!("`{name}` (wide)") } else { format!("`{name}`") }
        })
        .collect();
    if !columns.is_empty() {
        writeln!(out, "\n`kubectl get` prints {}.", columns.join(", ")).unwrap();
    }
    writeln!(out, "\nConditions are explained in [Conditions and reasons](../conditions.md).\n").unwrap();
    table(&mut out, "spec", &schema["properties"]["spec"]);
    table(&mut out, "status", &schema["properties"]["status"]);
    (format!("docs/src/reference/{}.md", kind.to_lowercase()), format!("{}\n", out.trim_end()))
}

#[test]
fn the_reference_matches_the_definitions() {
    let mut complaints = Vec::new();
    for crd in aifactory_api::crds() {
        let (path, text) = page(&serde_json::to_value(&crd).unwrap());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(layout::root().join(&path), &text).unwrap();
        } else if read(&path) != text {
            complaints.push(format!("{path} is not what the definition says; run `make docs`"));
        }
    }
    none(complaints);
}

#[test]
fn every_field_is_documented() {
    fn visit(path: &str, schema: &Value, complaints: &mut Vec<String>) {
        let Some((fields, _, mark)) = inner(schema) else { return };
        for (name, field) in fields {
            if field["description"].as_str().is_none_or(str::is_empty) {
                complaints.push(format!("{path}{mark}.{name} has no description"));
            }
            visit(&format!("{path}{mark}.{name}"), field, complaints);
        }
    }
    let mut complaints = Vec::new();
    for crd in aifactory_api::crds() {
        let crd = serde_json::to_value(&crd).unwrap();
        let properties = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        for part in ["spec", "status"] {
            visit(&format!("{}.{part}", crd["spec"]["names"]["kind"].as_str().unwrap()), &properties[part], &mut complaints);
        }
    }
    none(complaints);
}
