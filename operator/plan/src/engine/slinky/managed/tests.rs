#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use aifactory_api::{Kind, OwnerRef};
use proptest::prelude::*;

use super::*;
use crate::model::id::HubId;
use crate::model::plan::{Observed, Plan, Step};
use crate::model::report::{Detail, SitePhase};

/// As a site sends it, with what the schema fills in.
fn site(managed: bool) -> SiteIntent {
    let mut slinky = json!({"namespace": "slurm", "image": "ghcr.io/slinkyproject/slurmd:26.05-ubuntu26.04"});
    if managed {
        slinky["managed"] = json!({
            "slurmctldImage": "ghcr.io/slinkyproject/slurmctld:26.05-ubuntu26.04",
            "slurmdbdImage": "ghcr.io/slinkyproject/slurmdbd:26.05-ubuntu26.04",
            "slurmrestdImage": "ghcr.io/slinkyproject/slurmrestd:26.05-ubuntu26.04",
            "accounting": {"host": "mariadb.slurm.svc", "passwordSecretRef": {"name": "aifactory-slurm-db", "key": "password"}},
            "storage": {"size": "10Gi", "storageClassName": "fast-ssd"},
            "maxNodes": 4096,
        });
    } else {
        slinky["controllerRef"] = json!({"name": "slurm"});
    }
    SiteIntent {
        slurm: Some(serde_json::from_value(json!({"clusterName": "bissen", "slinky": slinky})).unwrap()),
        gres_types: vec!["a100".to_owned(), "h100".to_owned()],
        ..crate::engine::slinky::tests::site()
    }
}

fn ownership() -> Ownership {
    Ownership::new(&HubId::new("hub"), &OwnerRef::new(Kind::AIFactory, "example", "example"), "1")
}

fn planned(site: &SiteIntent, objects: &ObservedObjects, node_sets: &[NodeSetView]) -> Plan {
    added(site, &ManagedView { served: true, objects, node_sets: node_sets.iter().collect() })
}

fn added(site: &SiteIntent, view: &ManagedView<'_>) -> Plan {
    let (mut found, mut stages) = (Plan::nothing(SitePhase::Bound, Detail::None), SiteStages::default());
    plan(site, &ownership(), view, &mut stages);
    stages.write(view.objects, &mut found);
    found
}

/// The objects that a plan leaves behind.
fn carry_out(objects: &mut ObservedObjects, steps: &[Step]) {
    for action in steps.iter().flat_map(|step| &step.actions) {
        match action {
            Action::Apply(object) => {
                objects.insert(object.key.clone(), Observed { uid: "u".to_owned(), digest: Some(object.digest()), terminating: false });
            }
            Action::Delete { key, .. } => {
                objects.remove(key);
            }
            // Secrets are never seen again.
            Action::CreateKey { .. } => {}
            Action::EndWork { .. } | Action::EndPod { .. } | Action::PatchNode(_) => panic!("{action:?}"),
        }
    }
}

fn names(plan: &Plan) -> Vec<Vec<String>> {
    let name = |action: &Action| match action {
        Action::Apply(object) => object.key.to_string(),
        Action::CreateKey { object, field, bytes } => format!("{} {field} {bytes}", object.key),
        Action::Delete { key, .. } => format!("- {key}"),
        Action::EndWork { .. } | Action::EndPod { .. } | Action::PatchNode(_) => panic!("{action:?}"),
    };
    plan.steps.iter().map(|step| step.actions.iter().map(name).collect()).collect()
}

fn spec(plan: &Plan, kind: ObjectKind) -> Value {
    let actions = plan.steps.iter().flat_map(|step| &step.actions);
    let mut found = actions.filter_map(|action| match action {
        Action::Apply(object) if object.key.kind == kind => Some(object.content["spec"].clone()),
        _ => None,
    });
    found.next().unwrap()
}

#[test]
fn keys_come_first_then_what_names_them() {
    let plan = planned(&site(true), &ObservedObjects::new(), &[]);
    let keys = ["Secret slurm/aif-slurm-key slurm.key 1024", "Secret slurm/aif-slurm-jwt jwt_hs256.key 32"];
    let objects = ["Accounting slurm/aif-slurm", "Controller slurm/aif-slurm", "RestApi slurm/aif-slurm", "Token slurm/aif-slurm"];
    assert_eq!(names(&plan), [keys.map(String::from).to_vec(), objects.map(String::from).to_vec()]);
    assert_eq!(plan.findings, []);
    let controller = spec(&plan, ObjectKind::CONTROLLER);
    assert_eq!(controller["inplaceReconfigure"], true);
    assert_eq!(controller["persistence"]["storageClassName"], "fast-ssd");
    // The check of Controllers that sites run has no finding about ours.
    let view = crate::engine::slinky::ControllerView::from_json(&json!({"spec": controller}));
    let controllers = BTreeMap::from([(("slurm".to_owned(), NAME.to_owned()), view)]);
    assert_eq!(crate::engine::slinky::configuration(site(true).slurm.unwrap().slinky.as_ref().unwrap(), &controllers), None);
    let lines = controller["extraConf"].as_str().unwrap();
    for line in
        ["AccountingStorageTRES=gres/gpu,gres/gpu:a100,gres/gpu:h100", "AccountingStorageEnforce=associations,limits,qos,safe", "MaxNodeCount=4096"]
    {
        assert!(lines.lines().any(|found| found == line), "{line} in {lines}");
    }
    let database = &spec(&plan, ObjectKind::ACCOUNTING)["storageConfig"];
    assert_eq!((&database["host"], &database["port"], &database["username"]), (&json!("mariadb.slurm.svc"), &json!(3306), &json!("slurm")));
}

#[test]
fn keys_are_made_once_and_a_second_pass_writes_nothing() {
    let mut objects = ObservedObjects::new();
    let first = planned(&site(true), &objects, &[]);
    carry_out(&mut objects, &first.steps);
    assert_eq!(planned(&site(true), &objects, &[]).steps, []);
    // Another type of GPU changes the Controller, and nothing else.
    let mut more = site(true);
    more.gres_types.push("h200".to_owned());
    assert_eq!(names(&planned(&more, &objects, &[])), [["Controller slurm/aif-slurm"]]);
    // A deleted Controller is made again, with the existing keys.
    objects.remove(&ObjectKey::namespaced(ObjectKind::ACCOUNTING, "slurm", NAME));
    assert_eq!(names(&planned(&site(true), &objects, &[])), [["Accounting slurm/aif-slurm"]]);
}

#[test]
fn a_type_stays_known_while_a_partition_has_it() {
    let mut bare = site(true);
    bare.gres_types.clear();
    let draining = NodeSetView::from_json(&json!({"metadata": {"name": "old", "namespace": "slurm"}, "spec": {
        "extraConf": "Gres=gpu:v100:8", "slurmd": {}, "template": {}, "partition": {}}}));
    let conf = |node_sets: &[NodeSetView]| spec(&planned(&bare, &ObservedObjects::new(), node_sets), ObjectKind::CONTROLLER)["extraConf"].to_string();
    assert!(conf(&[draining]).contains("gres/gpu:v100"));
    assert!(!conf(&[]).contains("v100"));
}

#[test]
fn what_counts_stays_and_the_controller_waits_for_its_partitions() {
    let mut objects = ObservedObjects::new();
    let first = planned(&site(true), &objects, &[]);
    carry_out(&mut objects, &first.steps);
    let busy =
        NodeSetView::from_json(&json!({"metadata": {"name": "h100", "namespace": "slurm"}, "spec": {"slurmd": {}, "template": {}, "partition": {}}}));
    let waiting = planned(&site(false), &objects, std::slice::from_ref(&busy));
    assert_eq!(waiting.steps, []);
    assert_eq!(waiting.findings[0].message, "Controller slurm/aif-slurm stays until its partitions are gone: h100");
    for let_go in [site(false), SiteIntent { release: true, ..site(true) }] {
        let plan = planned(&let_go, &objects, &[]);
        assert_eq!(names(&plan), [["- Controller slurm/aif-slurm", "- RestApi slurm/aif-slurm", "- Token slurm/aif-slurm"]]);
        let mut left = objects.clone();
        carry_out(&mut left, &plan.steps);
        assert_eq!(left.keys().map(ToString::to_string).collect::<Vec<_>>(), ["Accounting slurm/aif-slurm"]);
    }
}

#[test]
fn a_site_without_the_kinds_gets_a_finding() {
    let objects = ObservedObjects::new();
    let found = added(&site(true), &ManagedView { served: false, objects: &objects, node_sets: Vec::new() });
    assert_eq!((found.steps.len(), found.findings[0].reason), (0, Reason::EngineMissing));
}

proptest! {
    /// Whatever is stored, only legal words reach slurm.conf, and anything else is refused with its field.
    #[test]
    fn only_legal_tokens_are_written(field in 0..8_usize, text in ".{0,40}") {
        let mut site = site(true);
        let slurm = site.slurm.as_mut().unwrap();
        let managed = slurm.slinky.as_mut().unwrap().managed.as_mut().unwrap();
        let place = match field {
            0 => &mut managed.slurmctld_image,
            1 => &mut managed.slurmdbd_image,
            2 => &mut managed.accounting.host,
            3 => &mut managed.accounting.database,
            4 => &mut managed.accounting.user,
            5 => &mut managed.accounting.password_secret_ref.name,
            6 => &mut managed.storage.size,
            _ => &mut slurm.cluster_name,
        };
        *place = text.clone();
        let plan = planned(&site, &ObservedObjects::new(), &[]);
        match plan.findings.first() {
            Some(finding) => {
                prop_assert_eq!(finding.reason, Reason::InvalidSpec);
                prop_assert!(plan.steps.is_empty());
            }
            None => prop_assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:@".contains(c)), "{text:?}"),
        }
    }
}
