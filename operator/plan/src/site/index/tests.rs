#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::json;

use super::*;
use crate::engine::slinky::{ControllerView, NodeSetView};

const TENANT: &str = "aif-alpha-0123456789";

fn object(kind: ObjectKind, name: &str, uid: &str, version: u64) -> IndexedObject {
    let namespace = if kind == ObjectKind::NAMESPACE { Value::Null } else { json!(TENANT) };
    let annotations = json!({labels::HUB: "hub", labels::OWNER: "AccessGrant/example/alpha"});
    let metadata = json!({"name": name, "namespace": namespace, "uid": uid, "resourceVersion": version.to_string(), "annotations": annotations});
    let role = json!({"kind": "ClusterRole", "name": "aifactory-lead"});
    IndexedObject::reduce(crate::engine::ALL, kind, &json!({"metadata": metadata, "roleRef": role}), &HubId::new("hub")).unwrap()
}

fn binding(uid: &str, version: u64) -> IndexedObject {
    object(ObjectKind::ROLE_BINDING, "aif-lead-0123456789", uid, version)
}

fn owner() -> OwnerRef {
    OwnerRef::new(Kind::AccessGrant, "example", "alpha")
}

fn holds(index: &Index, key: &ObjectKey) -> bool {
    index.objects(&owner()).is_some_and(|objects| objects.contains_key(key))
}

#[test]
fn what_comes_back_with_an_old_version_is_seen() {
    let mut index = Index::default();
    let key = binding("1", 9).key;
    index.put(binding("1", 9));
    index.deleted(&key, index.moment());
    assert!(!holds(&index, &key));
    // The site's etcd is restored from a backup; the watch lists again.
    index.relist(ObjectKind::ROLE_BINDING);
    index.put(binding("1", 5));
    index.retain(ObjectKind::ROLE_BINDING, &BTreeSet::from([key.clone()]));
    assert!(holds(&index, &key));
}

#[test]
fn the_end_of_a_former_object_of_the_name_takes_nothing() {
    let mut index = Index::default();
    let key = binding("1", 5).key;
    index.put(binding("1", 5));
    index.deleted(&key, index.moment());
    index.answered(binding("2", 8), index.moment());
    assert!(index.remove(&key, "1", 7).due.is_empty() && holds(&index, &key));
    assert_eq!(index.remove(&key, "2", 9).due, BTreeSet::from([owner()]));
}

#[test]
fn what_was_made_while_it_was_listed_stays() {
    let mut index = Index::default();
    index.relist(ObjectKind::ROLE_BINDING);
    index.answered(binding("1", 5), index.moment());
    index.retain(ObjectKind::ROLE_BINDING, &BTreeSet::new());
    assert!(holds(&index, &binding("1", 5).key));
    let before = index.moment();
    index.relist(ObjectKind::ROLE_BINDING);
    index.answered(binding("1", 6), before);
    index.retain(ObjectKind::ROLE_BINDING, &BTreeSet::new());
    assert!(!holds(&index, &binding("1", 5).key), "the answer is from before the listing");
}

#[test]
fn the_view_of_a_node_does_not_go_back() {
    let node = |pool: &str| NodeView {
        name: "n".to_owned(),
        uid: "1".to_owned(),
        labels: BTreeMap::from([(labels::POOL.to_owned(), pool.to_owned())]),
        ..NodeView::default()
    };
    let mut index = Index::default();
    let asked = index.moment();
    assert!(index.put_node(node("a"), 12));
    assert!(!index.answered_node(node("late"), 11, asked));
    assert_eq!(index.nodes()[0].pool(), Some("a"));
    assert!(!index.remove_node("n", "0", 10) && index.remove_node("n", "1", 13));
    index.relist_nodes();
    assert!(index.put_node(node("a"), 3), "set back");
}

#[test]
fn a_namespace_that_loses_its_owner_occupies_its_name() {
    let mut index = Index::default();
    index.put(object(ObjectKind::NAMESPACE, TENANT, "1", 1));
    index.put(binding("2", 2));
    let bare = json!({"metadata": {"name": TENANT, "uid": "1", "resourceVersion": "3"}});
    let change = index.put(IndexedObject::reduce(crate::engine::ALL, ObjectKind::NAMESPACE, &bare, &HubId::new("hub")).unwrap());
    assert_eq!((change.due, change.lost), (BTreeSet::from([owner()]), BTreeSet::new()));
    let namespace = TenantNamespace::new(TENANT);
    assert!(index.is_occupied(&namespace) && index.namespace(&namespace).is_none());
    index.relist(ObjectKind::NAMESPACE);
    index.retain(ObjectKind::NAMESPACE, &BTreeSet::new());
    assert!(!index.is_occupied(&namespace));
}

#[test]
fn a_namespace_that_we_delete_is_not_lost() {
    let mut index = Index::default();
    let key = ObjectKey::cluster(ObjectKind::NAMESPACE, TENANT);
    index.put(object(ObjectKind::NAMESPACE, TENANT, "1", 1));
    index.ordered_deletion(&key);
    assert!(index.remove(&key, "1", 2).lost.is_empty());
    index.put(object(ObjectKind::NAMESPACE, TENANT, "2", 3));
    assert_eq!(index.remove(&key, "2", 4).lost, BTreeSet::from([owner()]));
    index.put(object(ObjectKind::NAMESPACE, TENANT, "3", 5));
    index.relist(ObjectKind::NAMESPACE);
    assert_eq!(index.put(object(ObjectKind::NAMESPACE, TENANT, "4", 9)).lost, BTreeSet::from([owner()]), "another one has its name");
}

#[test]
fn what_is_listed_once_more_is_no_news() {
    let mut index = Index::default();
    assert!(!index.put(binding("1", 5)).due.is_empty() && !index.put(object(ObjectKind::NAMESPACE, TENANT, "2", 6)).due.is_empty());
    index.relist(ObjectKind::ROLE_BINDING);
    index.relist(ObjectKind::NAMESPACE);
    assert!(index.put(binding("1", 5)).due.is_empty() && index.put(object(ObjectKind::NAMESPACE, TENANT, "2", 6)).due.is_empty());
    assert!(!index.put(binding("3", 7)).due.is_empty());
}

#[test]
fn what_an_engine_reads_of_others_objects_is_kept_without_being_ours() {
    let mut index = Index::default();
    let controller = |version: u64, external: bool| {
        let metadata = json!({"name": "slurm", "namespace": "slurm", "uid": "1", "resourceVersion": version.to_string()});
        IndexedObject::reduce(
            crate::engine::ALL,
            ObjectKind::CONTROLLER,
            &json!({"metadata": metadata, "spec": {"external": external}}),
            &HubId::new("hub"),
        )
        .unwrap()
    };
    let key = controller(1, false).key;
    let is_external = |index: &Index| index.views().get::<ControllerView>(&key).map(|view| view.external);
    assert!(index.put(controller(1, false)).pools && !index.put(controller(2, false)).pools && index.put(controller(3, true)).pools);
    assert_eq!((is_external(&index), index.owners(&owner()).len()), (Some(true), 0));
    index.relist(ObjectKind::CONTROLLER);
    assert!(index.retain(ObjectKind::CONTROLLER, &BTreeSet::new()).pools && index.views().is_listed(ObjectKind::CONTROLLER));
    assert_eq!(is_external(&index), None);
}

#[test]
fn what_an_engine_reads_of_ours_goes_with_the_object() {
    let mut index = Index::default();
    let key = object(ObjectKind::NODE_SET, "h100", "1", 1).key;
    assert!(!index.put(object(ObjectKind::NODE_SET, "h100", "1", 1)).pools && index.views().get::<NodeSetView>(&key).is_some());
    let change = index.remove(&key, "1", 2);
    assert!(
        change.site && !change.pools && index.views().get::<NodeSetView>(&key).is_none(),
        "a Slurm of ours goes when its last partition has gone"
    );
    let strangers = json!({"metadata": {"name": "theirs", "namespace": "slurm", "uid": "2"}});
    index.put(IndexedObject::reduce(crate::engine::ALL, ObjectKind::NODE_SET, &strangers, &HubId::new("hub")).unwrap());
    assert_eq!(index.views().of_kind::<NodeSetView>(ObjectKind::NODE_SET).count(), 0);
}
