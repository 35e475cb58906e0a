//! What every field of the definitions owes to `kubectl explain`, to storage and to two managers of one list.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use aifactory_api::factory::{FactoryType, NetworkImplementation, OrphanPolicy, PodSecurity, Stage};
use aifactory_api::grant::{
    AccessMode, AfterRetention, DataClassification, GrantPhase, GrantState, MemberRole, MemberState, OrganisationCategory, RunningWork, SiteRowPhase,
};
use aifactory_api::pool::{Nodes, PartitionState, PlacementState, PoolSitePhase, Preemption, Source};
use aifactory_api::slurm::SlurmService;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A field with its path, such as `AIFactory.spec.sites[].name`.
struct Field {
    path: String,
    schema: Value,
}

impl Field {
    fn is(&self, type_: &str) -> bool {
        self.schema["type"] == type_
    }

    fn description(&self) -> &str {
        self.schema["description"].as_str().unwrap_or_default()
    }

    /// A value inside a list or map, which has no name of its own.
    fn is_entry(&self) -> bool {
        self.path.ends_with("[]")
    }

    fn in_spec(&self) -> bool {
        self.path.split('.').nth(1) == Some("spec")
    }
}

fn collect(path: String, schema: &Value, fields: &mut Vec<Field>) {
    fields.push(Field { path: path.clone(), schema: schema.clone() });
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        collect(format!("{path}.{name}"), property, fields);
    }
    for entry in [&schema["items"], &schema["additionalProperties"]] {
        if entry.is_object() {
            collect(format!("{path}[]"), entry, fields);
        }
    }
}

fn fields() -> Vec<Field> {
    let mut fields = Vec::new();
    for crd in aifactory_api::crds() {
        let crd = serde_json::to_value(&crd).unwrap();
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap().to_owned();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        for part in ["spec", "status"] {
            collect(format!("{kind}.{part}"), &schema["properties"][part], &mut fields);
        }
    }
    assert!(fields.len() > 200, "{} fields", fields.len());
    fields
}

/// Fails with every field that breaks a rule.
#[track_caller]
fn each(complaint: impl Fn(&Field) -> Option<String>) {
    let complaints: Vec<String> = fields().iter().filter_map(|field| complaint(field).map(|text| format!("{}: {text}", field.path))).collect();
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

fn unless(fine: bool, complaint: impl Into<String>) -> Option<String> {
    (!fine).then(|| complaint.into())
}

#[test]
fn every_field_is_described() {
    each(|field| unless(field.is_entry() || field.description().len() >= 4, "no description"));
}

/// Enums are left out: `kubectl explain` prints their values.
#[test]
fn values_of_the_spec_show_an_example() {
    each(|field| {
        let value = field.is("string") || field.is("integer") || (field.is("array") && field.schema["items"]["type"] == "string");
        let asked = field.in_spec() && !field.is_entry() && value && field.schema["enum"].is_null();
        unless(!asked || field.description().contains('`') || field.description().contains("for example"), "no example")
    });
}

/// `kubectl explain` prints no minimum and no maximum.
#[test]
fn numbers_of_the_spec_name_their_bounds() {
    each(|field| {
        if !field.in_spec() || !field.is("integer") {
            return None;
        }
        let (Some(least), Some(most)) = (field.schema["minimum"].as_f64(), field.schema["maximum"].as_f64()) else {
            return Some("no minimum or no maximum".to_owned());
        };
        let range = format!("{least} to {most}");
        unless(field.description().contains(&range), format!("does not say `{range}`"))
    });
}

#[test]
fn everything_is_bounded() {
    each(|field| match field.schema["type"].as_str() {
        Some("array") => unless(field.schema["maxItems"].is_number(), "no maxItems"),
        Some("string") => {
            let bounded = field.schema["maxLength"].is_number() || field.schema["enum"].is_array() || field.schema["format"] == "date-time";
            unless(bounded, "no maxLength, enum or format")
        }
        Some("object") if field.schema["additionalProperties"].is_null() => {
            unless(field.schema["properties"].is_object() || is_mark(field), "free form")
        }
        Some("object") => unless(field.schema["maxProperties"].is_number(), "no maxProperties"),
        Some("integer" | "boolean") => None,
        other => Some(format!("type {other:?}")),
    });
}

/// Objects that say something by being there.
fn is_mark(field: &Field) -> bool {
    [".push", ".pull", ".local", ".kubernetes"].iter().any(|end| field.path.ends_with(end))
}

/// The API server knows int32 and int64 only, and warns of other formats.
#[test]
fn formats_are_those_of_the_api_server() {
    each(|field| {
        let format = field.schema["format"].as_str();
        unless(matches!(format, None | Some("int32" | "int64" | "date-time")), format!("format {format:?}"))
    });
}

/// A key without a value would pass `has`, and the types read it as nothing.
#[test]
fn nothing_may_be_null() {
    each(|field| {
        let null = field.schema["enum"].as_array().is_some_and(|values| values.contains(&Value::Null));
        unless(field.schema["nullable"].is_null() && !null, "may be null")
    });
}

/// The values that only the operator's types have never show. A site that can not be asked is another thing, which status says.
#[test]
fn no_schema_offers_the_unknown() {
    each(|field| {
        let told = ["AccessGrant.status.sites[].phase", "GPUPool.status.sites[].phase", "GPUPool.status.sites[].partition.state"];
        if told.contains(&field.path.as_str()) {
            return None;
        }
        let offered = field.schema["enum"].as_array().is_some_and(|values| values.contains(&json!("Unknown")));
        unless(!offered && !field.schema["default"].to_string().contains("Unknown") || field.path.ends_with(".status"), "offers Unknown")
    });
}

/// Client-side apply compares lists as a whole, so that a default in an entry is a difference for ever.
#[test]
fn entries_of_lists_have_no_defaults() {
    each(|field| unless(!field.in_spec() || !field.path.contains("[]") || field.schema["default"].is_null(), "a default"));
    let explained = fields().iter().filter(|field| field.path.contains("[]") && field.description().contains("Left out: `")).count();
    assert!(explained >= 9, "{explained} fields say what holds when they are left out");
}

/// Lists that people and tools edit together are maps. The rest has no key: an entry is what it says.
#[test]
fn lists_of_objects_are_keyed() {
    const WHOLE: &[&str] = &[
        "AIFactory.spec.links",
        "AIFactory.spec.sites[].network.services[].ports",
        "AccessGrant.spec.network.egress",
        "AccessGrant.spec.network.egress[].ports",
    ];
    let unkeyed = |field: &Field| field.is("array") && field.schema["items"]["type"] == "object" && field.schema["x-kubernetes-list-type"] != "map";
    each(|field| unless(!unkeyed(field) || WHOLE.contains(&field.path.as_str()), "no list-map keys"));
    each(|field| {
        let keys = field.schema["x-kubernetes-list-map-keys"].as_array().cloned().unwrap_or_default();
        let required = field.schema["items"]["required"].as_array().cloned().unwrap_or_default();
        unless(keys.iter().all(|key| required.contains(key)), "a key that may be left out")
    });
}

/// Each message shows something to write, or says what to make instead.
#[test]
fn messages_of_rules_name_what_to_write() {
    let mut count = 0;
    for field in fields() {
        for rule in field.schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            count += 1;
            let message = rule["message"].as_str().unwrap_or_default();
            assert!(message.len() > 20 && message.contains('`'), "{}: {} says {message:?}", field.path, rule["rule"]);
        }
    }
    assert!(count >= 40, "{count} rules");
}

/// Applied by `kubectl apply`, which keeps a copy in an annotation of at most 256 kB.
#[test]
fn definitions_stay_small() {
    for crd in aifactory_api::crds() {
        let size = serde_json::to_vec(&crd).unwrap().len();
        assert!(size < 200_000, "{}: {size} bytes", crd.spec.names.plural);
    }
}

#[track_caller]
fn reads<T: DeserializeOwned + PartialEq + std::fmt::Debug>(value: &str, expected: &T) {
    assert_eq!(&serde_json::from_value::<T>(json!(value)).unwrap(), expected);
}

/// What a later release stored is read, and never gives more than the least that this one knows.
#[test]
fn values_of_later_releases_are_read() {
    reads("Later", &FactoryType::Unknown);
    reads("Later", &Stage::Unknown);
    reads("Later", &NetworkImplementation::Unknown);
    reads("Later", &PodSecurity::Restricted);
    reads("Later", &OrphanPolicy::Report);
    reads("Later", &PlacementState::Draining);
    reads("Later", &Preemption::Off);
    reads("Later", &SlurmService::Unknown);
    reads("Later", &OrganisationCategory::Unknown);
    reads("Later", &AccessMode::Unknown);
    reads("Later", &MemberRole::Reader);
    reads("Later", &MemberState::Suspended);
    reads("Later", &GrantState::Paused);
    reads("Later", &RunningWork::Finish);
    reads("Later", &AfterRetention::Retain);
    reads("Later", &DataClassification::Unknown);
    reads("Later", &GrantPhase::Pending);
    reads("Later", &SiteRowPhase::Unknown);
    reads("Later", &PoolSitePhase::Unknown);
    reads("Later", &PartitionState::Unknown);
    assert!(!Stage::Unknown.admits(true));
}

/// The two enums that are not ours, Kubernetes' subjects and protocols, are closed: an object with another value is reported, and gives nothing.
#[test]
fn all_other_enums_are_known() {
    const CLOSED: &[&str] = &["AccessGrant.spec.members[].kubernetes.kind", "protocol"];
    let names = |field: &Field| field.schema["enum"].as_array().is_some() && !CLOSED.iter().any(|end| field.path.ends_with(end));
    let count = fields().iter().filter(|field| names(field)).count();
    assert_eq!(count, 21, "a new enum needs a line in values_of_later_releases_are_read");
}

/// A phase is one set of words: in the types, in the schema, in what is stored.
#[test]
fn phases_are_written_as_the_schema_has_them() {
    let offered = |path: &str| -> Vec<String> {
        let fields = fields();
        let field = fields.iter().find(|field| field.path == path).unwrap();
        field.schema["enum"].as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned()).collect()
    };
    let of = |written: Vec<(&str, Value)>| -> Vec<String> {
        assert!(written.iter().all(|(word, stored)| stored == word), "{written:?}");
        written.into_iter().map(|(word, _)| word.to_owned()).collect()
    };
    let grants = GrantPhase::ALL.iter().map(|phase| (phase.as_str(), json!(phase))).collect();
    assert_eq!(of(grants), offered("AccessGrant.status.phase"));
    let sites = SiteRowPhase::ALL.iter().map(|phase| (phase.as_str(), json!(phase))).collect();
    assert_eq!(of(sites), offered("AccessGrant.status.sites[].phase"));
    let pools = PoolSitePhase::ALL.iter().map(|phase| (phase.as_str(), json!(phase))).collect();
    assert_eq!(of(pools), offered("GPUPool.status.sites[].phase"));
    let partitions = PartitionState::ALL.iter().map(|state| (state.as_str(), json!(state))).collect();
    assert_eq!(of(partitions), offered("GPUPool.status.sites[].partition.state"));
    assert!(PartitionState::ALL.iter().all(|state| PartitionState::parse(state.as_str()) == *state));
    assert_eq!(PartitionState::parse("Later"), PartitionState::Unknown);
}

#[test]
fn a_column_holds_a_short_name() {
    let named =
        |name: &str| aifactory_api::grant::Organisation { name: name.to_owned(), country: "FR".to_owned(), category: OrganisationCategory::SME };
    assert_eq!(named("Example SARL").short_name(), "Example SARL");
    assert_eq!(named("Sixteen letters.").short_name(), "Sixteen letters.");
    assert_eq!(named("Open European Model Association").short_name(), "Open European M…");
    assert_eq!(named("Société générale d’été").short_name().chars().count(), 16);
}

/// kubectl takes a category for all of its kinds: one that is also a name of a kind hides that kind.
#[test]
fn no_category_is_the_name_of_a_kind() {
    let definitions: Vec<Value> = aifactory_api::crds().iter().map(|crd| serde_json::to_value(crd).unwrap()).collect();
    let names = |field: &str| -> Vec<String> {
        let values = definitions.iter().flat_map(|definition| match &definition["spec"]["names"][field] {
            Value::Array(values) => values.clone(),
            value => vec![value.clone()],
        });
        values.filter_map(|value| value.as_str().map(str::to_owned)).collect()
    };
    let categories = names("categories");
    assert_eq!(categories.len(), 3);
    let kinds: Vec<String> = ["singular", "plural", "shortNames"].into_iter().flat_map(names).collect();
    assert!(categories.iter().all(|category| !kinds.contains(category)), "{categories:?} {kinds:?}");
}

#[test]
fn a_source_of_nodes_that_this_release_does_not_know_decodes_and_selects_nothing() {
    let read = |nodes: Value| serde_json::from_value::<Nodes>(nodes).expect("it decodes");
    let adopt = json!({"adopt": {"selector": {"matchLabels": {"gpu": "h100"}}}});
    assert!(matches!(read(adopt.clone()).source(), Some(Source::Adopt(_))));
    assert_eq!(serde_json::to_value(read(adopt.clone())).expect("it is written"), adopt);
    assert_eq!(read(json!({"clusterAPI": {"replicas": 4}})).source(), None);
}
