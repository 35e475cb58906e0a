//! Events of a hub over time; all sites are reconciled after each.

use std::collections::BTreeMap;

use aifactory_api::{OwnerRef, labels};
use aifactory_plan::hub::cache::Cache;
use aifactory_plan::model::object::ObjectKind;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::json;

use crate::hub::{self, Hub, now, owner, put};
use crate::site::{self, Sites, settle};

/// An event.
#[derive(Clone, Debug)]
pub enum Event {
    /// A grant is deleted, and gone once its sites have reported that.
    Delete(usize),
    /// `spec.state` is edited.
    State(usize, &'static str),
    /// A grant asks for other pools.
    Pools(usize, &'static str),
    /// The site's stage is edited.
    Stage(usize, &'static str),
    /// Days pass.
    Wait(i64),
}

pub fn events() -> impl Strategy<Value = Vec<Event>> {
    let state = prop_oneof![Just("Active"), Just("Paused"), Just("Revoked")];
    let event = prop_oneof![
        2 => (0..4usize).prop_map(Event::Delete),
        3 => (0..4usize, state).prop_map(|(grant, state)| Event::State(grant, state)),
        1 => (0..4usize, prop_oneof![Just("h100"), Just("mi300")]).prop_map(|(grant, pool)| Event::Pools(grant, pool)),
        1 => (0..2usize, prop_oneof![Just("Production"), Just("Draining")]).prop_map(|(site, stage)| Event::Stage(site, stage)),
        1 => prop_oneof![Just(1i64), Just(15), Just(200)].prop_map(Event::Wait),
    ];
    proptest::collection::vec(event, 0..4)
}

/// Plays events and reconciles all sites after each. Returns the world, the sites and the time in the end.
pub fn play(hub: &Hub, events: &[Event]) -> (Cache, Sites, Timestamp) {
    let (mut hub, mut world, mut sites, mut time) = (hub.clone(), hub.world(), Sites::new(), now());
    settle(&world, &mut sites, time);
    for event in events {
        match event {
            Event::Delete(grant) => {
                let Some(value) = hub.grants.get_mut(*grant) else { continue };
                value["metadata"]["deletionTimestamp"] = json!(hub::NOW);
                put(&mut world, value);
                settle(&world, &mut sites, time);
                world.remove(&owner(value));
            }
            Event::State(grant, state) => {
                let Some(value) = hub.grants.get_mut(*grant).filter(|value| world.contains(&owner(value))) else { continue };
                value["spec"]["state"] = json!(state);
                put(&mut world, value);
            }
            Event::Pools(grant, pool) => {
                let Some(value) = hub.grants.get_mut(*grant).filter(|value| world.contains(&owner(value))) else { continue };
                value["spec"]["pools"] = json!([{"name": "only", "poolRef": {"name": pool, "namespace": "example"}, "gpuHours": 1, "maxGPUs": 1}]);
                put(&mut world, value);
            }
            Event::Stage(site, stage) => {
                hub.factories[0]["spec"]["sites"][*site]["stage"] = json!(stage);
                put(&mut world, &hub.factories[0]);
            }
            Event::Wait(days) => time = time.checked_add(SignedDuration::from_hours(24 * days)).expect("a time"),
        }
        settle(&world, &mut sites, time);
    }
    (world, sites, time)
}

/// Tenant namespaces at a site, with the grant that each is of.
pub fn tenants(site: &site::Site) -> BTreeMap<String, OwnerRef> {
    let namespaces = site.objects.iter().filter(|(key, _)| key.kind == ObjectKind::NAMESPACE);
    namespaces
        .filter_map(|(key, (_, object))| {
            let annotation = object.content["metadata"]["annotations"][labels::OWNER].as_str()?;
            Some((key.name.clone(), OwnerRef::parse(annotation)?))
        })
        .collect()
}
