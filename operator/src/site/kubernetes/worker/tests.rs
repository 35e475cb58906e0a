//! The driver against a hub without its Secret, with a paused clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aifactory_api::{Kind, OwnerRef, Reason};
use aifactory_plan::model::intent::Desired;
use aifactory_plan::model::object::{ObjectKey, ObjectKind};
use aifactory_plan::model::plan::{Plan, Purpose};
use aifactory_plan::model::report::{Held, SitePhase, SiteReport};
use aifactory_plan::model::site_key::SiteKey;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::KubernetesDriver;
use crate::site::controller::{receive, run};
use crate::site::fake_hub::{FakeHub, core, factory, grant, polled_at_most, site_intent};
use crate::transport::{DesiredSet, FromSite, Received, ToSite};

#[tokio::test(start_paused = true)]
async fn without_a_secret_the_worker_looks_every_two_seconds_and_neither_spins_nor_reads_more() {
    let hub = FakeHub::default();
    let (core, mut from_site) = core(SiteKey::new(factory(), "site"), &hub);
    let (to_site, inbox) = mpsc::unbounded_channel();
    let driver = KubernetesDriver::new(core);
    to_site.send(ToSite::Site(Box::new(site_intent(None)))).unwrap();
    let minute = timeout(Duration::from_secs(60), polled_at_most(500, run(driver, inbox))).await;
    assert!(minute.is_err(), "the worker ended");
    assert!((30..=33).contains(&hub.reads()), "{} reads in a minute", hub.reads());
    let Some(Received { message: FromSite::Site(report), .. }) = from_site.recv().await else { panic!("no report of the site") };
    assert_eq!(report.problem.map(|problem| problem.reason), Some(Reason::SecretNotFound));
}

#[tokio::test]
async fn a_tombstone_stays_before_anything_was_seen_and_an_end_goes_on_without_its_grant() {
    let (core, _from_site) = core(SiteKey::new(factory(), "site"), &FakeHub::default());
    let mut driver = KubernetesDriver::new(core);
    let owner = grant(Desired::Bound).owner.clone();
    receive(&mut driver, ToSite::Gone(owner.clone()));
    assert!(driver.core.gone.contains(&owner) && driver.core.ending.is_empty());
    receive(&mut driver, ToSite::Put(grant(Desired::Bound)));
    assert!(!driver.core.gone.contains(&owner));
    let ended = Desired::Ended { because: Reason::Deleting, message: "deleted".to_owned(), at: None };
    receive(&mut driver, ToSite::Put(grant(ended)));
    let nothing_but = DesiredSet { intents: BTreeMap::new(), tombstones: BTreeSet::from([owner.clone()]) };
    receive(&mut driver, ToSite::Everything(Box::new(nothing_but)));
    assert!(driver.core.gone.contains(&owner) && driver.core.ending.contains_key(&owner) && !driver.core.intents.contains_key(&owner));
    receive(&mut driver, ToSite::Put(grant(Desired::Bound)));
    assert!(driver.core.ending.is_empty());
}

#[tokio::test]
async fn where_nothing_may_be_given_access_is_taken_away_all_the_same() {
    let (core, _from_site) = core(SiteKey::new(factory(), "site"), &FakeHub::default());
    let mut worker = KubernetesDriver::new(core);
    let mut plan = Plan::nothing(SitePhase::Locked, aifactory_plan::model::report::Detail::None);
    let binding = ObjectKey::namespaced(ObjectKind::ROLE_BINDING, "aif-alpha", "aif-lead-0123456789");
    plan.step(Purpose::RemoveAccess, vec![aifactory_plan::model::plan::Action::Delete { key: binding, uid: None }]);
    plan.step(
        Purpose::Establish,
        vec![aifactory_plan::model::plan::Action::EndWork { namespace: aifactory_plan::model::id::TenantNamespace::new("aif-alpha") }],
    );
    worker.withhold(&OwnerRef::new(Kind::AccessGrant, "team", "alpha"), &mut plan);
    assert_eq!(plan.steps.iter().map(|step| step.purpose).collect::<Vec<_>>(), [Purpose::RemoveAccess]);
}

#[tokio::test]
async fn what_is_held_otherwise_is_reported_alone_and_that_nothing_is_there_of_what_is_gone() {
    let (core, mut from_site) = core(SiteKey::new(factory(), "site"), &FakeHub::default());
    let mut driver = KubernetesDriver::new(core);
    driver.core.send_site_report(SiteReport { synced: true, ..SiteReport::default() });
    receive(&mut driver, ToSite::Put(grant(Desired::Bound)));
    let owner = grant(Desired::Bound).owner.clone();
    let namespace = serde_json::json!({"metadata": {"name": "aif-alpha", "uid": "1", "resourceVersion": "1",
        "annotations": {aifactory_api::labels::HUB: "hub", aifactory_api::labels::OWNER: owner.to_string()}}});
    let seen = aifactory_plan::site::index::IndexedObject::reduce(
        aifactory_plan::engine::ALL,
        ObjectKind::NAMESPACE,
        &namespace,
        &aifactory_plan::model::id::HubId::new("hub"),
    )
    .unwrap();
    let mut changes = |driver: &mut KubernetesDriver| {
        driver.report_held();
        let mut held = Vec::new();
        while let Ok(Received { message, .. }) = from_site.try_recv() {
            if let FromSite::Held(changes) = message {
                held.extend(changes.into_iter().map(|change| (change.owner, change.held, change.orphan)));
            }
        }
        held
    };
    assert_eq!(changes(&mut driver), [], "nothing is there, as was reported");
    driver.index.put(seen);
    driver.held_dirty.insert(owner.clone());
    assert_eq!(changes(&mut driver), [(owner.clone(), Some(Held::Live), false)]);
    driver.held_dirty.insert(owner.clone());
    assert_eq!(changes(&mut driver), [], "said once");
    receive(&mut driver, ToSite::Gone(owner.clone()));
    assert_eq!(changes(&mut driver), [(owner.clone(), Some(Held::Live), true)]);
    driver.index.remove(&ObjectKey::cluster(ObjectKind::NAMESPACE, "aif-alpha"), "1", 2);
    driver.held_dirty.insert(owner.clone());
    assert_eq!(changes(&mut driver), [(owner.clone(), None, false)]);
    receive(&mut driver, ToSite::Gone(owner.clone()));
    assert_eq!(changes(&mut driver), [(owner, None, false)], "so that the hub can let its tombstone go");
}
