use aifactory_api::Reason;
use jiff::SignedDuration;

use super::store::{Site, inside};
use crate::model::object::{ObjectKey, ObjectKind};
use crate::model::plan::{Action, Plan};
use crate::site::altered::{Altered, AlteredObjects};

fn applied(plan: &Plan) -> Vec<ObjectKey> {
    plan.steps
        .iter()
        .flat_map(|step| &step.actions)
        .filter_map(|action| match action {
            Action::Apply(object) => Some(object.key.clone()),
            _ => None,
        })
        .collect()
}

/// What the site answers to the write of an object in this plan.
fn altered(plan: &Plan, key: &ObjectKey) -> Altered {
    let objects = plan.steps.iter().flat_map(|step| &step.actions).filter_map(|action| match action {
        Action::Apply(object) => Some(object),
        _ => None,
    });
    let sent = objects.into_iter().find(|object| object.key == *key).unwrap().digest();
    Altered { key: key.clone(), sent, fields: vec!["spec.policyTypes".to_owned()] }
}

#[test]
fn what_a_site_alters_is_written_again_slowly_and_nobody_is_let_in_behind_it() {
    let site = Site::empty();
    let deny = inside(ObjectKind::NETWORK_POLICY, "aif-default-deny");
    let mut known = AlteredObjects::default();
    known.note(altered(&site.plan(), &deny), site.now);
    let mut plan = site.plan();
    let again = known.withhold(&mut plan, site.now).unwrap();
    assert_eq!(again.duration_since(site.now), SignedDuration::from_secs(60));
    let keys = applied(&plan);
    assert!(!keys.contains(&deny) && !keys.iter().any(|key| key.kind == ObjectKind::ROLE_BINDING), "{keys:?}");
    assert!(keys.iter().any(|key| key.kind == ObjectKind::RESOURCE_QUOTA), "the rest of the fence is written");
    let finding = &known.findings()[0];
    assert!(finding.reason == Reason::ChangedBySite && finding.stalled && finding.message.contains("spec.policyTypes"), "{finding:?}");
    // Later it is written again, and no access is given before it is right.
    let mut plan = site.plan();
    assert_eq!(known.withhold(&mut plan, again), None);
    let keys = applied(&plan);
    assert!(keys.contains(&deny) && !keys.iter().any(|key| key.kind == ObjectKind::ROLE_BINDING), "{keys:?}");
}

#[test]
fn what_is_no_fence_holds_nothing_up_and_what_is_right_is_forgotten() {
    let mut site = Site::empty();
    let note = inside(ObjectKind::CONFIG_MAP, "aifactory-access");
    let mut known = AlteredObjects::default();
    known.note(altered(&site.plan(), &note), site.now);
    let mut plan = site.plan();
    assert!(known.withhold(&mut plan, site.now).is_some());
    assert!(applied(&plan).iter().any(|key| key.kind == ObjectKind::ROLE_BINDING));
    site.settle();
    assert!(known.withhold(&mut site.plan(), site.now).is_none() && known.is_empty());
}
