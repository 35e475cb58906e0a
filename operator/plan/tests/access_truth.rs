//! What the hub reports about access, and which intents it sends, where something that a grant names can not be read, or a site can not be asked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aifactory_api::grant::{GrantPhase, SiteRowPhase};
use aifactory_api::{AIFactoryStatus, AccessGrantStatus, ConditionType, Kind, OwnerRef, Reason};
use aifactory_plan::hub::aggregate::{self, Outcome, Reports};
use aifactory_plan::hub::cache::Cache;
use aifactory_plan::hub::holders::Holders;
use aifactory_plan::hub::known_sites::KnownSite;
use aifactory_plan::hub::ledger::Ledger;
use aifactory_plan::hub::project::{self, GrantProjection};
use aifactory_plan::hub::reports::ReportIndex;
use aifactory_plan::model::credential_source::CredentialSource;
use aifactory_plan::model::digest::digest_of;
use aifactory_plan::model::id::{AccountName, ClusterName, HubId, PartitionName, QosName, TenantNamespace};
use aifactory_plan::model::intent::{Body, Desired, GrantIntent, Intent};
use aifactory_plan::model::report::{
    Detail, EntryUsage, Finding, GrantDetail, Held, PoolDetail, Report, SitePhase, SiteReport, SlurmDetail, SlurmEntry,
};
use aifactory_plan::model::site_key::SiteKey;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use proptest::prelude::*;
use serde_json::{Value, json};

mod schema;

fn now() -> Timestamp {
    "2026-12-15T12:00:00Z".parse().expect("a time")
}

fn factory() -> OwnerRef {
    OwnerRef::new(Kind::AIFactory, "example", "example")
}

fn alpha() -> OwnerRef {
    OwnerRef::new(Kind::AccessGrant, "example", "alpha")
}

fn bissen() -> SiteKey {
    SiteKey::new(factory(), "bissen")
}

fn bettembourg() -> SiteKey {
    SiteKey::new(factory(), "bettembourg")
}

fn remich() -> SiteKey {
    SiteKey::slurm(factory(), "remich")
}

fn known(key: SiteKey) -> KnownSite {
    KnownSite { key, credential: CredentialSource::Local, slurm: None, identity: Some("c1".to_owned()), entered: true }
}

/// A hub as YAML, with the reports of sites; each test changes what it is about.
struct Hub {
    factory: Option<Value>,
    /// Further factories.
    others: Vec<Value>,
    pools: Vec<Value>,
    grants: Vec<Value>,
    known: Vec<SiteKey>,
    undecodable: bool,
    /// The parts of which the last report named the grant.
    holders: BTreeSet<SiteKey>,
    synced: BTreeSet<SiteKey>,
    sites: BTreeMap<SiteKey, SiteReport>,
    abandoned: BTreeSet<SiteKey>,
}

fn manifest(namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{name}"), "generation": 1, "creationTimestamp": "2026-11-01T00:00:00Z"},
        "spec": spec,
    })
}

fn pool(name: &str, engine: Value, sites: Value) -> Value {
    let mut spec = json!({
        "factoryRef": {"name": "example"},
        "accelerator": {"vendor": "nvidia", "model": "H100", "resourceName": "nvidia.com/gpu", "perNode": 4},
        "perGPU": {"cpus": 16, "memoryGiB": 120},
        "nodes": {"adopt": {"selector": {"matchLabels": {"gpu": "h100"}}}},
        "sites": sites,
    });
    spec.as_object_mut().expect("a map").extend(engine.as_object().expect("a map").clone());
    manifest("example", name, spec)
}

fn grant(pools: Value) -> Value {
    manifest(
        "example",
        "alpha",
        json!({
            "factoryRef": {"name": "example"},
            "organisation": {"name": "Example SARL", "country": "FR", "category": "SME"},
            "code": "EHPC-1",
            "accessMode": "Playground",
            "members": [
                {"id": "p-1", "role": "Lead", "kubernetes": {"name": "oidc:1"}, "slurm": {"user": "u1"}},
                {"id": "p-2", "kubernetes": {"name": "oidc:2"}, "slurm": {"user": "u2"}},
            ],
            "pools": pools,
            "notBefore": "2026-12-01T00:00:00Z",
            "notAfter": "2027-03-01T00:00:00Z",
        }),
    )
}

fn entry(name: &str) -> Value {
    json!({"name": name, "poolRef": {"name": name}, "gpuHours": 100, "maxGPUs": 8})
}

/// Holders of the grant.
fn holders(parts: &BTreeSet<SiteKey>) -> Holders {
    let mut holders = Holders::default();
    parts.iter().for_each(|key| {
        holders.add(key, &alpha());
    });
    holders
}

/// When this process began: every grant was made after that, unless a test says otherwise.
fn began() -> Timestamp {
    "2026-10-01T00:00:00Z".parse().expect("a time")
}

impl Hub {
    /// A Kubernetes pool at two sites, a Slurm pool at a third, and a grant of the first.
    fn new() -> Self {
        let rest = json!({"url": "http://127.0.0.1:6820", "tokenSecretRef": {"name": "token", "key": "token"}});
        let kubernetes = |name: &str| json!({"name": name, "country": "LU", "stage": "Production", "kubernetes": {"local": {}}});
        let sites = json!([
            kubernetes("bissen"),
            kubernetes("bettembourg"),
            {"name": "remich", "country": "LU", "stage": "Production", "slurm": {"clusterName": "remich", "rest": rest}},
        ]);
        let policy = json!({"subjectPrefixes": ["oidc:"]});
        let all = [bissen(), bettembourg(), remich()];
        Self {
            factory: Some(manifest("example", "example", json!({"type": "Factory", "sites": sites, "policy": policy}))),
            others: Vec::new(),
            pools: vec![
                pool("h100", json!({"kubernetes": {}}), json!([{"name": "bissen"}, {"name": "bettembourg"}])),
                pool("slurm", json!({"slurm": {"partition": "h100"}}), json!([{"name": "remich"}])),
            ],
            grants: vec![grant(json!([entry("h100")]))],
            known: all.to_vec(),
            undecodable: false,
            holders: BTreeSet::from([bissen(), bettembourg()]),
            synced: all.iter().cloned().collect(),
            sites: all.into_iter().map(|key| (key, SiteReport { reachable: true, synced: true, ..SiteReport::default() })).collect(),
            abandoned: BTreeSet::new(),
        }
    }

    fn spec(&mut self) -> &mut Value {
        &mut self.grants[0]["spec"]
    }

    fn site(&mut self, name: &str) -> &mut Value {
        let sites = self.factory.as_mut().expect("a factory")["spec"]["sites"].as_array_mut().expect("sites");
        sites.iter_mut().find(|site| site["name"] == name).expect("the site")
    }

    fn remove_site(&mut self, name: &str) {
        self.factory.as_mut().expect("a factory")["spec"]["sites"].as_array_mut().expect("sites").retain(|site| site["name"] != name);
    }

    fn cut(&mut self, key: &SiteKey) {
        let problem = Finding::note(Reason::SiteUnreachable, "the site does not answer");
        self.sites.insert(key.clone(), SiteReport { problem: Some(problem), ..SiteReport::default() });
    }

    fn world(&self) -> Cache {
        let mut world = Cache::default();
        let owner = |kind, value: &Value| {
            OwnerRef::new(kind, value["metadata"]["namespace"].as_str().expect("a namespace"), value["metadata"]["name"].as_str().expect("a name"))
        };
        if let Some(value) = &self.factory {
            world.put_factory(factory(), Arc::new(serde_json::from_value(value.clone()).expect("a factory")));
        }
        for value in &self.others {
            world.put_factory(owner(Kind::AIFactory, value), Arc::new(serde_json::from_value(value.clone()).expect("a factory")));
        }
        if self.undecodable {
            world.put_undecodable(factory());
        }
        for value in &self.pools {
            world.put_pool(owner(Kind::GPUPool, value), Arc::new(serde_json::from_value(value.clone()).expect("a pool")));
        }
        for value in &self.grants {
            world.put_grant(owner(Kind::AccessGrant, value), Arc::new(serde_json::from_value(value.clone()).expect("a grant")));
        }
        world.known = self.known.iter().cloned().map(known).collect();
        world
    }

    fn project(&self) -> GrantProjection {
        let world = self.world();
        let asked = project::may_hold(&world, &alpha(), &holders(&self.holders), &self.synced, began());
        project::grant_within(&world, &alpha(), &asked, Some(&mut Ledger::default()), now()).expect("a projection")
    }

    /// The status after every site that answers has carried out its intent, except where `say` gives another report.
    fn aggregate(&self, say: impl Fn(&SiteKey, &Intent) -> Option<Report>) -> Outcome<AccessGrantStatus> {
        self.aggregate_reports_of(|key| self.sites.get(key).is_some_and(|site| site.reachable), say)
    }

    /// The status where sites were cut off after every one had carried out its intent.
    fn settled_before_the_cut(&self) -> Outcome<AccessGrantStatus> {
        self.aggregate_reports_of(|_| true, |_, _| None)
    }

    fn aggregate_reports_of(
        &self,
        reported: impl Fn(&SiteKey) -> bool,
        say: impl Fn(&SiteKey, &Intent) -> Option<Report>,
    ) -> Outcome<AccessGrantStatus> {
        let (world, projection) = (self.world(), self.project());
        let reports: BTreeMap<SiteKey, Report> = projection
            .sites
            .iter()
            .filter(|(key, _)| reported(key))
            .map(|(key, intent)| (key.clone(), say(key, intent).unwrap_or_else(|| done(intent, self.holders.contains(key)))))
            .collect();
        let about = reports.iter().map(|(key, report)| (key.clone(), report)).collect();
        let reports = Reports { about, sites: &self.sites, abandoned: &self.abandoned };
        aggregate::grant(&world, world.grant(&alpha()).expect("the grant"), &projection, &reports, now())
    }

    fn settled(&self) -> Outcome<AccessGrantStatus> {
        self.aggregate(|_, _| None)
    }

    /// Stores the status, as the operator does.
    fn stored(mut self) -> Self {
        self.grants[0]["status"] = serde_json::to_value(self.settled().status).expect("a status");
        self
    }
}

/// The report of a site that has carried out its intent. `held`: it had the grant before.
fn done(intent: &Intent, held: bool) -> Report {
    let body = body(intent);
    let refused = body.only_if_held.is_some() && !held && !matches!(body.desired, Desired::Ended { .. });
    let (phase, removed, present) = match &body.desired {
        _ if refused => (SitePhase::Refused, true, false),
        Desired::Bound => (SitePhase::Bound, false, true),
        Desired::Paused => (SitePhase::Paused, false, true),
        Desired::Scheduled => (SitePhase::Gone, true, false),
        Desired::Ended { .. } => (if held { SitePhase::Locked } else { SitePhase::Gone }, true, held),
    };
    let detail = GrantDetail {
        namespace: TenantNamespace::new(if present { "aif-alpha" } else { "" }),
        members_wanted: 2,
        members_bound: if removed { 0 } else { 2 },
        access_removed: removed,
        isolated: present,
        ..GrantDetail::default()
    };
    let findings = body.only_if_held.iter().filter(|_| refused).map(|refusal| Finding::stalled(refusal.reason, refusal.message.clone())).collect();
    Report { findings, ..Report::answering(intent, phase, Detail::Grant(detail)) }
}

fn body(intent: &Intent) -> &GrantIntent {
    match &intent.body {
        Body::Grant(grant) => grant,
        Body::Pool(_) => panic!("a pool"),
    }
}

fn intent_at(hub: &Hub, key: &SiteKey) -> GrantIntent {
    body(hub.project().sites.get(key).unwrap_or_else(|| panic!("{key} is told nothing"))).clone()
}

fn members(intent: &GrantIntent) -> Vec<(&str, Option<&str>)> {
    intent.members.iter().map(|member| (member.id.as_str(), member.subject.as_ref().map(|subject| subject.name.as_str()))).collect()
}

fn condition(status: &AccessGrantStatus, type_: ConditionType) -> (String, String) {
    let found = status.conditions.iter().find(|found| found.type_ == type_.as_str()).expect("the condition");
    (found.status.clone(), found.reason.clone())
}

fn message(status: &AccessGrantStatus, type_: ConditionType) -> String {
    status.conditions.iter().find(|found| found.type_ == type_.as_str()).expect("the condition").message.clone()
}

fn pair(status: &str, reason: Reason) -> (String, String) {
    (status.to_owned(), reason.as_str().to_owned())
}

/// Rows by name, with their phase.
fn rows(status: &AccessGrantStatus) -> Vec<(&str, SiteRowPhase)> {
    status.sites.iter().map(|row| (row.name.as_str(), row.phase)).collect()
}

// B1, F12: a part that leaves the spec.

#[test]
fn a_part_that_left_the_spec_counts_for_whether_access_is_gone() {
    let mut hub = Hub::new();
    hub.grants[0] = grant(json!([entry("slurm")]));
    hub.holders = BTreeSet::from([remich()]);
    let mut hub = hub.stored();
    hub.site("remich")["slurm"]["rest"].take();
    hub.spec()["state"] = json!("Revoked");
    let intent = intent_at(&hub, &remich());
    assert!(matches!(intent.desired, Desired::Ended { because: Reason::Revoked, .. }), "{:?}", intent.desired);
    let silent = {
        hub.cut(&remich());
        hub.settled()
    };
    assert_eq!(condition(&silent.status, ConditionType::AccessRemoved), pair("False", Reason::AwaitingSite));
    assert_eq!(silent.status.may_give_access, Some(true));
    assert_eq!(rows(&silent.status), [("remich", SiteRowPhase::Unknown)]);
}

#[test]
fn a_site_taken_out_of_its_factory_keeps_what_it_gives_until_a_person_ends_it() {
    let mut hub = Hub::new().stored();
    hub.remove_site("bettembourg");
    let intent = intent_at(&hub, &bettembourg());
    assert_eq!((&intent.desired, intent.keep), (&Desired::Bound, true));
    assert_eq!(intent.only_if_held.as_ref().map(|refusal| refusal.reason), Some(Reason::SiteNotFound));
    let status = hub.settled().status;
    assert_eq!(rows(&status), [("bettembourg", SiteRowPhase::Bound), ("bissen", SiteRowPhase::Bound)]);
    assert_eq!((status.phase, status.may_give_access), (Some(GrantPhase::Active), Some(true)));
    assert_eq!(condition(&status, ConditionType::Ready), pair("False", Reason::SiteNotFound));

    hub.spec()["state"] = json!("Revoked");
    hub.cut(&bettembourg());
    let waiting = hub.settled().status;
    assert_eq!(condition(&waiting, ConditionType::AccessRemoved), pair("False", Reason::AwaitingSite));
    hub.grants[0]["metadata"]["deletionTimestamp"] = json!("2026-12-15T11:00:00Z");
    assert!(!hub.settled().finished);
    // Once the part has reported that nothing is left and the hub has forgotten it, it is not waited for.
    hub.known.retain(|key| *key != bettembourg());
    hub.holders.remove(&bettembourg());
    assert!(hub.settled().finished);
}

/// Rows are keyed by name, so that the API server would refuse a status with one name twice.
#[test]
fn sites_of_two_factories_with_one_name_have_a_row_each() {
    let mut hub = Hub::new();
    let factories = [("example", "south"), ("north", "north"), ("north", "second")];
    let mut entries = vec![entry("h100")];
    let mut names = vec!["bettembourg".to_owned(), "bissen".to_owned()];
    for (namespace, name) in factories {
        let mut factory = hub.factory.clone().expect("a factory");
        factory["metadata"]["namespace"] = json!(namespace);
        factory["metadata"]["name"] = json!(name);
        hub.others.push(factory);
        let mut pool = pool(name, json!({"kubernetes": {}}), json!([{"name": "bissen"}]));
        pool["metadata"]["namespace"] = json!(namespace);
        pool["spec"]["factoryRef"]["name"] = json!(name);
        pool["spec"]["consumers"] = json!([{"name": "example", "namespaces": {"names": ["example"]}}]);
        hub.pools.push(pool);
        let mut entry = entry(name);
        entry["poolRef"]["namespace"] = json!(namespace);
        entries.push(entry);
        let key = SiteKey::new(OwnerRef::new(Kind::AIFactory, namespace, name), "bissen");
        names.push(if namespace == name { format!("{namespace}/bissen") } else { format!("{namespace}/{name}/bissen") });
        hub.known.push(key.clone());
        hub.holders.insert(key.clone());
        hub.synced.insert(key.clone());
        hub.sites.insert(key, SiteReport { reachable: true, synced: true, ..SiteReport::default() });
    }
    hub.grants[0] = grant(json!(entries));
    let status = hub.settled().status;
    let mut rows: Vec<&str> = status.sites.iter().map(|row| row.name.as_str()).collect();
    rows.sort_unstable();
    names.sort_unstable();
    assert_eq!(rows, names, "{status:?}");
    // The next look finds each row by its name again, also where the site can not be asked.
    let mut hub = hub.stored();
    let south = SiteKey::new(OwnerRef::new(Kind::AIFactory, "example", "south"), "bissen");
    hub.cut(&south);
    let status = hub.settled().status;
    let row = status.sites.iter().find(|row| row.name == "example/south/bissen").expect("a row");
    assert_eq!(row.phase, SiteRowPhase::Bound, "as it was confirmed for this generation");
    assert!(row.access.as_ref().is_some_and(|access| access.kubernetes.is_some()), "what it gave is still told: {row:?}");
}

#[test]
fn a_part_that_nobody_names_is_reached_as_before_and_only_let_go_where_that_is_sure() {
    let mut hub = Hub::new();
    hub.remove_site("bettembourg");
    let site = |hub: &Hub, key: &SiteKey| project::site(&hub.world(), &HubId::new("hub"), key, None).expect("an intent");
    let left = site(&hub, &bettembourg());
    assert!(left.left && left.release && left.recorded);
    assert_eq!(left.expected_uid.as_deref(), Some("c1"));
    assert_eq!(left.policy.subject_prefixes, ["oidc:"]);
    assert!(!site(&hub, &bissen()).left);
    hub.factory = None;
    assert!(site(&hub, &bissen()).left && site(&hub, &bissen()).release, "a factory that is gone wants nothing");
    hub.undecodable = true;
    assert!(site(&hub, &bissen()).left && !site(&hub, &bissen()).release, "what can not be read may want all of it");
    hub.known.clear();
    assert!(project::site(&hub.world(), &HubId::new("hub"), &bissen(), None).is_none());
}

#[test]
fn without_its_factory_a_deletion_waits_for_every_part_that_may_hold_the_grant() {
    let mut hub = Hub::new();
    hub.factory = None;
    hub.holders.clear();
    hub.synced.clear();
    for key in [bissen(), bettembourg(), remich()] {
        hub.cut(&key);
    }
    hub.grants[0]["metadata"]["deletionTimestamp"] = json!("2026-12-15T11:00:00Z");
    let outcome = hub.settled();
    assert!(!outcome.finished);
    assert_eq!(condition(&outcome.status, ConditionType::AccessRemoved), pair("False", Reason::AwaitingSite));
    assert_eq!(outcome.status.may_give_access, Some(true));
    // Abandoned by a person, none of them counts.
    hub.abandoned = hub.known.iter().cloned().collect();
    assert!(hub.settled().finished);
}

/// Nobody waits for it, and nobody knows whether members still have access there.
#[test]
fn an_abandoned_site_that_has_not_answered_is_named_where_access_is_said_to_be_gone() {
    let mut hub = Hub::new().stored();
    hub.spec()["state"] = json!("Revoked");
    hub.cut(&bissen());
    hub.abandoned = BTreeSet::from([bissen()]);
    let status = hub.settled().status;
    assert_eq!(condition(&status, ConditionType::AccessRemoved), pair("True", Reason::AccessGone));
    let but = "except bissen, which was abandoned and has not answered";
    assert_eq!(message(&status, ConditionType::AccessRemoved), format!("every site has confirmed that access is gone, {but}"));
    assert!(message(&status, ConditionType::Ready).contains(but), "{}", message(&status, ConditionType::Ready));
    let confirmed = hub.settled_before_the_cut().status;
    assert_eq!(message(&confirmed, ConditionType::AccessRemoved), "every site has confirmed that access is gone");

    hub.abandoned.insert(bettembourg());
    hub.cut(&bettembourg());
    let status = hub.settled().status;
    let but = "except bettembourg, bissen, which were abandoned and have not answered";
    assert!(message(&status, ConditionType::AccessRemoved).ends_with(but), "{}", message(&status, ConditionType::AccessRemoved));

    hub.spec()["state"] = json!("Active");
    let status = hub.settled().status;
    assert_eq!(condition(&status, ConditionType::AccessRemoved), pair("False", Reason::NotApplicable));
    assert!(message(&status, ConditionType::AccessRemoved).ends_with(but), "{}", message(&status, ConditionType::AccessRemoved));
}

#[test]
fn data_is_said_to_be_kept_only_where_it_is() {
    let mut hub = Hub::new();
    hub.spec()["state"] = json!("Revoked");
    let text = |hub: &Hub| message(&hub.settled().status, ConditionType::Ready);
    assert_eq!(text(&hub), "access is gone everywhere; data is kept at bettembourg, bissen");
    hub.holders.remove(&bettembourg());
    assert_eq!(text(&hub), "access is gone everywhere; data is kept at bissen");
    hub.holders.clear();
    assert_eq!(text(&hub), "access is gone everywhere; no site keeps data");
}

#[test]
fn parts_that_were_never_sent_a_grant_are_not_waited_for() {
    let hub = Hub::new();
    let world = hub.world();
    let none = BTreeSet::new();
    let all = BTreeSet::from([bissen(), bettembourg(), remich()]);
    let may_hold = |world: &Cache, owner: &OwnerRef, held: &BTreeSet<SiteKey>, synced: &BTreeSet<SiteKey>| {
        project::may_hold(world, owner, &holders(held), synced, began())
    };
    assert_eq!(may_hold(&world, &alpha(), &none, &none), all);
    assert_eq!(may_hold(&world, &alpha(), &none, &BTreeSet::from([bissen()])), BTreeSet::from([bettembourg(), remich()]));
    assert_eq!(may_hold(&world, &alpha(), &BTreeSet::from([bissen()]), &all), BTreeSet::from([bissen()]));
    let stranger = OwnerRef::new(Kind::AccessGrant, "elsewhere", "alpha");
    assert_eq!(may_hold(&world, &stranger, &none, &none), none);
    let mut hub = Hub::new();
    hub.pools[0]["spec"]["consumers"] = json!([{"name": "antenna", "namespaces": {"names": ["elsewhere"]}}]);
    assert_eq!(may_hold(&hub.world(), &stranger, &none, &none), all, "a consumer may have had a grant there");
    let mut hub = Hub::new();
    let mut antenna = grant(json!([{"name": "gone", "poolRef": {"name": "gone", "namespace": "example"}, "gpuHours": 1, "maxGPUs": 1}]));
    antenna["metadata"]["namespace"] = json!("elsewhere");
    hub.grants.push(antenna);
    assert_eq!(may_hold(&hub.world(), &stranger, &none, &none), all, "a pool that is not there may have been anywhere beside it");
    let pool = OwnerRef::new(Kind::GPUPool, "example", "h100");
    assert_eq!(may_hold(&hub.world(), &pool, &none, &none), all);
}

#[test]
fn a_grant_that_lost_its_status_may_be_held_wherever_nobody_has_answered_since_the_restart() {
    let mut hub = Hub::new();
    // Neither its pools nor the consumers of the factory tell any more where it was.
    let mut antenna = grant(json!([]));
    antenna["metadata"]["namespace"] = json!("elsewhere");
    hub.grants.push(antenna);
    let stranger = OwnerRef::new(Kind::AccessGrant, "elsewhere", "alpha");
    let synced = BTreeSet::from([bissen()]);
    let may_hold = |hub: &Hub, begun: &str| project::may_hold(&hub.world(), &stranger, &Holders::default(), &synced, begun.parse().expect("a time"));
    assert_eq!(may_hold(&hub, "2026-11-01T00:00:01Z"), BTreeSet::from([bettembourg(), remich()]));
    assert_eq!(may_hold(&hub, "2026-11-01T00:00:00Z"), BTreeSet::new(), "no earlier process has seen it");
    hub.grants[1]["status"] = json!({"observedGeneration": 1});
    assert_eq!(may_hold(&hub, "2026-11-01T00:00:01Z"), BTreeSet::new(), "status names every site that it was sent to");
}

#[test]
fn a_part_that_has_not_answered_what_it_was_sent_may_have_done_it() {
    let hub = Hub::new();
    let (world, all) = (hub.world(), hub.synced.clone());
    let intents = hub.project().sites;
    let first = &intents[&bissen()];
    let second = Intent { serial: 1, ..first.clone() };
    let mut holders = Holders::default();
    let may_hold = |holders: &Holders| project::may_hold(&world, &alpha(), holders, &all, began());
    holders.sent(&bissen(), first);
    assert_eq!(may_hold(&holders), BTreeSet::from([bissen()]));
    holders.sent(&bissen(), &second);
    holders.answered(&bissen(), &done(first, false));
    assert_eq!(may_hold(&holders), BTreeSet::from([bissen()]), "it has answered another intent");
    holders.reported(&bissen(), &SiteReport { reachable: true, synced: true, ..SiteReport::default() });
    assert_eq!(may_hold(&holders), BTreeSet::from([bissen()]), "this report may be from before");
    holders.answered(&bissen(), &done(&second, false));
    assert_eq!(may_hold(&holders), BTreeSet::new());
    holders.sent(&bissen(), first);
    holders.resynced(&bissen(), |_| true);
    assert_eq!(may_hold(&holders), BTreeSet::from([bissen()]), "it is to answer still");
    holders.resynced(&bissen(), |_| false);
    assert_eq!(may_hold(&holders), BTreeSet::new(), "the intent was withdrawn, and everything at the part was read since");
    let unknown = SiteKey::new(bissen().factory, "esch");
    holders.sent(&unknown, first);
    assert_eq!(may_hold(&holders), BTreeSet::new(), "nothing is written at a part that is not stored");
}

#[test]
fn a_part_that_was_only_never_asked_changes_nothing_that_people_read_of_a_living_grant() {
    let hub = Hub::new().stored();
    let before = hub.settled().status;
    let mut hub = hub;
    hub.synced.remove(&remich());
    hub.cut(&remich());
    let after = hub.settled().status;
    assert_eq!((rows(&after), condition(&after, ConditionType::Ready)), (rows(&before), pair("True", Reason::AsSpecified)));
    assert_eq!(condition(&after, ConditionType::SitesReachable), pair("True", Reason::AsSpecified));
    hub.spec()["state"] = json!("Revoked");
    assert_eq!(condition(&hub.settled().status, ConditionType::AccessRemoved), pair("False", Reason::AwaitingSite), "but access may be there");
}

// F9, F11, N2: references that are broken, and sites that are away.

#[test]
fn a_pool_that_is_not_there_takes_nothing_and_keeps_nobody_from_being_taken_out() {
    let mut hub = Hub::new().stored();
    hub.spec()["pools"] = json!([entry("h100"), entry("h1000")]);
    for key in [bissen(), bettembourg()] {
        let intent = intent_at(&hub, &key);
        assert_eq!((&intent.desired, intent.keep), (&Desired::Bound, true));
        assert_eq!(intent.only_if_held.as_ref().map(|refusal| refusal.reason), Some(Reason::PoolNotFound), "nothing new");
    }
    let status = hub.settled().status;
    assert_eq!((status.phase, status.may_give_access), (Some(GrantPhase::Active), Some(true)));
    assert_eq!(rows(&status).len(), 2);
    assert_eq!(condition(&status, ConditionType::Usable).0, "True");
    assert_eq!(condition(&status, ConditionType::Bound).0, "True");
    assert_eq!(condition(&status, ConditionType::Ready), pair("False", Reason::PoolNotFound));
    assert_eq!(condition(&status, ConditionType::Stalled), pair("True", Reason::PoolNotFound));

    hub.spec()["members"][1]["state"] = json!("Suspended");
    assert_eq!(members(&intent_at(&hub, &bissen())), [("p-1", Some("oidc:1"))]);
    hub.spec()["state"] = json!("Paused");
    assert_eq!(intent_at(&hub, &bissen()).desired, Desired::Paused);
    assert_eq!(hub.settled().status.phase, Some(GrantPhase::Paused));
    hub.spec()["state"] = json!("Revoked");
    assert!(matches!(intent_at(&hub, &bissen()).desired, Desired::Ended { because: Reason::Revoked, .. }));
    assert_eq!(condition(&hub.settled().status, ConditionType::AccessRemoved), pair("True", Reason::AccessGone));
    hub.spec()["state"] = json!("Active");
    hub.spec()["notAfter"] = json!("2026-12-15T00:00:00Z");
    assert!(matches!(intent_at(&hub, &bissen()).desired, Desired::Ended { because: Reason::Expired, .. }));
}

#[test]
fn a_grant_of_pools_that_are_not_there_acts_where_it_is_held() {
    let mut hub = Hub::new().stored();
    hub.pools.clear();
    let intent = intent_at(&hub, &bissen());
    assert_eq!((&intent.desired, intent.keep, intent.pools.len()), (&Desired::Bound, true, 0));
    let status = hub.settled().status;
    assert_eq!(
        (status.phase, status.may_give_access, condition(&status, ConditionType::Bound).0.as_str()),
        (Some(GrantPhase::Active), Some(true), "True")
    );
    hub.factory = None;
    let intent = intent_at(&hub, &bissen());
    assert_eq!((&intent.desired, intent.keep), (&Desired::Bound, true));
    assert_eq!(hub.settled().status.phase, Some(GrantPhase::Active));
}

#[test]
fn a_site_that_the_grant_names_wrongly_takes_nothing_from_where_it_is() {
    let mut hub = Hub::new().stored();
    hub.spec()["pools"][0]["sites"] = json!([{"name": "bisen"}, {"name": "bettembourg"}]);
    assert_eq!((intent_at(&hub, &bissen()).desired, intent_at(&hub, &bissen()).keep), (Desired::Bound, true));
    assert_eq!((intent_at(&hub, &bettembourg()).desired, intent_at(&hub, &bettembourg()).keep), (Desired::Bound, false));
    hub.spec()["pools"][0]["sites"] = json!([{"name": "bettembourg"}]);
    assert!(matches!(intent_at(&hub, &bissen()).desired, Desired::Ended { because: Reason::PlacementRemoved, .. }), "what was meant is done");
}

#[test]
fn a_grant_that_was_never_bound_is_given_nothing_while_something_is_missing() {
    let mut hub = Hub::new();
    hub.holders.clear();
    hub.spec()["pools"] = json!([entry("h100"), entry("h1000")]);
    assert!(intent_at(&hub, &bissen()).only_if_held.is_some());
    let status = hub.settled().status;
    assert_eq!((status.phase, status.may_give_access), (Some(GrantPhase::Refused), Some(false)));
    assert_eq!(condition(&status, ConditionType::AccessRemoved), pair("False", Reason::NotApplicable));
}

#[test]
fn an_edit_while_the_only_site_is_away_leaves_the_grant_living_and_protected() {
    let mut hub = Hub::new();
    hub.spec()["pools"][0]["sites"] = json!([{"name": "bissen"}]);
    hub.holders = BTreeSet::from([bissen()]);
    let mut hub = hub.stored();
    assert_eq!(hub.settled().status.phase, Some(GrantPhase::Active));
    hub.cut(&bissen());
    hub.spec()["accessMode"] = json!("Benchmark");
    hub.grants[0]["metadata"]["generation"] = json!(2);
    let status = hub.settled().status;
    assert_eq!((status.phase, status.may_give_access), (Some(GrantPhase::Active), Some(true)));
    assert_eq!(rows(&status), [("bissen", SiteRowPhase::Unknown)]);
    assert!(status.sites[0].access.is_some() && status.sites[0].members.is_some(), "members still find what they had");
    for type_ in [ConditionType::Usable, ConditionType::Bound] {
        assert_eq!(condition(&status, type_), pair("Unknown", Reason::SiteUnreachable), "{type_}");
    }
    hub.grants[0]["status"] = serde_json::to_value(&status).expect("a status");
    assert_eq!(hub.settled().status.phase, Some(GrantPhase::Active), "and again after a restart");
    hub.spec()["state"] = json!("Revoked");
    let status = hub.settled().status;
    assert_eq!(condition(&status, ConditionType::Usable), pair("Unknown", Reason::SiteUnreachable), "the member may still work there");
}

// F6: whom a factory does not allow.

#[test]
fn nobody_gets_a_binding_where_a_grant_ends_whom_the_factory_does_not_allow() {
    let mut hub = Hub::new();
    hub.spec()["members"] = json!([
        {"id": "p-1", "role": "Lead", "kubernetes": {"name": "other:stranger"}},
        {"id": "p-2", "role": "Lead", "kubernetes": {"kind": "Group", "name": "system:masters"}},
        {"id": "p-3", "role": "Lead", "kubernetes": {"name": "oidc:3"}},
    ]);
    let filtered = [("p-1", None), ("p-2", None), ("p-3", Some("oidc:3"))];
    hub.spec()["pools"][0]["sites"] = json!([{"name": "bissen"}]);
    assert!(matches!(intent_at(&hub, &bettembourg()).desired, Desired::Ended { because: Reason::PlacementRemoved, .. }));
    for key in [bissen(), bettembourg()] {
        assert_eq!((members(&intent_at(&hub, &key)), intent_at(&hub, &key).keep), (filtered.to_vec(), false), "{key}");
    }
    hub.spec()["state"] = json!("Revoked");
    for key in [bissen(), bettembourg()] {
        assert_eq!(members(&intent_at(&hub, &key)), filtered, "{key}");
    }
    hub.factory = None;
    let ended = intent_at(&hub, &bissen());
    assert!(ended.keep, "nobody can check the members, so none of them gets anything that he has not");
    assert_eq!(members(&ended)[1], ("p-2", None));
}

// B10: quota that the end of another grant frees.

#[test]
fn a_grant_looks_again_when_another_that_shares_its_cap_ends() {
    let mut hub = Hub::new();
    hub.pools[0]["spec"]["consumers"] = json!([{"name": "antenna", "namespaces": {"names": ["antenna"]}, "gpuHours": 150}]);
    for (name, until) in [("first", "2026-12-20T00:00:00Z"), ("second", "2027-02-01T00:00:00Z")] {
        let mut grant = grant(json!([{"name": "h100", "poolRef": {"name": "h100", "namespace": "example"}, "gpuHours": 100, "maxGPUs": 8}]));
        grant["metadata"]["name"] = json!(name);
        grant["metadata"]["namespace"] = json!("antenna");
        grant["spec"]["notAfter"] = json!(until);
        hub.grants.push(grant);
    }
    let mut own = hub.factory.clone().expect("a factory");
    own["metadata"]["name"] = json!("example");
    own["metadata"]["namespace"] = json!("antenna");
    let mut world = hub.world();
    let issuer = OwnerRef::new(Kind::AIFactory, "antenna", "example");
    world.put_factory(issuer, Arc::new(serde_json::from_value(own).expect("a factory")));
    let of =
        |name: &str, at: Timestamp| project::grant(&world, &OwnerRef::new(Kind::AccessGrant, "antenna", name), &BTreeSet::new(), at).expect("one");
    let second = of("second", now());
    assert_eq!(second.problems.first().map(|problem| problem.reason), Some(Reason::ConsumerCapExceeded));
    let wake = second.wake.expect("a moment");
    assert_eq!(wake.to_string(), "2026-12-20T00:00:00Z");
    assert_eq!(of("second", wake).problems, []);
}

// F4, N4, N12 and which problem is named.

fn with(report: Report, findings: Vec<Finding>) -> Report {
    Report { findings, settled: false, phase: SitePhase::Pending, ..report }
}

#[test]
fn what_a_site_will_not_do_without_a_person_is_stalled() {
    let hub = Hub::new();
    let refused = |key: &SiteKey, intent: &Intent| {
        (*key == bissen()).then(|| with(done(intent, true), vec![Finding::stalled(Reason::RefusedBySite, "a policy of the site denies it")]))
    };
    let outcome = hub.aggregate(refused);
    assert!(!outcome.in_progress);
    assert_eq!(condition(&outcome.status, ConditionType::Stalled), pair("True", Reason::RefusedBySite));
    assert_eq!(condition(&outcome.status, ConditionType::Reconciling).0, "False");
    assert_eq!(condition(&outcome.status, ConditionType::Ready), pair("False", Reason::RefusedBySite));
    let also = |key: &SiteKey, intent: &Intent| refused(key, intent).or_else(|| Some(with(done(intent, true), Vec::new())));
    let outcome = hub.aggregate(also);
    assert!(outcome.in_progress, "the other site is at work");
    assert_eq!(
        (condition(&outcome.status, ConditionType::Stalled).0, condition(&outcome.status, ConditionType::Reconciling).0),
        ("False".into(), "True".into())
    );
}

#[test]
fn of_several_troubles_the_one_is_named_that_a_person_must_mend_first() {
    let mut hub = Hub::new();
    hub.cut(&bettembourg());
    let denied = |key: &SiteKey, intent: &Intent| {
        let finding = Finding::stalled(Reason::ForeignObject, "somebody else's quota");
        (*key == bissen()).then(|| with(done(intent, true), vec![finding]))
    };
    assert_eq!(condition(&hub.settled().status, ConditionType::Ready), pair("False", Reason::SiteUnreachable));
    let status = hub.aggregate(denied).status;
    assert_eq!(condition(&status, ConditionType::Ready), pair("False", Reason::ForeignObject));
    assert_eq!(condition(&status, ConditionType::Stalled), pair("True", Reason::ForeignObject));
    assert_eq!(condition(&status, ConditionType::SitesReachable), pair("False", Reason::SiteUnreachable));
    let refused = |key: &SiteKey, intent: &Intent| {
        let report = denied(key, intent)?;
        Some(Report { phase: SitePhase::Refused, findings: vec![Finding::stalled(Reason::RefusedBySite, "refuseGrants")], ..report })
    };
    assert_eq!(condition(&hub.aggregate(refused).status, ConditionType::Ready), pair("False", Reason::RefusedBySite));
    hub.spec()["pools"] = json!([entry("h100"), entry("h1000")]);
    assert_eq!(condition(&hub.aggregate(refused).status, ConditionType::Ready), pair("False", Reason::PoolNotFound));
}

#[test]
fn members_who_only_read_make_a_grant_usable_for_nobody() {
    let hub = Hub::new();
    let reading = |all: i32| {
        move |_: &SiteKey, intent: &Intent| {
            let mut report = done(intent, true);
            if let Detail::Grant(detail) = &mut report.detail {
                detail.members_reading = all;
            }
            Some(report)
        }
    };
    let status = hub.aggregate(reading(2)).status;
    assert_eq!(condition(&status, ConditionType::Usable), pair("False", Reason::MembersWaiting));
    assert_eq!(condition(&status, ConditionType::Ready), pair("True", Reason::AsSpecified), "that is what was asked for");
    assert_eq!(condition(&hub.aggregate(reading(1)).status, ConditionType::Usable), pair("True", Reason::AsSpecified));
}

#[test]
fn a_placement_that_is_drained_or_has_nothing_left_is_no_place_to_start_work() {
    let mut hub = Hub::new();
    hub.pools[0]["spec"]["sites"][1]["state"] = json!("Draining");
    let status = hub.settled().status;
    assert_eq!(condition(&status, ConditionType::Usable), pair("True", Reason::AsSpecified));
    assert_eq!(message(&status, ConditionType::Usable), "members can start work at 1 of 2 sites; not at bettembourg: pool h100 is being drained");
    hub.pools[0]["spec"]["sites"][0]["state"] = json!("Draining");
    let status = hub.settled().status;
    assert_eq!(condition(&status, ConditionType::Usable), pair("False", Reason::Draining));
    let mut hub = Hub::new();
    hub.spec()["pools"][0]["sites"] = json!([{"name": "bissen", "gpuHours": 100}, {"name": "bettembourg", "gpuHours": 0}]);
    let status = hub.settled().status;
    assert!(message(&status, ConditionType::Usable).ends_with("not at bettembourg: pool h100 has no GPU-hours for this grant here"), "{status:?}");
}

#[test]
fn access_was_never_given_where_every_part_reports_that() {
    let mut hub = Hub::new();
    hub.holders.clear();
    hub.spec()["notBefore"] = json!("2027-01-01T00:00:00Z");
    let status = hub.settled().status;
    assert_eq!((status.may_give_access, condition(&status, ConditionType::AccessRemoved)), (Some(false), pair("False", Reason::NotApplicable)));
    hub.cut(&bissen());
    let status = hub.settled().status;
    assert_eq!((status.may_give_access, condition(&status, ConditionType::AccessRemoved)), (Some(true), pair("False", Reason::AccessGiven)));
    hub.known.retain(|key| *key != bissen());
    assert_eq!(hub.settled().status.may_give_access, Some(false), "where the hub never wrote anything nobody has access");
    hub.sites.get_mut(&bissen()).expect("its report").held.insert(alpha(), Held::Live);
    assert_eq!(hub.settled().status.may_give_access, Some(true), "unless the site says otherwise");
}

// B14: what is aggregated fits into the definitions.

/// A site that names more entries than a grant may have, in longer messages than status has room for.
fn lavish(intent: &Intent, entries: usize, words: usize) -> Report {
    let text = "a word of the site ".repeat(words);
    let name = |at: usize| if at == 0 { "h100".to_owned() } else { format!("former-{at}") };
    let entry = |at: usize| SlurmEntry { qos: QosName::new(format!("q-{at}")), partition: PartitionName::new("h100"), limit: Some(60) };
    let detail = GrantDetail {
        namespace: TenantNamespace::new("aif-alpha"),
        members_wanted: 2,
        members_bound: 2,
        slurm: Some(SlurmDetail {
            cluster: ClusterName::new("remich"),
            account: AccountName::new("a"),
            entries: (0..entries).map(|at| (name(at), entry(at))).collect(),
        }),
        usage: (0..entries).map(|at| (name(at), EntryUsage { used: 60, ..EntryUsage::default() })).collect(),
        ..GrantDetail::default()
    };
    Report { findings: vec![Finding::note(Reason::SiteError, text); 3], detail: Detail::Grant(detail), ..done(intent, true) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// However many entries a site names, however many sites there are, and whatever they report.
    #[test]
    fn any_status_is_one_that_the_api_server_takes(entries in 0..40_usize, words in 0..200_usize, factories in 1..4_usize, sites in 0..64_usize, silent in 0..3_usize) {
        let mut hub = Hub::new();
        hub.grants[0] = grant(json!([entry("h100"), entry("slurm")]));
        let mut world = hub.world();
        let mut known: Vec<KnownSite> = world.known.iter().cloned().collect();
        for factory in 0..factories {
            let owner = OwnerRef::new(Kind::AIFactory, format!("team-{factory}"), "example");
            known.extend((0..sites).map(|site| self::known(SiteKey::new(owner.clone(), format!("site-{site}")))));
        }
        world.known = known.into_iter().collect();
        let holders: BTreeSet<SiteKey> = world.known.iter().map(|known| known.key.clone()).collect();
        let projection = project::grant(&world, &alpha(), &holders, now()).expect("a projection");
        let answers: BTreeMap<SiteKey, SiteReport> = projection.sites.keys().enumerate().map(|(at, key)| {
            let reachable = silent == 0 || at % silent != 0;
            let problem = (!reachable).then(|| Finding::note(Reason::SiteUnreachable, "no answer ".repeat(words)));
            (key.clone(), SiteReport { reachable, synced: reachable, problem, held: BTreeMap::from([(alpha(), Held::Live)]), ..SiteReport::default() })
        }).collect();
        let reports: BTreeMap<SiteKey, Report> = projection.sites.iter().map(|(key, intent)| (key.clone(), lavish(intent, entries, words))).collect();
        let none = BTreeSet::new();
        let about = Reports { about: reports.iter().map(|(key, report)| (key.clone(), report)).collect(), sites: &answers, abandoned: &none };
        let stored = world.grant(&alpha()).expect("the grant");
        let status = serde_json::to_value(aggregate::grant(&world, stored, &projection, &about, now()).status).expect("a status");
        prop_assert_eq!(schema::complaints("AccessGrant", &status), Vec::<String>::new());

        let pool_ref = OwnerRef::new(Kind::GPUPool, "example", "slurm");
        let projection = project::pool(&world, &pool_ref, &holders);
        let detail = PoolDetail { partition: Some((PartitionName::new("h100"), "Up".to_owned())), ..PoolDetail::default() };
        let of_pool = |intent: &Intent| Report {
            owner: intent.owner.clone(), uid: intent.uid.clone(), generation: 1, answers: digest_of(intent), phase: SitePhase::Bound, settled: false,
            findings: vec![Finding::note(Reason::SiteError, "a word ".repeat(words))], detail: Detail::Pool(detail.clone()),
        };
        let reports: BTreeMap<SiteKey, Report> = projection.sites.iter().map(|(key, intent)| (key.clone(), of_pool(intent))).collect();
        let about = Reports { about: reports.iter().map(|(key, report)| (key.clone(), report)).collect(), sites: &answers, abandoned: &none };
        let stored = world.pool(&pool_ref).expect("the pool");
        let status = serde_json::to_value(aggregate::pool(&world, stored, &projection, &about, &ReportIndex::default(), now()).status).expect("a status");
        prop_assert_eq!(schema::complaints("GPUPool", &status), Vec::<String>::new());

        let object = world.factory(&factory()).expect("the factory");
        let status = aggregate::factory(&world, object, &answers, &ReportIndex::default(), &none, now()).status;
        prop_assert_eq!(schema::complaints("AIFactory", &serde_json::to_value(status).expect("a status")), Vec::<String>::new());
    }
}

// The number of living grants in the status of factories and pools.

#[test]
fn factories_and_pools_count_the_grants_that_may_still_give_access() {
    let mut hub = Hub::new();
    hub.remove_site("bettembourg");
    hub.grants[0]["metadata"]["finalizers"] = json!(["aifactory.dev/finalizer"]);
    let counts = |hub: &Hub| {
        let world = hub.world();
        let pool_ref = OwnerRef::new(Kind::GPUPool, "example", "h100");
        let none = BTreeSet::new();
        let reports = Reports { about: BTreeMap::new(), sites: &hub.sites, abandoned: &none };
        let projection = project::pool(&world, &pool_ref, &none);
        let pool = aggregate::pool(&world, world.pool(&pool_ref).expect("a pool"), &projection, &reports, &ReportIndex::default(), now()).status;
        let of = aggregate::factory(&world, world.factory(&factory()).expect("a factory"), &hub.sites, &ReportIndex::default(), &none, now()).status;
        (pool.living_grants, of)
    };
    let (pool, status) = counts(&hub);
    assert_eq!((pool, status.living_grants), (Some(1), Some(1)), "without a word of the sites it may");
    let claimed: Vec<_> = status.sites.iter().map(|row| (row.name.as_str(), row.claimed, row.reason.as_deref())).collect();
    let wanted = [("bissen", true, None), ("remich", true, None), ("bettembourg", true, Some("SitesRemain"))];
    assert_eq!(claimed, wanted, "a site that left the spec keeps its row until it is let go");
    hub.grants[0]["status"] = json!({"mayGiveAccess": false});
    hub.known.retain(|key| *key == bissen());
    let (pool, status) = counts(&hub);
    assert_eq!((pool, status.living_grants), (Some(0), Some(0)));
    assert_eq!(status.sites.iter().map(|row| (row.name.as_str(), row.claimed)).collect::<Vec<_>>(), [("bissen", true), ("remich", false)]);
}

#[test]
fn a_pool_goes_only_when_every_part_that_may_hold_it_has_reported_it_gone() {
    let mut hub = Hub::new();
    hub.grants.clear();
    hub.pools[0]["metadata"]["deletionTimestamp"] = json!("2026-12-15T11:00:00Z");
    hub.factory = None;
    for key in [bissen(), bettembourg(), remich()] {
        hub.cut(&key);
    }
    let pool_ref = OwnerRef::new(Kind::GPUPool, "example", "h100");
    let finished = |hub: &Hub, synced: &BTreeSet<SiteKey>| {
        let world = hub.world();
        let projection = project::pool(&world, &pool_ref, &project::may_hold(&world, &pool_ref, &Holders::default(), synced, began()));
        let reports = Reports { about: BTreeMap::new(), sites: &hub.sites, abandoned: &hub.abandoned };
        aggregate::pool(&world, world.pool(&pool_ref).expect("a pool"), &projection, &reports, &ReportIndex::default(), now()).finished
    };
    let all = hub.synced.clone();
    assert!(!finished(&hub, &BTreeSet::new()), "a factory that can not be read has let go of nothing");
    assert!(!finished(&hub, &all), "the pool names sites that are known");
    hub.abandoned = all.clone();
    assert!(finished(&hub, &BTreeSet::new()));
}

#[test]
fn a_pool_at_a_part_that_left_the_spec_stays_as_it_is() {
    use aifactory_plan::model::intent::Presence;
    let mut hub = Hub::new();
    hub.site("bissen")["kubernetes"].take();
    hub.site("bissen")["slurm"] = json!({"clusterName": "bissen"});
    let pool_ref = OwnerRef::new(Kind::GPUPool, "example", "h100");
    let projection = project::pool(&hub.world(), &pool_ref, &BTreeSet::from([bissen()]));
    match &projection.sites[&bissen()].body {
        Body::Pool(pool) => assert_eq!(pool.presence, Presence::Active),
        Body::Grant(_) => panic!("a grant"),
    }
    assert_eq!(projection.problems.first().map(|problem| problem.reason), Some(Reason::EngineMissing));
}

#[test]
fn nodes_of_a_site_that_never_reported_do_not_count_as_ready() {
    let mut hub = Hub::new();
    let claimed = Finding::stalled(Reason::SiteClaimed, "the site belongs to AIFactory other/other");
    hub.sites.insert(bissen(), SiteReport { problem: Some(claimed), ..SiteReport::default() });
    let pool_ref = OwnerRef::new(Kind::GPUPool, "example", "h100");
    let world = hub.world();
    let projection = project::pool(&world, &pool_ref, &BTreeSet::new());
    let none = BTreeSet::new();
    let reports = Reports { about: BTreeMap::new(), sites: &hub.sites, abandoned: &none };
    let status = aggregate::pool(&world, world.pool(&pool_ref).expect("a pool"), &projection, &reports, &ReportIndex::default(), now()).status;
    let nodes = status.conditions.iter().find(|found| found.type_ == "NodesReady").expect("the condition");
    assert_eq!((nodes.status.as_str(), nodes.message.as_str()), ("Unknown", "bissen: SiteClaimed: the site belongs to AIFactory other/other"));
}

/// A factory that is being deleted lets its sites go one after the other: what is given then is given where nobody may look any more.
#[test]
fn a_factory_that_is_being_deleted_gives_nothing_new() {
    let mut hub = Hub::new();
    hub.factory.as_mut().unwrap()["metadata"]["deletionTimestamp"] = json!("2026-12-15T11:00:00Z");
    let intent = intent_at(&hub, &bissen());
    assert_eq!(intent.only_if_held.as_ref().map(|refusal| refusal.reason), Some(Reason::Draining));
    assert_eq!(intent.desired, Desired::Bound, "what is held stays");
}

/// Those who get no access are named to the site all the same: a binding of others by which one of them works is found by them.
#[test]
fn members_who_are_barred_are_looked_for() {
    let mut hub = Hub::new();
    hub.factory.as_mut().unwrap()["spec"]["policy"]["subjectPrefixes"] = json!(["sso:"]);
    hub.spec()["members"][1]["state"] = json!("Suspended");
    let intent = intent_at(&hub, &bissen());
    assert_eq!(members(&intent), [("p-1", None)]);
    let barred: Vec<_> = intent.barred.iter().map(|member| (member.id.as_str(), member.subject.as_ref().unwrap().name.as_str())).collect();
    assert_eq!(barred, [("p-1", "oidc:1"), ("p-2", "oidc:2")]);
    hub.factory = None;
    hub.undecodable = true;
    let barred: Vec<_> = intent_at(&hub, &bissen()).barred.into_iter().map(|member| member.id).collect();
    assert_eq!(barred, ["p-2"], "nobody knows whom the factory allows");
}

/// A label of a pool on a node of another factory's site takes no node there.
#[test]
fn a_pool_is_not_placed_at_a_site_of_another_factory_with_the_same_name() {
    use aifactory_plan::model::intent::Presence;
    let hub = Hub::new();
    let pool_ref = OwnerRef::new(Kind::GPUPool, "example", "h100");
    let other = SiteKey::new(OwnerRef::new(Kind::AIFactory, "example", "south"), "bissen");
    let projection = project::pool(&hub.world(), &pool_ref, &BTreeSet::from([other.clone()]));
    match &projection.sites[&other].body {
        Body::Pool(pool) => assert_eq!(pool.presence, Presence::Absent),
        Body::Grant(_) => panic!("a grant"),
    }
}

/// The longest names that the definitions allow.
#[test]
fn the_longest_names_of_sites_fit_into_status() {
    let (namespace, name, site) = ("n".repeat(63), "f".repeat(63), "s".repeat(40));
    let mut hub = Hub::new();
    let mut south = hub.factory.clone().expect("a factory");
    (south["metadata"]["namespace"], south["metadata"]["name"]) = (json!(namespace), json!(name));
    south["spec"]["sites"][0]["name"] = json!(site);
    hub.others.push(south);
    let mut pool = pool("far", json!({"kubernetes": {}}), json!([{"name": site}]));
    pool["metadata"]["namespace"] = json!(namespace);
    pool["spec"]["factoryRef"]["name"] = json!(name);
    pool["spec"]["consumers"] = json!([{"name": "example", "namespaces": {"names": ["example"]}}]);
    hub.pools.push(pool);
    let mut entry = entry("far");
    entry["poolRef"]["namespace"] = json!(namespace);
    hub.grants[0] = grant(json!([entry]));
    let key = SiteKey::new(OwnerRef::new(Kind::AIFactory, &namespace, &name), &site);
    hub.sites.insert(key.clone(), SiteReport { reachable: true, synced: true, ..SiteReport::default() });
    let status = hub.settled().status;
    assert_eq!(status.sites.iter().map(|row| row.name.len()).max(), Some(168));
    assert_eq!(schema::complaints("AccessGrant", &serde_json::to_value(status).unwrap()), [] as [String; 0]);
    // A pool is shown at a site of another factory while something of it is there.
    let pool_ref = OwnerRef::new(Kind::GPUPool, "example", "h100");
    let world = hub.world();
    let projection = project::pool(&world, &pool_ref, &BTreeSet::from([key.clone()]));
    hub.sites.get_mut(&key).unwrap().held.insert(pool_ref.clone(), Held::Live);
    let reports = Reports { about: BTreeMap::new(), sites: &hub.sites, abandoned: &hub.abandoned };
    let status = aggregate::pool(&world, world.pool(&pool_ref).unwrap(), &projection, &reports, &ReportIndex::default(), now()).status;
    assert_eq!(status.sites.iter().map(|row| row.name.len()).max(), Some(168));
    assert_eq!(schema::complaints("GPUPool", &serde_json::to_value(status).unwrap()), [] as [String; 0]);
}

// What a site would have to confirm, and can not.

fn true_of(conditions: &[Condition]) -> Vec<&str> {
    conditions.iter().filter(|found| found.status == "True").map(|found| found.type_.as_str()).collect()
}

/// The hub with the enforcement of network policies declared, so that each condition of a grant can be True.
fn declared() -> Hub {
    let mut hub = Hub::new();
    for name in ["bissen", "bettembourg"] {
        hub.site(name)["network"] = json!({"implementation": "Cilium"});
    }
    hub
}

/// A report with usage, so that the budget is known.
fn counted(_: &SiteKey, intent: &Intent) -> Option<Report> {
    let mut report = done(intent, true);
    if let Detail::Grant(detail) = &mut report.detail {
        detail.usage.insert("h100".to_owned(), EntryUsage { used: 60, complete_through: Some(now()), ..EntryUsage::default() });
    }
    Some(report)
}

/// What holds by the word of a site holds no longer when the site can not be asked, whether or not the hub still has its last report. `Ready` of a
/// generation that was confirmed stays by design, and nothing refuses the grant (`Authorised`).
#[test]
fn a_cut_site_leaves_no_condition_of_a_grant_true_that_the_site_would_have_to_confirm() {
    for (state, by_the_sites) in [("Active", &["Usable", "Bound", "NetworkIsolated", "WithinBudget"][..]), ("Paused", &["Bound", "NetworkIsolated"])]
    {
        let mut hub = declared();
        hub.spec()["state"] = json!(state);
        let before = hub.aggregate(counted).status;
        let all = true_of(&before.conditions);
        assert!(by_the_sites.iter().chain(&["Ready", "SitesReachable", "Authorised"]).all(|type_| all.contains(type_)), "{state}: {all:?}");
        hub.grants[0]["status"] = serde_json::to_value(&before).expect("a status");
        hub.cut(&bissen());
        hub.cut(&bettembourg());
        for (reports, after) in [("known", hub.aggregate_reports_of(|_| true, counted).status), ("lost", hub.aggregate(counted).status)] {
            assert_eq!(true_of(&after.conditions), ["Ready", "Authorised"], "{state}, reports {reports}");
            let unknown = by_the_sites.iter().filter(|type_| **type_ != "WithinBudget" || reports == "known");
            for found in unknown.map(|type_| after.conditions.iter().find(|found| found.type_ == *type_).expect("the condition")) {
                assert_eq!(found.status, "Unknown", "{state}, reports {reports}: {found:?}");
                assert!(found.message.contains("bissen"), "{found:?}");
            }
        }
    }
}

#[test]
fn a_grant_is_isolated_where_policies_are_in_place_and_enforced_and_the_site_says_so_now() {
    let isolated = |hub: &Hub, say: &dyn Fn(&SiteKey, &Intent) -> Option<Report>| {
        let status = hub.aggregate_reports_of(|_| true, say).status;
        (condition(&status, ConditionType::NetworkIsolated), message(&status, ConditionType::NetworkIsolated))
    };
    let hub = declared();
    let (found, text) = isolated(&hub, &|_, _| None);
    assert_eq!(found, pair("True", Reason::AsSpecified));
    assert!(text.starts_with("policies are in place at 2 sites. RDMA"), "{text}");
    let open = |key: &SiteKey, intent: &Intent| {
        let mut report = done(intent, true);
        if let (Detail::Grant(detail), true) = (&mut report.detail, *key == bissen()) {
            detail.isolated = false;
        }
        Some(report)
    };
    assert_eq!(isolated(&hub, &open).0, pair("False", Reason::InProgress));
    let widened = |key: &SiteKey, intent: &Intent| {
        let found = Finding::note(Reason::ForeignPolicy, "a policy of somebody else");
        Some(with(done(intent, true), if *key == bissen() { vec![found] } else { Vec::new() }))
    };
    assert_eq!(isolated(&hub, &widened).0, pair("False", Reason::ForeignPolicy));
    // What a site reports of a former intent says nothing of the present one.
    let former = |key: &SiteKey, intent: &Intent| {
        let report = done(intent, true);
        Some(if *key == bissen() { Report { answers: digest_of(&"former"), ..report } } else { report })
    };
    assert_eq!(isolated(&hub, &former).0, pair("Unknown", Reason::InProgress));
    assert!(isolated(&hub, &former).1.contains("bissen"));
    for (implementation, wanted) in [("None", pair("False", Reason::EngineMissing)), ("Unknown", pair("Unknown", Reason::Pending))] {
        let mut hub = declared();
        hub.site("bissen")["network"]["implementation"] = json!(implementation);
        assert_eq!(isolated(&hub, &|_, _| None).0, wanted, "{implementation}");
    }
    let mut hub = declared();
    hub.cut(&bissen());
    let (found, text) = isolated(&hub, &|_, _| None);
    assert_eq!(found, pair("Unknown", Reason::SiteUnreachable));
    assert!(text.contains("bissen: ") && !text.contains("bettembourg"), "{text}");
    // At a site that the hub has never written to, there is nothing to isolate.
    hub.known.retain(|key| *key != bissen());
    assert_eq!(condition(&hub.settled().status, ConditionType::NetworkIsolated), pair("True", Reason::AsSpecified));
    hub.holders.clear();
    hub.spec()["notBefore"] = json!("2027-01-01T00:00:00Z");
    assert_eq!(condition(&hub.settled().status, ConditionType::NetworkIsolated), pair("Unknown", Reason::NotApplicable));
}

#[test]
fn a_cut_site_leaves_no_condition_of_a_pool_true_that_the_site_would_have_to_confirm() {
    let mut hub = Hub::new();
    let pool_ref = OwnerRef::new(Kind::GPUPool, "example", "slurm");
    let aggregate = |hub: &Hub, reported: bool| {
        let world = hub.world();
        let projection = project::pool(&world, &pool_ref, &BTreeSet::new());
        let reports: BTreeMap<SiteKey, Report> =
            projection.sites.iter().filter(|_| reported).map(|(key, intent)| (key.clone(), pool_is_up(intent))).collect();
        let about = reports.iter().map(|(key, report)| (key.clone(), report)).collect();
        let reports = Reports { about, sites: &hub.sites, abandoned: &hub.abandoned };
        aggregate::pool(&world, world.pool(&pool_ref).expect("a pool"), &projection, &reports, &ReportIndex::default(), now()).status
    };
    let before = aggregate(&hub, true);
    assert_eq!(true_of(&before.conditions), ["Ready", "SitesReachable", "NodesReady", "PartitionReady"]);
    hub.pools[1]["status"] = serde_json::to_value(&before).expect("a status");
    hub.cut(&remich());
    for reported in [true, false] {
        let after = aggregate(&hub, reported);
        assert_eq!(true_of(&after.conditions), ["Ready"], "reports known: {reported}");
        for type_ in ["NodesReady", "PartitionReady"] {
            let found = after.conditions.iter().find(|found| found.type_ == type_).expect("the condition");
            assert_eq!((found.status.as_str(), found.reason.as_str()), ("Unknown", "SiteUnreachable"), "{type_}, reports known: {reported}");
            assert!(found.message.starts_with("remich (Slurm): "), "{found:?}");
        }
    }
}

fn pool_is_up(intent: &Intent) -> Report {
    let detail = PoolDetail { wanted: 1, ready: 1, gpus: 4, partition: Some((PartitionName::new("h100"), "Up".to_owned())), ..PoolDetail::default() };
    Report::answering(intent, SitePhase::Bound, Detail::Pool(detail))
}

fn factory_status(hub: &Hub) -> AIFactoryStatus {
    let world = hub.world();
    aggregate::factory(&world, world.factory(&factory()).expect("a factory"), &hub.sites, &ReportIndex::default(), &hub.abandoned, now()).status
}

#[test]
fn a_cut_site_leaves_no_condition_of_a_factory_true_that_the_site_would_have_to_confirm() {
    let mut hub = Hub::new();
    let before = factory_status(&hub);
    assert_eq!(true_of(&before.conditions), ["Ready", "SitesReachable", "EnginesReady"]);
    hub.factory.as_mut().expect("a factory")["status"] = serde_json::to_value(&before).expect("a status");
    hub.cut(&bissen());
    assert_eq!(true_of(&factory_status(&hub).conditions), ["Ready", "EnginesReady"], "the factory names no engine there");
    hub.cut(&remich());
    let after = factory_status(&hub);
    assert_eq!(true_of(&after.conditions), ["Ready"]);
    let engines = after.conditions.iter().find(|found| found.type_ == "EnginesReady").expect("the condition");
    assert_eq!((engines.status.as_str(), engines.reason.as_str()), ("Unknown", "SiteUnreachable"));
    assert_eq!(engines.message, "can not be asked: remich");
    hub.abandoned = BTreeSet::from([remich()]);
    let engines = factory_status(&hub).conditions.into_iter().find(|found| found.type_ == "EnginesReady").expect("the condition");
    assert_eq!(engines.status, "True", "nobody waits for an abandoned site");
}

// A factory's sites, each named once and all named.

#[test]
fn orphans_of_a_part_that_left_the_spec_are_named() {
    let mut hub = Hub::new();
    hub.site("remich")["slurm"]["rest"].take();
    hub.remove_site("bettembourg");
    let gone = OwnerRef::new(Kind::AccessGrant, "example", "gone");
    for key in [remich(), bettembourg()] {
        hub.sites.get_mut(&key).expect("its report").orphans.insert(gone.clone());
    }
    let status = factory_status(&hub);
    let orphans = status.conditions.iter().find(|found| found.type_ == "OrphansFound").expect("the condition");
    assert_eq!((orphans.status.as_str(), status.sites.iter().map(|row| row.orphans).sum::<i32>()), ("True", 2));
    assert_eq!(orphans.message, format!("remich (Slurm): {gone}, bettembourg: {gone}"));
}

#[test]
fn a_site_that_answers_to_somebody_else_is_named_once() {
    let mut hub = Hub::new();
    let claimed = Finding::stalled(Reason::SiteClaimed, "the site belongs to AIFactory other/other");
    hub.sites.insert(bissen(), SiteReport { problem: Some(claimed), ..SiteReport::default() });
    hub.cut(&bettembourg());
    let status = factory_status(&hub);
    let text = |type_: &str| status.conditions.iter().find(|found| found.type_ == type_).expect("the condition").message.clone();
    assert_eq!(text("Ready").matches("bissen").count(), 1, "{}", text("Ready"));
    assert_eq!(text("Ready").matches("bettembourg").count(), 1, "{}", text("Ready"));
    assert_eq!(text("Stalled").matches("bissen").count(), 1, "{}", text("Stalled"));
    assert_eq!(text("SitesReachable").matches("bissen").count(), 1, "and it can not be used, so it is named here as well");
}
