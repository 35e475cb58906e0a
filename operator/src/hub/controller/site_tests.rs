//! The hub's controller, driven by channels: sites are ends of channels, and the API server is a map that answers patches.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod fake;

use std::time::Duration;

use aifactory_api::{Kind, OwnerRef, Reason};
use aifactory_plan::model::id::TenantNamespace;
use aifactory_plan::model::intent::{Body, Desired, Intent};
use aifactory_plan::model::report::{Detail, Finding, GrantDetail, Held, HeldChange, PoolDetail, SitePhase, SiteReport};
use aifactory_plan::model::site_key::SiteKey;
use serde_json::json;

use self::fake::{FakeSite, World, factory, grant, pool};
use crate::transport::{FromSite, ToSite};

fn bissen() -> SiteKey {
    SiteKey::new(OwnerRef::new(Kind::AIFactory, "ardenne", "ardenne"), "bissen")
}

fn voxelia() -> OwnerRef {
    OwnerRef::new(Kind::AccessGrant, "ardenne", "voxelia")
}

/// A site that has made contact and waits before it writes.
fn waiting() -> SiteReport {
    let problem = Finding::note(Reason::Pending, "waits until the hub has stored that this site may hold something");
    SiteReport { cluster_uid: Some("uid-1".to_owned()), problem: Some(problem), ..SiteReport::default() }
}

fn holding(owners: &[OwnerRef]) -> SiteReport {
    let held = owners.iter().map(|owner| (owner.clone(), Held::Live)).collect();
    SiteReport { reachable: true, synced: true, cluster_uid: Some("uid-1".to_owned()), held, ..SiteReport::default() }
}

/// What the grant's status says of its access.
fn access_removed(world: &World) -> serde_json::Value {
    let status = world.object(&voxelia()).unwrap()["status"].clone();
    status["conditions"].as_array().unwrap().iter().find(|found| found["type"] == "AccessRemoved").unwrap().clone()
}

/// The site says that nothing of the grant is there, if it was sent the grant.
fn answer_that_it_is_gone(site: &mut FakeSite) {
    if let Some(intent) = site.last_intent_of(&voxelia()) {
        site.send(FromSite::About(Box::new(fake::gone(&intent))));
    }
}

/// The site once it may write.
async fn recorded(world: &World) -> FakeSite {
    let mut site = world.worker(&bissen()).await;
    site.send(FromSite::Site(Box::new(waiting())));
    while !site.site_intent().await.recorded {}
    site
}

/// A hub with a factory and these resources, and its site once it may write.
async fn connected(resources: impl IntoIterator<Item = serde_json::Value>) -> (World, FakeSite) {
    let mut world = World::start(None).await;
    world.put(factory(json!({})));
    resources.into_iter().for_each(|resource| world.put(resource));
    world.listed();
    let site = recorded(&world).await;
    (world, site)
}

#[tokio::test(start_paused = true)]
async fn a_part_is_stored_before_its_worker_may_write() {
    let mut world = World::start(None).await;
    world.put(factory(json!({})));
    world.listed();
    let mut site = world.worker(&bissen()).await;
    assert!(!site.site_intent().await.recorded);
    site.send(FromSite::Site(Box::new(waiting())));
    while !site.site_intent().await.recorded {}
    let stored = world.config_map("aifactory-known-sites").expect("the set is stored");
    let entry = stored["data"].as_object().unwrap().values().next().unwrap().as_str().unwrap();
    assert!(entry.contains("bissen") && entry.contains("bissen-kubeconfig") && entry.contains("uid-1"), "{entry}");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_somebody_deletes_is_back_before_it_is_needed() {
    let (world, _site) = connected([]).await;
    let stored = world.config_map("aifactory-known-sites").unwrap();
    tokio::time::sleep(Duration::from_secs(300)).await;
    let reads = world.requests("GET /api/v1/namespaces/aifactory-system/configmaps/aifactory-known-sites");
    assert!((4..=6).contains(&reads), "{reads} reads in five minutes");
    let writes = world.requests("PATCH /api/v1/namespaces/aifactory-system/configmaps/aifactory-known-sites");
    world.delete_config_map("aifactory-known-sites");
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(world.config_map("aifactory-known-sites"), Some(stored));
    assert_eq!(world.requests("PATCH /api/v1/namespaces/aifactory-system/configmaps/aifactory-known-sites"), writes + 1);
}

#[tokio::test(start_paused = true)]
async fn while_the_set_can_not_be_stored_nothing_may_be_written_and_it_is_tried_in_peace() {
    let mut world = World::start(None).await;
    world.refuse_config_maps(true);
    world.put(factory(json!({})));
    world.listed();
    let mut site = world.worker(&bissen()).await;
    site.send(FromSite::Site(Box::new(waiting())));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(site.received().iter().all(|message| !matches!(message, ToSite::Site(intent) if intent.recorded)));
    let tries = world.requests("configmaps/aifactory-known-sites");
    assert!((20..=40).contains(&tries), "{tries} requests in a minute");
    world.refuse_config_maps(false);
    while !site.site_intent().await.recorded {}
}

#[tokio::test(start_paused = true)]
async fn a_part_that_left_the_spec_keeps_its_worker_until_it_reports_that_nothing_is_left() {
    let (mut world, mut site) = connected([]).await;
    site.send(FromSite::Site(Box::new(holding(&[]))));
    world.put(factory(json!({"spec": {"sites": []}})));
    let sent = site.site_intent().await;
    assert!(sent.release && sent.left, "{sent:?}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!site.ended(), "the worker goes on");
    site.send(FromSite::Site(Box::new(SiteReport { released: true, ..holding(&[]) })));
    site.end().await;
    assert_eq!(world.config_map("aifactory-known-sites").unwrap().get("data"), Some(&json!({})));
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_without_its_factory_a_part_is_asked_all_the_same() {
    let (world, _site) = connected([]).await;

    let mut again = world.restart().await;
    again.listed();
    let mut site = again.worker(&bissen()).await;
    let sent = site.site_intent().await;
    assert!(sent.left && sent.release && sent.recorded, "{sent:?}");
}

#[tokio::test(start_paused = true)]
async fn reports_of_a_former_worker_are_dropped() {
    let (mut world, former) = connected([pool(json!({}))]).await;
    world.put(grant(json!({"metadata": {"deletionTimestamp": "2026-11-01T00:00:00Z"}})));
    world.put(factory(json!({"spec": {"sites": [{"kubernetes": {"push": {"kubeconfigSecretRef": {"name": "other", "key": "kubeconfig"}}}}]}})));
    let mut present = world.worker(&bissen()).await;
    former.send(FromSite::Site(Box::new(holding(&[]))));
    let intent = present.intent_of(&voxelia()).await;
    former.send(FromSite::About(Box::new(fake::gone(&intent))));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.object(&voxelia()).is_some(), "the grant waits for the worker that there is");
    present.send(FromSite::Site(Box::new(holding(&[]))));
    answer_that_it_is_gone(&mut present);
    world.gone(&voxelia()).await;
}

#[tokio::test(start_paused = true)]
async fn a_site_is_sent_the_whole_desired_set_at_each_session_tombstones_included() {
    let (mut world, mut site) = connected([pool(json!({})), grant(json!({}))]).await;
    let intent = site.intent_of(&voxelia()).await;
    assert!(matches!(&intent.body, Body::Grant(grant) if matches!(grant.desired, Desired::Bound)));
    world.vanish(&voxelia());
    // Two channels lead to the hub: this one is read to its end first.
    tokio::time::sleep(Duration::from_secs(1)).await;
    site.send(FromSite::Site(Box::new(holding(&[voxelia()]))));
    let set = site.everything().await;
    assert!(set.tombstones.contains(&voxelia()) && !set.intents.contains_key(&voxelia()), "{set:?}");
    // The session ends and another one begins: the tombstone is there again, though it was sent before.
    site.send(FromSite::Site(Box::new(SiteReport { problem: Some(Finding::note(Reason::SiteUnreachable, "gone")), ..SiteReport::default() })));
    site.send(FromSite::Site(Box::new(holding(&[voxelia()]))));
    assert!(site.everything().await.tombstones.contains(&voxelia()));
}

/// A hub with a grant at two sites, of which esch was sent it.
async fn at_two_sites() -> (World, FakeSite) {
    let mut world = World::start(None).await;
    world.put(factory(json!({"spec": {"sites": [fake::site("bissen"), fake::site("esch")]}})));
    world.put(pool(json!({"spec": {"sites": [{"name": "bissen", "count": 1}, {"name": "esch", "count": 1}]}})));
    world.put(grant(json!({})));
    world.listed();
    let mut site = world.worker(&SiteKey::new(bissen().factory, "esch")).await;
    site.send(FromSite::Site(Box::new(waiting())));
    while !site.site_intent().await.recorded {}
    (world, site)
}

/// The grant at one of the two sites.
fn at_bissen(state: &str) -> serde_json::Value {
    let entry = json!({"name": "h100", "poolRef": {"name": "h100"}, "gpuHours": 10, "maxGPUs": 1, "sites": [{"name": "bissen"}]});
    grant(json!({"metadata": {"generation": 2}, "spec": {"state": state, "pools": [entry]}}))
}

#[tokio::test(start_paused = true)]
async fn an_order_is_withdrawn_from_a_site_that_no_projection_names_any_more() {
    let (mut world, mut site) = at_two_sites().await;
    let intent = site.intent_of(&voxelia()).await;
    site.send(FromSite::Site(Box::new(holding(&[]))));
    site.send(FromSite::About(Box::new(fake::gone(&intent))));
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.put(at_bissen("Active"));
    site.withdrawn(&voxelia()).await;
}

/// It may have bound the members before contact was lost.
#[tokio::test(start_paused = true)]
async fn a_site_that_was_lost_before_it_answered_is_waited_for() {
    let (mut world, mut site) = at_two_sites().await;
    site.send(FromSite::Site(Box::new(holding(&[]))));
    site.intent_of(&voxelia()).await;
    let problem = Some(Finding::note(Reason::SiteUnreachable, "the site does not answer"));
    site.send(FromSite::Site(Box::new(SiteReport { problem, ..SiteReport::default() })));
    world.put(at_bissen("Revoked"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let found = access_removed(&world);
    assert!(found["status"] != "True" && found["message"].as_str().unwrap().contains("esch"), "{found}");
    // Contact is back, and nothing was done.
    site.send(FromSite::Site(Box::new(holding(&[]))));
    let intent = site.last_intent_of(&voxelia()).unwrap();
    assert!(matches!(&intent.body, Body::Grant(grant) if matches!(grant.desired, Desired::Ended { .. })), "{intent:?}");
    site.send(FromSite::About(Box::new(fake::gone(&intent))));
    let mut bissen = world.worker(&bissen()).await;
    bissen.send(FromSite::Site(Box::new(holding(&[]))));
    answer_that_it_is_gone(&mut bissen);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(access_removed(&world)["status"], "True", "{}", access_removed(&world));
}

#[tokio::test(start_paused = true)]
async fn what_a_site_holds_otherwise_is_known_without_the_whole_of_it() {
    let (world, mut site) = connected([pool(json!({})), grant(json!({"metadata": {"deletionTimestamp": "2026-11-01T00:00:00Z"}}))]).await;
    let changed = |owner: &OwnerRef, held: Option<Held>| FromSite::Held(vec![HeldChange { owner: owner.clone(), held, orphan: false }]);
    site.send(FromSite::Site(Box::new(holding(&[]))));
    let stranger = OwnerRef::new(Kind::AccessGrant, "ardenne", "forgotten");
    let is_tombstone = |message: &ToSite| matches!(message, ToSite::Gone(owner) if *owner == stranger);
    for _ in 0..2 {
        site.send(changed(&stranger, Some(Held::Live)));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(site.received().iter().filter(|message| is_tombstone(message)).count(), 1, "what no resource stands for gets a tombstone");
        site.send(changed(&stranger, Some(Held::Retained)));
        site.send(changed(&stranger, None));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!site.received().iter().any(is_tombstone), "one at a time");
    }
    let intent = site.intent_of(&voxelia()).await;
    site.send(FromSite::About(Box::new(fake::gone(&intent))));
    world.gone(&voxelia()).await;
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_comes_back_is_known_where_it_was_held_though_nothing_places_it_there() {
    let (mut world, mut site) = connected([]).await;
    site.send(FromSite::Site(Box::new(holding(&[voxelia()]))));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(site.received().iter().any(|message| matches!(message, ToSite::Gone(owner) if *owner == voxelia())));
    // Its pool is not there, so that nobody can tell where it is to be.
    world.put(grant(json!({})));
    let intent = site.intent_of(&voxelia()).await;
    assert!(matches!(&intent.body, Body::Grant(grant) if grant.keep), "{intent:?}");
    world.vanish(&voxelia());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(site.received().iter().any(|message| matches!(message, ToSite::Gone(owner) if *owner == voxelia())));
}

/// A site has reported what it holds, and becomes unreachable; a resource that is made or repaired then waits for it all the same.
#[tokio::test(start_paused = true)]
async fn what_a_lost_site_was_known_to_hold_of_a_grant_that_was_not_there_is_not_forgotten() {
    let (mut world, mut site) = connected([]).await;
    site.send(FromSite::Site(Box::new(holding(&[voxelia()]))));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let problem = Some(Finding::note(Reason::SiteUnreachable, "the site does not answer"));
    site.send(FromSite::Site(Box::new(SiteReport { problem, ..SiteReport::default() })));
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.put(grant(json!({})));
    let intent = tokio::time::timeout(Duration::from_secs(60), site.intent_of(&voxelia())).await.unwrap();
    assert!(matches!(&intent.body, Body::Grant(grant) if grant.keep), "{intent:?}");
}

/// What a site came to hold since its last report is only in the report that contact was lost.
#[tokio::test(start_paused = true)]
async fn what_a_site_held_when_contact_was_lost_is_not_forgotten() {
    let (mut world, mut site) = connected([]).await;
    site.send(FromSite::Site(Box::new(holding(&[]))));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let problem = Some(Finding::note(Reason::SiteUnreachable, "the site does not answer"));
    let lost = SiteReport { problem, reachable: false, synced: false, ..holding(&[voxelia()]) };
    site.send(FromSite::Site(Box::new(lost)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.put(grant(json!({})));
    let intent = tokio::time::timeout(Duration::from_secs(60), site.intent_of(&voxelia())).await.unwrap();
    assert!(matches!(&intent.body, Body::Grant(grant) if grant.keep), "{intent:?}");
}

/// A site may have acted on the intent in between, so that a report from before it says nothing of the intent that came back.
#[tokio::test(start_paused = true)]
async fn a_report_does_not_answer_an_intent_that_came_back_after_another() {
    let (mut world, mut site) = connected([pool(json!({})), grant(json!({}))]).await;
    site.send(FromSite::Site(Box::new(holding(&[]))));
    let first = site.intent_of(&voxelia()).await;
    site.send(FromSite::About(Box::new(fake::gone(&first))));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let may_give = |world: &World| world.object(&voxelia()).unwrap()["status"]["mayGiveAccess"].clone();
    assert_eq!(may_give(&world), json!(false));
    world.put(factory(json!({"spec": {"policy": {"subjectPrefixes": ["sso:"]}}})));
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.put(factory(json!({})));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let last = site.last_intent_of(&voxelia()).unwrap();
    assert_eq!((last.serial, &last.body), (2, &first.body));
    assert_eq!(may_give(&world), json!(true), "nobody knows what the site did in between");
    site.send(FromSite::About(Box::new(fake::gone(&last))));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(may_give(&world), json!(false));
}

/// After a restart nothing tells yet which part holds what. Each says so once it is synced, so that only an end is sent everywhere before that.
#[tokio::test(start_paused = true)]
async fn a_grant_that_goes_on_is_sent_to_nobody_who_neither_is_named_nor_holds_it() {
    let (mut world, mut esch) = at_two_sites().await;
    world.put(at_bissen("Active"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stored = [&bissen().factory, &OwnerRef::new(Kind::GPUPool, "ardenne", "h100"), &voxelia()].map(|owner| world.object(owner).unwrap());
    esch.received();
    let mut again = world.restart().await;
    stored.into_iter().for_each(|object| again.put(object));
    again.listed();
    let mut esch = again.worker(&SiteKey::new(bissen().factory, "esch")).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(esch.last_intent_of(&voxelia()), None);
    esch.send(FromSite::Site(Box::new(holding(&[voxelia()]))));
    let intent = esch.intent_of(&voxelia()).await;
    assert!(matches!(&intent.body, Body::Grant(grant) if matches!(grant.desired, Desired::Ended { .. })), "it holds it: {intent:?}");
    // Bissen does not answer since the restart, and would be asked as well if it were not named.
    let mut bissen = again.worker(&bissen()).await;
    assert!(bissen.last_intent_of(&voxelia()).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_grant_goes_to_every_part_that_has_not_told_what_it_holds() {
    let (mut world, mut esch) = at_two_sites().await;
    world.put(at_bissen("Active"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stored = [&bissen().factory, &OwnerRef::new(Kind::GPUPool, "ardenne", "h100")].map(|owner| world.object(owner).unwrap());
    esch.received();
    let mut again = world.restart().await;
    stored.into_iter().for_each(|object| again.put(object));
    again.put(at_bissen("Revoked"));
    again.listed();
    let mut esch = again.worker(&SiteKey::new(bissen().factory, "esch")).await;
    let intent = esch.intent_of(&voxelia()).await;
    assert!(matches!(&intent.body, Body::Grant(grant) if matches!(grant.desired, Desired::Ended { .. })), "{intent:?}");
}

/// It holds nothing, so that only its list, after it was synced again, says so: the hub must look at the grant once more.
#[tokio::test(start_paused = true)]
async fn a_grant_that_waits_for_a_site_goes_on_when_a_new_worker_finds_nothing_there() {
    let (mut world, mut esch) = at_two_sites().await;
    esch.send(FromSite::Site(Box::new(holding(&[]))));
    esch.intent_of(&voxelia()).await;
    let mut bissen_site = world.worker(&bissen()).await;
    bissen_site.send(FromSite::Site(Box::new(holding(&[]))));
    let problem = Some(Finding::note(Reason::SiteUnreachable, "the site does not answer"));
    esch.send(FromSite::Site(Box::new(SiteReport { problem, ..SiteReport::default() })));
    world.put(at_bissen("Revoked"));
    tokio::time::sleep(Duration::from_secs(20)).await;
    answer_that_it_is_gone(&mut bissen_site);
    esch.send(FromSite::Died);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let mut again = world.worker(&SiteKey::new(bissen().factory, "esch")).await;
    again.send(FromSite::Site(Box::new(holding(&[]))));
    tokio::time::sleep(Duration::from_secs(1)).await;
    answer_that_it_is_gone(&mut again);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(access_removed(&world)["status"], "True", "{}", access_removed(&world));
}

/// What another worker did to an intent in between was never told.
#[tokio::test(start_paused = true)]
async fn a_report_of_a_former_worker_does_not_answer_what_the_next_one_is_sent() {
    let (mut world, mut former) = connected([pool(json!({})), grant(json!({}))]).await;
    former.send(FromSite::Site(Box::new(holding(&[]))));
    let first = former.intent_of(&voxelia()).await;
    former.send(FromSite::About(Box::new(fake::gone(&first))));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.object(&voxelia()).unwrap()["status"]["mayGiveAccess"], json!(false));
    let elsewhere = json!([{"kubernetes": {"push": {"kubeconfigSecretRef": {"name": "other", "key": "kubeconfig"}}}}]);
    world.put(factory(json!({"spec": {"policy": {"subjectPrefixes": ["sso:"]}}})));
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.put(factory(json!({"spec": {"sites": elsewhere}})));
    let mut present = world.worker(&bissen()).await;
    present.send(FromSite::Site(Box::new(holding(&[]))));
    let last = present.intent_of(&voxelia()).await;
    assert_eq!(last.body, first.body);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.object(&voxelia()).unwrap()["status"]["mayGiveAccess"], json!(true), "nobody knows what the former worker did in between");
}

/// A namespace that is kept says nothing of who can work in it.
#[tokio::test(start_paused = true)]
async fn a_part_at_which_a_member_can_still_work_is_not_let_go() {
    let (mut world, mut site) = connected([pool(json!({})), grant(json!({"spec": {"state": "Revoked"}}))]).await;
    let retained = SiteReport { held: [(voxelia(), Held::Retained)].into(), ..holding(&[]) };
    site.send(FromSite::Site(Box::new(retained.clone())));
    let intent = site.intent_of(&voxelia()).await;
    let open = |intent: &Intent| {
        let mut report = fake::gone(intent);
        report.phase = SitePhase::Locked;
        report.detail =
            Detail::Grant(GrantDetail { namespace: TenantNamespace::new("aif-voxelia"), access_removed: false, ..GrantDetail::default() });
        FromSite::About(Box::new(report))
    };
    site.send(open(&intent));
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.put(factory(json!({"spec": {"sites": []}})));
    while !site.site_intent().await.release {}
    if let Some(intent) = site.last_intent_of(&voxelia()) {
        site.send(open(&intent));
    }
    site.send(FromSite::Site(Box::new(SiteReport { released: true, ..retained })));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_ne!(world.config_map("aifactory-known-sites").unwrap()["data"], json!({}), "the part still lets somebody work");
    assert!(!site.ended());
}

#[tokio::test(start_paused = true)]
async fn a_status_lands_on_nothing_that_was_made_again_under_the_name() {
    let (mut world, mut site) = connected([pool(json!({})), grant(json!({}))]).await;
    site.send(FromSite::Site(Box::new(holding(&[]))));
    let intent = site.intent_of(&voxelia()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_ne!(world.object(&voxelia()).unwrap()["status"]["mayGiveAccess"], json!(false));
    let again = world.made_again_unseen(&voxelia());
    let writes = world.requests("accessgrants/voxelia/status");
    site.send(FromSite::About(Box::new(fake::gone(&intent))));
    tokio::time::sleep(Duration::from_secs(20)).await;
    let tries = world.requests("accessgrants/voxelia/status") - writes;
    assert!((1..=10).contains(&tries), "{tries} tries");
    assert_eq!(world.object(&voxelia()).unwrap().get("status"), None, "access of the new grant was said to be gone by a report about the former");
    world.tell(&again);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.object(&voxelia()).unwrap()["status"]["mayGiveAccess"], json!(true));
}

#[tokio::test(start_paused = true)]
async fn a_restart_writes_no_status() {
    let mut world = World::start(None).await;
    world.put(factory(json!({})));
    world.put(pool(json!({})));
    world.put(grant(json!({})));
    world.listed();
    let bound = |intent: &Intent| {
        let mut report = fake::gone(intent);
        report.phase = SitePhase::Bound;
        report.detail = match &intent.body {
            Body::Grant(_) => Detail::Grant(GrantDetail { members_wanted: 1, members_bound: 1, isolated: true, ..GrantDetail::default() }),
            Body::Pool(_) => Detail::Pool(PoolDetail { wanted: 4, ready: 4, gpus: 16, allocated: Some(8), ..PoolDetail::default() }),
        };
        FromSite::About(Box::new(report))
    };
    let h100 = OwnerRef::new(Kind::GPUPool, "ardenne", "h100");
    let mut site = recorded(&world).await;
    site.send(FromSite::Site(Box::new(holding(&[h100.clone(), voxelia()]))));
    for owner in [&h100, &voxelia()] {
        let intent = site.intent_of(owner).await;
        site.send(bound(&intent));
    }
    tokio::time::sleep(Duration::from_secs(120)).await;
    let status = |world: &World| [&h100, &voxelia()].map(|owner| world.object(owner).unwrap()["status"].clone());
    let before = (status(&world), world.requests("/status"));
    let stored = [&bissen().factory, &h100, &voxelia()].map(|owner| world.object(owner).unwrap());
    let mut again = world.restart().await;
    stored.into_iter().for_each(|object| again.put(object));
    again.listed();
    let mut site = again.worker(&bissen()).await;
    while !site.site_intent().await.recorded {}
    site.send(FromSite::Site(Box::new(holding(&[h100.clone(), voxelia()]))));
    for owner in [&h100, &voxelia()] {
        let intent = site.intent_of(owner).await;
        site.send(bound(&intent));
    }
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(status(&again), before.0);
    assert_eq!(again.requests("/status"), before.1, "status writes after a restart");
}
