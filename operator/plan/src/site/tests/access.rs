use aifactory_api::grant::MemberRole;
use aifactory_api::{Reason, labels};
use serde_json::json;

use super::store::{Site, ended, inside, namespace, namespace_key, pool};
use crate::model::intent::Desired;
use crate::model::object::ObjectKind;
use crate::model::plan::{Action, Plan, Purpose};
use crate::model::report::{Detail, Finding, SitePhase};

fn removed(plan: &Plan) -> bool {
    matches!(&plan.detail, Detail::Grant(detail) if detail.access_removed)
}

fn finding(plan: &Plan, reason: Reason) -> &Finding {
    plan.findings.iter().find(|finding| finding.reason == reason).unwrap_or_else(|| panic!("{:?}", plan.findings))
}

#[test]
fn a_namespace_without_our_label_is_not_gone() {
    let mut site = Site::bound();
    site.edit(&namespace_key(), |content| content["metadata"]["labels"] = json!({"team": "x"}));
    site.grant.desired = ended();
    let plan = site.plan();
    assert!(!removed(&plan) && plan.phase == SitePhase::Locked && !plan.steps.is_empty(), "{plan:?}");
    let settled = site.settle();
    assert!(removed(&settled) && settled.phase == SitePhase::Locked);
    assert_eq!((site.label(labels::MANAGED), site.label(labels::STATE)), ("true".to_owned(), "Locked".to_owned()));
    assert!(!site.roles().contains(&"aifactory-lead".to_owned()));
}

#[test]
fn a_label_that_was_taken_off_is_put_back() {
    for key in [namespace_key(), inside(ObjectKind::RESOURCE_QUOTA, "aifactory"), inside(ObjectKind::SERVICE_ACCOUNT, "aifactory")] {
        let mut site = Site::bound();
        site.strip(&key, &["labels"]);
        site.settle();
        assert_eq!(site.object(&key)["metadata"]["labels"][labels::MANAGED], "true", "{key}");
    }
    let mut site = Site::bound();
    let lead = site.binding("aifactory-lead");
    site.strip(&lead, &["labels", "annotations"]);
    assert!(!site.plan().findings.iter().any(|finding| finding.reason == Reason::ForeignBinding), "it is not somebody else's");
    site.settle();
    assert_eq!(site.object(&lead)["metadata"]["labels"][labels::MANAGED], "true");
}

#[test]
fn a_binding_of_ours_without_label_is_taken_away() {
    for parts in [vec!["labels"], vec!["labels", "annotations"]] {
        let mut site = Site::bound();
        let lead = site.binding("aifactory-lead");
        site.strip(&lead, &parts);
        site.grant.desired = ended();
        assert!(!site.detail().access_removed, "{parts:?}");
        site.settle();
        assert!(site.detail().access_removed && !site.contains(&lead), "{parts:?}");
    }
}

#[test]
fn a_namespace_without_its_marks_is_not_gone_while_bindings_of_ours_are_there() {
    let mut site = Site::bound();
    site.strip(&namespace_key(), &["labels", "annotations"]);
    site.grant.desired = ended();
    let plan = site.plan();
    assert!(!removed(&plan) && plan.phase != SitePhase::Gone);
    // The site lets bindings be deleted, and nothing else.
    let plan = site.remove_access();
    assert!(removed(&plan) && plan.phase == SitePhase::Locked && !plan.steps.is_empty(), "the lock is still asked for");
    assert_eq!(site.roles(), ["aifactory-reader"]);
    // Somebody hands it over.
    site.settle();
    assert_eq!(site.label(labels::STATE), "Locked");
}

#[test]
fn what_is_scheduled_again_in_such_a_namespace_starts_nothing() {
    let mut site = Site::bound();
    site.strip(&namespace_key(), &["labels", "annotations"]);
    site.grant.desired = Desired::Scheduled;
    let plan = site.plan();
    assert!(plan.phase == SitePhase::Paused && plan.steps.iter().any(|step| step.purpose == Purpose::RemoveAccess));
    site.settle();
    assert!(site.roles().iter().all(|role| role == "aifactory-reader"));
}

#[test]
fn a_namespace_of_somebody_else_holds_nothing_of_ours() {
    let mut site = Site::empty();
    site.write(&namespace_key(), json!({"metadata": {"labels": {"team": "x"}}}));
    site.bind("theirs", "edit", json!({"kind": "User", "name": "somebody"}));
    site.grant.desired = ended();
    let plan = site.settle();
    assert_eq!((plan.phase, removed(&plan)), (SitePhase::Gone, true));
    assert_eq!(site.roles(), ["edit"]);
}

/// It has our name: somebody may have taken every mark and every binding of ours away, and may have left a member the other way in.
#[test]
fn a_namespace_of_our_name_in_which_a_member_can_work_is_not_gone() {
    let mut site = Site::empty();
    site.write(&namespace_key(), json!({"metadata": {"labels": {"team": "x"}}}));
    site.bind("theirs", "edit", json!({"kind": "User", "name": "oidc:lead"}));
    site.grant.desired = ended();
    let plan = site.plan();
    assert!(plan.phase != SitePhase::Gone && !removed(&plan), "{plan:?}");
    site.delete(&site.binding("edit"));
    let plan = site.settle();
    assert_eq!((plan.phase, removed(&plan)), (SitePhase::Gone, true));
}

#[test]
fn a_binding_of_our_name_to_another_role_goes() {
    let mut site = Site::bound();
    let reader = site.binding("aifactory-reader");
    site.edit(&reader, |content| content["roleRef"]["name"] = json!("edit"));
    let plan = site.plan();
    assert!(plan.steps.iter().flat_map(|step| &step.actions).any(|action| matches!(action, Action::Delete { key, .. } if *key == reader)));
    site.grant.desired = ended();
    assert!(!site.detail().access_removed);
    site.settle();
    assert_eq!(site.object(&reader)["roleRef"]["name"], "aifactory-reader");
    assert!(site.detail().access_removed);
}

#[test]
fn a_binding_that_is_being_deleted_still_gives_access() {
    let mut site = Site::bound();
    let lead = site.binding("aifactory-lead");
    site.edit(&lead, |content| content["metadata"]["deletionTimestamp"] = json!("2026-12-01T00:00:00Z"));
    site.grant.desired = ended();
    let plan = site.settle();
    assert!(!removed(&plan), "a finalizer of somebody else holds it");
    site.delete(&lead);
    assert!(removed(&site.settle()));
}

#[test]
fn a_member_keeps_access_by_a_binding_of_somebody_else() {
    for (role, subject, gone) in [
        ("edit", json!({"kind": "User", "name": "oidc:lead"}), false),
        ("aifactory-keeper", json!({"kind": "User", "name": "oidc:member"}), false),
        ("edit", json!({"kind": "Group", "name": "system:authenticated"}), false),
        ("view", json!({"kind": "User", "name": "oidc:lead"}), true),
        ("edit", json!({"kind": "User", "name": "somebody"}), true),
    ] {
        let mut site = Site::bound();
        site.bind("debug", role, subject.clone());
        site.grant.desired = ended();
        let plan = site.settle();
        assert_eq!(removed(&plan), gone, "{role} {subject}");
        let reported = finding(&plan, Reason::ForeignBinding);
        assert_eq!(reported.stalled, !gone, "{reported:?}");
        if !gone {
            assert!(reported.message.contains("kubectl delete rolebinding debug -n") && reported.message.contains(role), "{}", reported.message);
        }
        assert!(site.contains(&inside(ObjectKind::ROLE_BINDING, "debug")), "it is left alone");
        site.delete(&inside(ObjectKind::ROLE_BINDING, "debug"));
        assert!(removed(&site.settle()));
    }
}

#[test]
fn a_member_who_is_barred_keeps_access_by_a_binding_of_somebody_else() {
    let mut site = Site::bound();
    site.bind("debug", "edit", json!({"kind": "User", "name": "oidc:lead"}));
    let lead = site.grant.members.remove(0);
    site.grant.barred = vec![lead];
    site.grant.desired = ended();
    let plan = site.settle();
    assert!(!removed(&plan));
    assert!(finding(&plan, Reason::ForeignBinding).message.contains("members lead"), "{:?}", plan.findings);
}

#[test]
fn access_is_gone_before_the_namespace_can_be_locked() {
    let mut site = Site::bound();
    site.grant.desired = ended();
    site.policy.paused = true;
    let plan = site.remove_access();
    assert!(removed(&plan) && plan.phase == SitePhase::Pending);
    assert!(finding(&plan, Reason::PausedBySite).message.contains("only access is taken away"));
    assert_eq!(site.label(labels::STATE), "Bound");
}

#[test]
fn where_a_site_was_left_access_is_taken_and_nothing_is_given() {
    let mut site = Site::bound();
    site.intent.left = true;
    let dns = inside(ObjectKind::NETWORK_POLICY, "aif-dns");
    let before = site.object(&dns).clone();
    site.intent.dns.app = "unknown".to_owned();
    let lead = site.binding("aifactory-lead");
    site.grant.members.remove(0);
    site.grant.pools.push(pool("more", "a100"));
    let plan = site.settle();
    assert!(!site.contains(&lead) && plan.phase == SitePhase::Pending, "{plan:?}");
    assert!(!site.label("pool.aifactory.dev/a100").contains("true"));
    site.grant.desired = ended();
    let plan = site.settle();
    assert!(removed(&plan) && plan.phase == SitePhase::Locked);
    assert_eq!(site.object(&dns), &before, "what is said about networks is not known");
    assert_eq!(site.object(&inside(ObjectKind::RESOURCE_QUOTA, "aifactory"))["spec"]["hard"]["requests.nvidia.com/gpu"], "0");
}

#[test]
fn where_something_can_not_be_read_what_is_held_stays() {
    let mut site = Site::bound();
    let (namespace, quota) = (site.object(&namespace_key()).clone(), site.object(&inside(ObjectKind::RESOURCE_QUOTA, "aifactory")).clone());
    site.grant.keep = true;
    site.grant.pools.clear();
    let suspended = site.grant.members.remove(0);
    let lead = site.binding("aifactory-lead");
    let plan = site.settle();
    assert_eq!((plan.phase, site.contains(&lead)), (SitePhase::Bound, false));
    assert!(matches!(&plan.detail, Detail::Grant(detail) if detail.members_bound == 2 && detail.isolated));
    assert_eq!((site.object(&namespace_key()), site.object(&inside(ObjectKind::RESOURCE_QUOTA, "aifactory"))), (&namespace, &quota));
    site.grant.members.push(suspended);
    assert!(site.plan().steps.is_empty(), "nobody is let in");
    // A pause lets nothing new start.
    site.grant.desired = Desired::Paused;
    assert_eq!(site.settle().phase, SitePhase::Paused);
    assert_eq!((site.label(labels::STATE), site.annotation(labels::RESOURCES)), ("Paused".to_owned(), "nvidia.com/gpu".to_owned()));
    assert_eq!(site.object(&inside(ObjectKind::RESOURCE_QUOTA, "aifactory"))["spec"]["hard"]["pods"], "0");
    site.grant.desired = ended();
    let plan = site.settle();
    assert!(removed(&plan) && plan.phase == SitePhase::Locked);
    // And where nothing is held nothing is made.
    let mut site = Site::empty();
    site.grant.keep = true;
    assert_eq!(site.settle().phase, SitePhase::Gone);
}

#[test]
fn who_only_reads_is_bound_and_starts_no_work() {
    let mut site = Site::bound();
    let counts = |site: &Site| (site.detail().members_bound, site.detail().members_reading);
    assert_eq!(counts(&site), (3, 1));
    site.grant.members.retain(|member| member.role == MemberRole::Reader);
    site.settle();
    assert_eq!(counts(&site), (1, 1));
}

#[test]
fn isolation_is_what_is_in_force() {
    let mut site = Site::bound();
    assert!(site.detail().isolated);
    for name in ["aif-default-deny", "aif-dns"] {
        let key = inside(ObjectKind::NETWORK_POLICY, name);
        site.edit(&key, |content| content["spec"]["egress"] = json!([{}]));
        assert!(!site.detail().isolated, "{name}");
        site.settle();
        assert!(site.detail().isolated);
    }
    site.delete(&inside(ObjectKind::NETWORK_POLICY, "aif-default-deny"));
    assert!(!site.detail().isolated);
}

#[test]
fn two_entries_of_one_pool_are_one_pool() {
    let mut site = Site::empty();
    site.grant.pools.push(pool("second", "h100"));
    site.settle();
    assert_eq!((site.label(labels::SINGLE_POOL), site.annotation(labels::POOL)), ("true".to_owned(), "h100".to_owned()));
    site.grant.pools.push(pool("third", "a100"));
    site.settle();
    assert_eq!(site.label(labels::SINGLE_POOL), "");
    assert!(namespace().starts_with("aif-"));
}
