//! When objects appear on a site and go, as a watch shows it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aifactory_plan::model::object::ObjectKind;
use futures::StreamExt;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::Failure;

type Key = (ObjectKind, String, String);

#[derive(Default)]
struct Times {
    present: HashMap<Key, (Instant, String)>,
    gone: HashMap<Key, Instant>,
}

/// Watches the kinds by which a row is judged.
pub struct Arrivals {
    times: Arc<Mutex<Times>>,
    changed: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl Arrivals {
    pub fn watch(client: &Client, kinds: &[ObjectKind]) -> Self {
        let times: Arc<Mutex<Times>> = Arc::default();
        let changed = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        for kind in kinds.iter().copied() {
            let (group, version, name, plural) = kind.gvk();
            let resource = ApiResource {
                group: group.to_owned(),
                version: version.to_owned(),
                api_version: kind.api_version(),
                kind: name.to_owned(),
                plural: plural.to_owned(),
            };
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            let (times, changed) = (times.clone(), changed.clone());
            tasks.spawn(async move {
                let mut stream = watcher(api, watcher::Config::default().labels("aifactory.dev/managed=true")).default_backoff().boxed();
                while let Some(event) = stream.next().await {
                    let now = Instant::now();
                    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
                    match event {
                        Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                            let key = key(kind, &object);
                            times.gone.remove(&key);
                            let uid = object.uid().unwrap_or_default();
                            let known = times.present.get(&key).is_some_and(|(_, known)| *known == uid);
                            if !known {
                                times.present.insert(key, (now, uid));
                            }
                        }
                        Ok(watcher::Event::Delete(object)) => {
                            let key = key(kind, &object);
                            times.present.remove(&key);
                            times.gone.insert(key, now);
                        }
                        Ok(watcher::Event::Init | watcher::Event::InitDone) | Err(_) => {}
                    }
                    drop(times);
                    changed.notify_waiters();
                }
            });
        }
        Self { times, changed, _tasks: tasks }
    }

    /// Waits until `count` objects of the kinds are in the namespace; returns when the last one appeared.
    pub async fn complete(&self, namespace: &str, count: usize) -> Result<Instant, Failure> {
        self.until(&format!("{count} objects in {namespace}"), |times| {
            let found: Vec<Instant> = times.present.iter().filter(|((_, place, _), _)| place == namespace).map(|(_, (at, _))| *at).collect();
            (found.len() >= count).then(|| found.into_iter().max()).flatten()
        })
        .await
    }

    /// Waits until an object is there with another UID; returns when it appeared.
    pub async fn back(&self, kind: ObjectKind, namespace: &str, name: &str, not: &str) -> Result<Instant, Failure> {
        let key = (kind, namespace.to_owned(), name.to_owned());
        self.until(&format!("{name} in {namespace} is back"), |times| times.present.get(&key).filter(|(_, uid)| uid != not).map(|(at, _)| *at)).await
    }

    /// Waits until these objects are gone; returns when the last one went.
    pub async fn gone(&self, kind: ObjectKind, namespace: &str, names: &[String]) -> Result<Instant, Failure> {
        self.until(&format!("{names:?} in {namespace} are gone"), |times| {
            let found: Vec<Instant> = names.iter().filter_map(|name| times.gone.get(&(kind, namespace.to_owned(), name.clone())).copied()).collect();
            (found.len() == names.len()).then(|| found.into_iter().max()).flatten()
        })
        .await
    }

    /// UID of an object that is there.
    pub fn uid(&self, kind: ObjectKind, namespace: &str, name: &str) -> Option<String> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.present.get(&(kind, namespace.to_owned(), name.to_owned())).map(|(_, uid)| uid.clone())
    }

    /// Names of the objects of a kind in a namespace.
    pub fn names(&self, kind: ObjectKind, namespace: &str) -> Vec<String> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.present.keys().filter(|(found, place, _)| *found == kind && place == namespace).map(|(_, _, name)| name.clone()).collect()
    }

    async fn until<T>(&self, what: &str, look: impl Fn(&Times) -> Option<T>) -> Result<T, Failure> {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let changed = self.changed.notified();
            if let Some(found) = look(&self.times.lock().unwrap_or_else(PoisonError::into_inner)) {
                return Ok(found);
            }
            if tokio::time::timeout_at(deadline.into(), changed).await.is_err() {
                return Err(format!("not within two minutes: {what}").into());
            }
        }
    }
}

fn key(kind: ObjectKind, object: &DynamicObject) -> Key {
    (kind, object.namespace().unwrap_or_default(), object.name_any())
}
