use aifactory_api::grant::RunningWork;
use aifactory_api::{Reason, labels};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::store::{Site, begin, ended, inside, namespace, namespace_key, owner};
use crate::model::intent::Desired;
use crate::model::object::ObjectKind;
use crate::model::plan::Action;
use crate::model::report::SitePhase;
use crate::site::usage::pod_time::PodView;

/// Ended long ago, as where a site was away or a date was set back by mistake.
fn long_ago() -> Desired {
    Desired::Ended { because: Reason::Expired, message: "expired".to_owned(), at: Some("2026-10-01T00:00:00Z".parse().unwrap()) }
}

#[test]
fn data_is_kept_for_its_retention_from_the_moment_of_the_lock() {
    let mut site = Site::bound();
    site.grant.desired = long_ago();
    let plan = site.settle();
    assert_eq!((plan.phase, site.label(labels::STATE)), (SitePhase::Locked, "Locked".to_owned()));
    assert_eq!(site.annotation(labels::LOCKED_AT), begin().to_string());
    assert_eq!(site.annotation(labels::ENDED_AT), "2026-10-01T00:00:00Z");
    let until: Timestamp = site.annotation(labels::RETAINED_UNTIL).parse().unwrap();
    assert_eq!(until.duration_since(begin()).as_hours(), 24);
    assert_eq!(plan.wake, Some(until));
    site.wait(23);
    site.settle();
    assert!(site.contains(&namespace_key()));
    site.wait(1);
    assert_eq!(site.settle().phase, SitePhase::Gone);
    assert!(!site.contains(&namespace_key()) && site.lost.is_empty(), "nobody else deleted it");
}

#[test]
fn nothing_is_deleted_that_was_not_seen_locked() {
    let mut site = Site::bound();
    site.grant.desired = long_ago();
    site.grant.end.retention_seconds = 0;
    let deletes = |site: &Site| {
        site.plan()
            .steps
            .iter()
            .flat_map(|step| step.actions.clone())
            .any(|action| matches!(action, Action::Delete { key, .. } if key == namespace_key()))
    };
    assert!(!deletes(&site));
    let plan = site.plan();
    site.execute(&plan, |_| true);
    assert!(deletes(&site));
    // A state by hand is no lock.
    let mut site = Site::bound();
    site.edit(&namespace_key(), |content| content["metadata"]["labels"][labels::STATE] = json!("Locked"));
    site.grant.desired = long_ago();
    site.grant.end.retention_seconds = 0;
    assert!(!deletes(&site));
}

#[test]
fn work_has_its_grace_period_from_the_lock() {
    let mut site = Site::bound();
    site.grant.desired = long_ago();
    site.grant.end.running_work = RunningWork::Cancel;
    let cancels = |site: &Site| site.plan().steps.iter().flat_map(|step| step.actions.clone()).any(|action| matches!(action, Action::EndWork { .. }));
    site.settle();
    assert!(!cancels(&site) && site.annotation(labels::WORK_CANCELLED_AT).is_empty());
    site.wait(1);
    assert!(cancels(&site));
    site.settle();
    assert_eq!(site.annotation(labels::WORK_CANCELLED_AT), site.now.to_string());
}

#[test]
fn a_retained_namespace_without_its_grant_comes_to_rest() {
    let mut site = Site::bound();
    site.grant.desired = ended();
    site.grant.end.running_work = RunningWork::Cancel;
    site.settle();
    site.on_hub = false;
    assert!(site.plan().steps.is_empty(), "{:?}", site.plan().steps);
    site.wait(1);
    let plan = site.plan();
    assert!(plan.steps.iter().flat_map(|step| &step.actions).any(|action| matches!(action, Action::EndWork { .. })));
    site.execute(&plan, |_| true);
    assert!(site.plan().steps.is_empty(), "work is ended once: {:?}", site.plan().steps);
    // It stays as it was.
    let deny = inside(ObjectKind::NETWORK_POLICY, "aif-default-deny");
    site.edit(&deny, |content| content["spec"]["egress"] = json!([{}]));
    site.edit(&namespace_key(), |content| content["metadata"]["labels"] = json!({}));
    site.settle();
    assert_eq!((site.object(&deny)["spec"]["egress"].clone(), site.label(labels::STATE)), (json!([]), "Locked".to_owned()));
    site.wait(24);
    site.settle();
    assert!(!site.contains(&namespace_key()));
}

#[test]
fn a_binding_that_comes_back_into_a_retained_namespace_goes() {
    let mut site = Site::bound();
    let lead = site.binding("aifactory-lead");
    let before = site.object(&lead).clone();
    site.grant.desired = ended();
    site.settle();
    site.on_hub = false;
    site.write(&lead, before);
    site.settle();
    assert!(!site.contains(&lead));
    assert!(site.roles().contains(&"aifactory-keeper".to_owned()), "for the retention");
}

#[test]
fn leads_read_only_until_work_with_accelerators_has_ended() {
    let mut site = Site::bound();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "train", "namespace": namespace(), "uid": "p"},
        "spec": {"nodeSelector": {"aifactory.dev/pool": "h100"}, "containers": [{"name": "main", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
    }))
    .unwrap();
    let view = PodView::from_pod(&pod).unwrap();
    site.hours.put(view.clone());
    site.grant.desired = ended();
    site.settle();
    assert!(site.detail().access_removed);
    assert_eq!(site.roles(), ["aifactory-reader", "aifactory-reader", "aifactory-reader"]);
    site.hours.remove(view, site.now);
    site.settle();
    assert!(site.roles().contains(&"aifactory-keeper".to_owned()));
    // Where Pods can not be seen the quota counts them.
    let quota = inside(ObjectKind::RESOURCE_QUOTA, "aifactory");
    site.edit(&quota, |content| content["status"] = json!({"used": {"requests.nvidia.com/gpu": "1"}}));
    site.settle();
    assert!(!site.roles().contains(&"aifactory-keeper".to_owned()));
}

#[test]
fn leads_copy_data_out_also_where_the_grant_went_before_its_work() {
    let mut site = Site::bound();
    let quota = inside(ObjectKind::RESOURCE_QUOTA, "aifactory");
    site.edit(&quota, |content| content["status"] = json!({"used": {"requests.nvidia.com/gpu": "1"}}));
    site.grant.desired = ended();
    site.settle_with(|site| site.edit(&quota, |content| content["status"] = json!({"used": {"requests.nvidia.com/gpu": "1"}})));
    site.on_hub = false;
    assert!(site.plan().steps.is_empty() && site.roles().iter().all(|role| role == "aifactory-reader"));
    site.edit(&quota, |content| content["status"] = json!({}));
    site.settle();
    assert_eq!(site.roles(), ["aifactory-keeper", "aifactory-reader", "aifactory-reader"]);
    let keeper = site.binding("aifactory-keeper");
    assert_eq!(site.object(&keeper)["subjects"][0]["name"], "oidc:lead");
    // The same as where the grant is still there.
    site.on_hub = true;
    assert!(site.plan().steps.is_empty(), "{:?}", site.plan().steps);
}

#[test]
fn what_an_earlier_grant_left_open_is_locked_and_reported() {
    let mut site = Site::bound();
    (site.uid, site.grant.code) = ("uid-2".to_owned(), "EHPC-2".to_owned());
    assert!(!site.detail().access_removed);
    let plan = site.settle();
    assert_eq!((plan.phase, site.roles().len(), site.label(labels::STATE)), (SitePhase::Refused, 0, "Locked".to_owned()));
    assert!(site.detail().access_removed && plan.findings.iter().any(|finding| finding.reason == Reason::PreviousIncarnation && finding.stalled));
    assert_eq!(
        (site.annotation(labels::CODE), site.annotation(labels::OWNER_UID)),
        ("EHPC-1".to_owned(), "uid-1".to_owned()),
        "it is still the earlier grant's"
    );
    assert_eq!(site.object(&inside(ObjectKind::RESOURCE_QUOTA, "aifactory"))["spec"]["hard"]["pods"], "0");
    site.edit(&namespace_key(), |content| content["metadata"]["labels"][labels::STATE] = json!("Bound"));
    site.settle();
    assert_eq!(site.label(labels::STATE), "Locked");
    // The data is the earlier grant's: its terms are not known, so time deletes nothing.
    site.wait(24 * 365);
    site.settle();
    assert!(site.contains(&namespace_key()));
    site.grant.adopt_previous = true;
    assert_eq!(site.settle().phase, SitePhase::Bound);
}

#[test]
fn data_that_was_lost_during_an_outage_is_reported() {
    let mut site = Site::bound();
    site.index.relist(ObjectKind::NAMESPACE);
    let change = site.index.retain(ObjectKind::NAMESPACE, &Default::default());
    assert_eq!(change.lost, [owner()].into());
    let mut site = Site::bound();
    site.delete(&namespace_key());
    assert_eq!(site.lost, [owner()].into());
    let mut site = Site::bound();
    site.strip(&namespace_key(), &["labels", "annotations"]);
    site.strip(&namespace_key(), &["labels"]);
    assert!(site.lost.is_empty());
}

#[test]
fn nobody_works_in_a_locked_namespace_while_its_grant_waits() {
    for keep in [false, true] {
        let mut site = Site::bound();
        let lead = site.binding("aifactory-lead");
        let before = site.object(&lead).clone();
        site.grant.desired = ended();
        site.settle();
        (site.grant.desired, site.grant.keep) = (Desired::Scheduled, keep);
        assert!(site.plan().steps.is_empty() && site.detail().access_removed);
        site.write(&lead, before);
        assert!(!site.detail().access_removed);
        assert_eq!(site.settle().phase, SitePhase::Locked);
        assert!(site.detail().access_removed && !site.contains(&lead));
        assert!(site.roles().contains(&"aifactory-keeper".to_owned()), "for the retention");
        // A label of the state alone, written by hand, hides nobody who works.
        let mut site = Site::bound();
        site.edit(&namespace_key(), |content| content["metadata"]["labels"][labels::STATE] = json!("Locked"));
        (site.grant.desired, site.grant.keep) = (Desired::Scheduled, keep);
        assert!(!site.detail().access_removed);
        site.settle();
        assert!(site.detail().access_removed && !site.roles().contains(&"aifactory-lead".to_owned()));
    }
}

#[test]
fn what_is_retained_names_when_it_was_locked_before_it_goes() {
    let mut site = Site::bound();
    site.grant.desired = ended();
    site.settle();
    site.on_hub = false;
    site.wait(24);
    site.edit(&namespace_key(), |content| {
        content["metadata"]["annotations"].as_object_mut().unwrap().remove(labels::LOCKED_AT);
    });
    let plan = site.plan();
    assert!(!plan.steps.iter().flat_map(|step| &step.actions).any(|action| matches!(action, Action::Delete { .. })));
    site.execute(&plan, |_| true);
    assert_eq!(site.annotation(labels::LOCKED_AT), site.now.to_string());
    site.settle();
    assert!(!site.contains(&namespace_key()));
}
