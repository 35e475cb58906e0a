#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::labels;
use jiff::Timestamp;
use serde_json::json;

use super::Accounts;
use crate::model::id::{HubId, TenantNamespace};
use crate::model::intent::GrantIntent;
use crate::model::object::ObjectKind;
use crate::site::index::{Index, IndexedObject};
use crate::site::usage::pod_time::{Checkpoint, PodView};

const NAMESPACE: &str = "aif-alpha-0123456789";

fn namespace() -> TenantNamespace {
    TenantNamespace::new(NAMESPACE)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// A grant's namespace, whose quota moved last at this second, with what is written down.
fn index(moved: i64, used: Option<&str>) -> Index {
    let mut annotations = json!({"aifactory.dev/hub": "hub", "aifactory.dev/owner": "AccessGrant/example/alpha", "aifactory.dev/pool": "h100"});
    if let Some(used) = used {
        annotations[labels::USED] = json!(used);
    }
    let metadata = |name: &str| json!({"name": name, "uid": name, "resourceVersion": "1", "labels": {"aifactory.dev/managed": "true"}, "annotations": annotations});
    let mut quota = json!({"metadata": metadata("aifactory"), "status": {"used": {"requests.nvidia.com/gpu": "1"}}});
    quota["metadata"]["namespace"] = json!(NAMESPACE);
    quota["metadata"]["managedFields"] = json!([{"manager": "kube-controller-manager", "subresource": "status", "time": at(moved).to_string()}]);
    let mut index = Index::default();
    index.put(
        IndexedObject::reduce(crate::engine::ALL, ObjectKind::NAMESPACE, &json!({"metadata": metadata(NAMESPACE)}), &HubId::new("hub")).unwrap(),
    );
    index.put(IndexedObject::reduce(crate::engine::ALL, ObjectKind::RESOURCE_QUOTA, &quota, &HubId::new("hub")).unwrap());
    index
}

fn pod(uid: &str, gpus: i64) -> PodView {
    let devices = BTreeMap::from([("nvidia.com/gpu".to_owned(), gpus)]);
    PodView {
        uid: uid.to_owned(),
        namespace: namespace(),
        name: uid.to_owned(),
        pool: Some("h100".to_owned()),
        devices,
        bound: Some(at(0)),
        ended: None,
        grace: 30,
        ending: None,
    }
}

fn seconds(accounts: &Accounts, now: i64) -> i64 {
    accounts.accounts[NAMESPACE].tally.through(at(now))["h100"] / 1000
}

fn gaps(accounts: &Accounts) -> Vec<(Timestamp, Timestamp)> {
    accounts.accounts[NAMESPACE].tally.gaps().copied().collect()
}

/// Two Pods run, and both are seen.
fn begun() -> Accounts {
    let mut accounts = Accounts::default();
    accounts.put(pod("gone", 8));
    accounts.put(pod("stays", 1));
    accounts.listed(&BTreeSet::from(["gone".to_owned(), "stays".to_owned()]), at(1));
    accounts.synced(&index(0, None), None, at(1));
    accounts.count(&namespace(), &index(0, None), None, at(1));
    accounts
}

#[test]
fn a_pod_that_went_during_a_cut_counts_until_the_cut_and_the_gap_is_reported() {
    let mut accounts = begun();
    accounts.unwatched(at(100));
    // Days later the list comes back, with the Pod that is still there first.
    accounts.put(pod("stays", 1));
    assert_eq!(accounts.listed(&BTreeSet::from(["stays".to_owned()]), at(1000)), BTreeSet::from([namespace()]));
    let index = index(105, None);
    accounts.synced(&index, None, at(1000));
    accounts.count(&namespace(), &index, None, at(1000));
    assert_eq!(seconds(&accounts, 1000), 8 * 100 + 1000);
    assert_eq!(gaps(&accounts), [(at(100), at(1000))]);
    // Another such listing reports no new gap.
    accounts.listed(&BTreeSet::from(["stays".to_owned()]), at(1001));
    accounts.synced(&index, None, at(1001));
    assert_eq!(gaps(&accounts).len(), 1);
}

#[test]
fn a_cut_in_which_nothing_moved_is_no_gap() {
    let mut accounts = begun();
    accounts.unwatched(at(100));
    accounts.put(pod("gone", 8));
    accounts.put(pod("stays", 1));
    accounts.listed(&BTreeSet::from(["gone".to_owned(), "stays".to_owned()]), at(1000));
    accounts.synced(&index(0, None), None, at(1000));
    accounts.count(&namespace(), &index(0, None), None, at(1000));
    assert_eq!((seconds(&accounts, 1000), gaps(&accounts).len()), (9000, 0));
}

#[test]
fn an_account_goes_on_from_what_is_written_also_after_it_was_forgotten() {
    let mut accounts = begun();
    accounts.count(&namespace(), &index(0, None), None, at(100));
    let kept = accounts.accounts[NAMESPACE].written.clone().unwrap();
    accounts.forget(&namespace());
    accounts.count(&namespace(), &index(0, Some(&kept.text())), None, at(200));
    assert_eq!(accounts.accounts[NAMESPACE].tally.through(at(200)), kept.milliseconds);
}

#[test]
fn pods_of_namespaces_that_are_nobodys_leave_nothing_behind() {
    let mut accounts = Accounts::default();
    accounts.put(pod("one", 1));
    accounts.remove(pod("one", 1), at(5));
    assert!(accounts.pods[NAMESPACE].is_empty());
}

#[test]
fn a_clock_that_was_ahead_stops_nothing() {
    let ahead = Checkpoint { through: at(10_000), milliseconds: BTreeMap::from([("h100".to_owned(), 1000)]), gaps: Default::default() };
    let index = index(0, Some(&ahead.text()));
    let mut accounts = Accounts::default();
    accounts.put(pod("one", 1));
    accounts.listed(&BTreeSet::from(["one".to_owned()]), at(100));
    accounts.synced(&index, None, at(100));
    accounts.count(&namespace(), &index, None, at(160));
    assert_eq!(seconds(&accounts, 160), 1 + 60);
}

/// Eight GPUs and a hundred hours of a device.
fn grant() -> GrantIntent {
    serde_json::from_value(json!({
        "code": "EHPC-AIF-2026PG99-0001", "organisation": "Example SARL", "desired": "Bound", "only_if_held": null, "members": [],
        "pools": [{
            "pool": "h100", "resource": "nvidia.com/gpu", "max_gpus": 8, "per_gpu": {"cpus": 1, "memoryGiB": 1}, "open": true, "entry": "main",
            "budget": {"device_minutes": 6000, "accounting": {"canonicalGPUHours": 1, "perDeviceHours": 1}, "serial": 0}, "partition": null,
        }],
        "caps": {"max_gpus": null, "max_jobs": null, "max_wall_minutes": null},
        "end": {"running_work": "Cancel", "grace_seconds": 0, "retention_seconds": 0, "after_retention": "Retain"},
        "not_after": at(1_000_000).to_string(), "storage": "1Gi", "egress": [], "cross_site": null, "adopt_previous": false,
    }))
    .unwrap()
}

#[test]
fn of_a_time_in_which_nobody_may_look_nothing_is_guessed_and_no_figure_goes_back() {
    let mut accounts = begun();
    let (index, grant) = (index(0, None), grant());
    let used = |accounts: &Accounts, now: i64| accounts.hours(&namespace(), &index, &grant, at(now)).used["h100"].used;
    accounts.count(&namespace(), &index, Some(&grant), at(50));
    assert_eq!(used(&accounts, 50), 450);
    // The event is seen ten seconds after it happened.
    accounts.unwatched(at(40));
    accounts.blind("pods is forbidden".to_owned());
    for now in [60, 4000, 400_000] {
        accounts.count(&namespace(), &index, Some(&grant), at(now));
        assert_eq!(used(&accounts, now), 450, "{now}");
        assert!(accounts.wake(&namespace(), &index, &grant, at(now)).unwrap() > at(now), "nobody turns in a circle");
    }
}
