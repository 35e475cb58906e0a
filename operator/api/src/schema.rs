//! The CustomResourceDefinitions, as generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::json;

use crate::{AIFactory, AccessGrant, GPUPool};

/// Every range of a list is written as its first address and a length.
pub(crate) const NO_HOST_BITS: &str = "self.all(c, isCIDR(c) && cidr(c).masked() == cidr(c))";

/// Link-local, loopback, multicast, and the addresses of clouds' metadata services.
const RESERVED: [&str; 9] = [
    "169.254.0.0/16",
    "127.0.0.0/8",
    "224.0.0.0/4",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "fe80::/10",
    "::1/128",
    "ff00::/8",
    "fd00:ec2::254/128",
];

/// No range of a list lies inside a reserved one.
pub(crate) fn none_reserved() -> String {
    format!("self.all(c, !isCIDR(c) || !({}))", inside_reserved("c"))
}

/// A range does not lie inside a reserved one.
pub(crate) fn not_reserved() -> String {
    format!("!isCIDR(self) || !({})", inside_reserved("self"))
}

/// One test after the other: a rule that goes through a list of them is estimated to cost more than half of what a rule may.
fn inside_reserved(range: &str) -> String {
    RESERVED.map(|reserved| format!("cidr('{reserved}').containsCIDR({range})")).join(" || ")
}

/// The three definitions, in the order in which they should be applied.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![AIFactory::crd(), GPUPool::crd(), AccessGrant::crd()];
    for crd in &mut crds {
        let kind = crd.spec.names.kind.clone();
        for version in &mut crd.spec.versions {
            let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) else { continue };
            schema.description = Some(describe(&kind).to_owned());
            refuse_nulls(schema);
            if kind == "AIFactory" {
                schema.x_kubernetes_validations = Some(keep_what_may_hold_something());
            }
            if let Some(spec) = schema.properties.as_mut().and_then(|properties| properties.get_mut("spec")) {
                explain_defaults(spec, false);
            }
            let Some(status) = schema.properties.as_mut().and_then(|properties| properties.get_mut("status")) else { continue };
            status.default = Some(JSON(unseen()));
            if let Some(conditions) = status.properties.as_mut().and_then(|properties| properties.get_mut("conditions")) {
                bound_conditions(conditions);
            }
        }
    }
    crds
}

/// Rules over spec and status: what a site is reached by stays as long as the site may hold something, since nobody could take access away there
/// without it.
fn keep_what_may_hold_something() -> Vec<ValidationRule> {
    let held = "(has(oldSelf.status) && has(oldSelf.status.sites) && oldSelf.status.sites.exists(r, r.name == o.name && \
                (has(r.claimed) && r.claimed || has(r.pools) && r.pools > 0 || has(r.grants) && r.grants > 0)))";
    let same_kubernetes = "(!has(o.kubernetes) || has(s.kubernetes) && has(s.kubernetes.push) == has(o.kubernetes.push) && \
                           has(s.kubernetes.pull) == has(o.kubernetes.pull) && has(s.kubernetes.local) == has(o.kubernetes.local))";
    let same_slurm = "(!has(o.slurm) || !has(o.slurm.rest) || has(s.slurm) && has(s.slurm.rest) && s.slurm.rest.url == o.slurm.rest.url && \
                      s.slurm.clusterName == o.slurm.clusterName)";
    let first = "first take the site out of the pools that name it, end the grants that are bound there, write `stage: Decommissioned`, and wait until \
                 status.sites[] says `claimed: false`";
    let each = |rule: String, message: String| ValidationRule {
        rule: format!("!has(oldSelf.spec.sites) || oldSelf.spec.sites.all(o, {rule})"),
        message: Some(message),
        ..ValidationRule::default()
    };
    vec![
        each(
            format!("has(self.spec.sites) && self.spec.sites.exists(s, s.name == o.name) || !{held}"),
            format!("spec.sites: a site leaves the list only once it holds nothing any more: {first}"),
        ),
        each(
            format!(
                "!has(self.spec.sites) || !self.spec.sites.exists(s, s.name == o.name && !({same_kubernetes} && {same_slurm})) || \
                 o.stage in ['Proposed', 'Decommissioned'] && !{held}"
            ),
            format!(
                "spec.sites: how a site is reached (kubernetes, slurm.rest, its url, slurm.clusterName) changes only at stage Proposed or Decommissioned, \
                 once the site holds nothing any more: {first}. The name and the content of a Secret may change at any time"
            ),
        ),
    ]
}

fn describe(kind: &str) -> &'static str {
    match kind {
        "AIFactory" => "An institution and the sites where it runs GPUs.",
        "GPUPool" => "One homogeneous GPU partition over one or more sites.",
        _ => "The right of an organisation's members to use pools for a time.",
    }
}

/// The status of a resource that the operator has not seen: without it, kstatus takes a resource without conditions for finished.
fn unseen() -> serde_json::Value {
    let condition = |type_: &str, status: &str| {
        json!({"type": type_, "status": status, "reason": "Pending", "message": "The operator has not looked at it yet",
            "lastTransitionTime": "1970-01-01T00:00:00Z"})
    };
    json!({"conditions": [condition("Ready", "Unknown"), condition("Reconciling", "True")]})
}

/// A field that may be left out is left out: CEL's `has` holds for a null, which the types read as nothing, so a rule could be passed by
/// a key without a value.
fn refuse_nulls(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if let Some(values) = &mut schema.enum_ {
        values.retain(|value| !value.0.is_null());
    }
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(refuse_nulls);
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &mut schema.items {
        refuse_nulls(item);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties {
        refuse_nulls(value);
    }
}

/// Inside the entries of lists the types alone fill in what is left out. Client-side apply, and Argo CD with it, compares lists of custom
/// resources as a whole: one default in an entry, and what is in Git never again equals what is stored.
fn explain_defaults(schema: &mut JSONSchemaProps, in_list: bool) {
    if in_list && let Some(JSON(value)) = schema.default.take() {
        let default = value.as_str().map(str::to_owned).or_else(|| (!value.is_object()).then(|| value.to_string()));
        if let (Some(default), Some(description)) = (default, &mut schema.description) {
            description.push_str(&format!(" Left out: `{default}`."));
        }
    }
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        explain_defaults(property, in_list);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &mut schema.items {
        explain_defaults(item, true);
    }
}

/// Bounds as metav1.Condition has them.
fn bound_conditions(conditions: &mut JSONSchemaProps) {
    let Some(JSONSchemaPropsOrArray::Schema(item)) = &mut conditions.items else { return };
    let Some(properties) = &mut item.properties else { return };
    for (name, length) in [("type", 316), ("status", 7), ("reason", 1024), ("message", 32768)] {
        if let Some(property) = properties.get_mut(name) {
            property.max_length = Some(length);
        }
    }
}

/// 1 to 16 labels with values of at most 63 characters.
pub(crate) fn node_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "minLength": 1, "maxLength": 63},
    })
}
