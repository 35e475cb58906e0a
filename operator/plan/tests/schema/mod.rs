//! The bounds of the definitions, so that what is aggregated can be held to them.

use serde_json::Value;

/// Where a status breaks a bound that the API server would refuse it for.
pub fn complaints(kind: &str, status: &Value) -> Vec<String> {
    let crds: Vec<Value> = aifactory_api::crds().iter().map(|crd| serde_json::to_value(crd).expect("JSON")).collect();
    let crd = crds.iter().find(|crd| crd["spec"]["names"]["kind"] == kind).expect("one of ours");
    let mut complaints = Vec::new();
    check("status", &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"], status, &mut complaints);
    complaints
}

fn check(path: &str, schema: &Value, value: &Value, complaints: &mut Vec<String>) {
    let mut complain = |what: String| complaints.push(format!("{path}: {what}"));
    let bound = |name: &str| schema[name].as_u64().and_then(|bound| usize::try_from(bound).ok());
    match value {
        Value::Array(items) => {
            if bound("maxItems").is_some_and(|most| items.len() > most) {
                complain(format!("{} items", items.len()));
            }
            let keys = schema["x-kubernetes-list-map-keys"].as_array().cloned().unwrap_or_default();
            for (at, item) in items.iter().enumerate() {
                let same = |other: &Value| !keys.is_empty() && keys.iter().filter_map(Value::as_str).all(|key| other[key] == item[key]);
                if items.iter().take(at).any(same) {
                    complain(format!("two items of one key: {item}"));
                }
            }
            items.iter().for_each(|item| check(&format!("{path}[]"), &schema["items"], item, complaints));
        }
        Value::Object(fields) => {
            for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if !fields.contains_key(required) {
                    complain(format!("{required} is missing"));
                }
            }
            for (name, field) in fields {
                match schema["properties"].get(name) {
                    Some(property) => check(&format!("{path}.{name}"), property, field, complaints),
                    None => complaints.push(format!("{path}.{name}: not in the schema")),
                }
            }
        }
        Value::String(text) => {
            let length = text.chars().count();
            if bound("maxLength").is_some_and(|most| length > most) || bound("minLength").is_some_and(|least| length < least) {
                complain(format!("{length} characters"));
            }
            if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
                complain(format!("{text} is no value"));
            }
        }
        Value::Number(number) => {
            if schema["minimum"].as_f64().zip(number.as_f64()).is_some_and(|(least, number)| number < least) {
                complain(format!("{number} is too low"));
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}
