//! Edits of resources on the hub. What the API server refuses is as if it had not been tried.

use aifactory_api::{Kind, OwnerRef, labels};
use aifactory_tests::Result;
use jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::discovery::ApiResource;
use serde_json::{Value, json};

use crate::cast::{self, SITES};
use crate::clock::{DAY, Ms, SECOND};
use crate::ops::Op;
use crate::stage::{Soak, factory_spec, site_spec};

fn at(offset: Ms) -> Value {
    let whole = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    json!((whole + SignedDuration::from_secs(offset / SECOND)).to_string())
}

fn resource(kind: Kind) -> ApiResource {
    let (kind, plural) = match kind {
        Kind::AIFactory => ("AIFactory", "aifactories"),
        Kind::GPUPool => ("GPUPool", "gpupools"),
        Kind::AccessGrant => ("AccessGrant", "accessgrants"),
    };
    ApiResource {
        group: "aifactory.dev".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "aifactory.dev/v1alpha1".to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// The members of a spec's list whose key has this value.
fn named<'a>(list: &'a mut Value, key: &'a str, value: &'a str) -> impl Iterator<Item = &'a mut Value> {
    list.as_array_mut().into_iter().flatten().filter(move |entry| entry[key] == value)
}

fn without(list: &mut Value, key: &str, value: &str) {
    if let Some(list) = list.as_array_mut() {
        list.retain(|entry| entry[key] != value);
    }
}

impl Soak {
    pub fn api(&self, owner: &OwnerRef) -> Api<DynamicObject> {
        Api::namespaced_with(self.world.hub().admin(), &owner.namespace, &resource(owner.kind))
    }

    /// Makes a resource, or gives it this spec again.
    pub async fn put(&self, owner: &OwnerRef, spec: Value) {
        if !self.create(owner, &spec).await {
            self.edit(owner, |found| *found = spec.clone()).await;
            self.annotate(owner, labels::ABANDON_SITE, None).await;
        }
    }

    async fn create(&self, owner: &OwnerRef, spec: &Value) -> bool {
        let object = json!({"apiVersion": "aifactory.dev/v1alpha1", "kind": resource(owner.kind).kind,
            "metadata": {"name": owner.name, "namespace": owner.namespace}, "spec": spec});
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        self.api(owner).create(&PostParams::default(), &object).await.is_ok()
    }

    async fn edit(&self, owner: &OwnerRef, by: impl Fn(&mut Value)) {
        let api = self.api(owner);
        for _ in 0..5 {
            let Ok(Some(mut object)) = api.get_opt(&owner.name).await else { return };
            by(&mut object.data["spec"]);
            match api.replace(&owner.name, &PostParams::default(), &object).await {
                Err(kube::Error::Api(status)) if status.is_conflict() => {}
                _ => return,
            }
        }
    }

    async fn annotate(&self, owner: &OwnerRef, name: &str, value: Option<&str>) {
        let patch = json!({"metadata": {"annotations": {name: value}}});
        let _ = self.api(owner).patch(&owner.name, &PatchParams::default(), &Patch::Merge(patch)).await;
    }

    async fn delete(&self, owner: &OwnerRef, confirmed: bool) {
        let Ok(Some(found)) = self.api(owner).get_opt(&owner.name).await else { return };
        if confirmed {
            self.annotate(owner, labels::CONFIRM_DELETE, found.metadata.uid.as_deref()).await;
        }
        let _ = self.api(owner).delete(&owner.name, &DeleteParams::default()).await;
    }

    /// Whether the operation is one on a grant.
    pub async fn edit_grant(&self, op: Op) -> Result<bool> {
        let of = cast::grant;
        match op {
            Op::Create(index, code) => {
                let now = Timestamp::now().as_second() * SECOND;
                self.create(&of(index), &cast::grant_spec(index, code, now)).await;
            }
            Op::Delete(index, confirmed) => self.delete(&of(index), confirmed).await,
            Op::Role(index, member, role) => {
                let next = cast::member(member, role);
                let by = |spec: &mut Value| {
                    without(&mut spec["members"], "id", next["id"].as_str().unwrap());
                    spec["members"].as_array_mut().unwrap().push(next.clone());
                };
                self.edit(&of(index), by).await;
            }
            Op::Leave(index, member) => self.edit(&of(index), |spec| without(&mut spec["members"], "id", &format!("p-{member}"))).await,
            Op::Suspend(index, member, suspended) => {
                let state = if suspended { "Suspended" } else { "Active" };
                let id = format!("p-{member}");
                self.edit(&of(index), |spec| named(&mut spec["members"], "id", &id).for_each(|known| known["state"] = json!(state))).await;
            }
            Op::State(index, state) => self.edit(&of(index), |spec| spec["state"] = json!(state)).await,
            Op::NotBefore(index, offset) => self.edit(&of(index), |spec| spec["notBefore"] = at(offset)).await,
            Op::NotAfter(index, offset) => {
                let by = |spec: &mut Value| {
                    spec["notAfter"] = at(offset);
                    spec["notBefore"] = at(offset.min(0) - 1000 * DAY);
                };
                self.edit(&of(index), by).await;
            }
            Op::Pools(index, h100, a100, typo) => {
                let wanted = [("h100", h100), ("a100", a100), ("h1OO", typo)].into_iter().filter(|(_, wanted)| *wanted);
                let entries: Vec<Value> = wanted.map(|(name, _)| cast::entry(name, 4)).collect();
                self.edit(&of(index), |spec| spec["pools"] = json!(entries)).await;
            }
            Op::Sites(index, site) => {
                let name = site.map(|site| SITES.get(site).copied().unwrap_or("esch"));
                let chosen: Vec<Value> = name.into_iter().map(|name| json!({"name": name})).collect();
                self.edit(&of(index), |spec| spec["pools"][0]["sites"] = json!(chosen)).await;
            }
            Op::Hours(index, hours) => self.edit(&of(index), |spec| every(&mut spec["pools"], "gpuHours", hours)).await,
            Op::Gpus(index, gpus) => self.edit(&of(index), |spec| every(&mut spec["pools"], "maxGPUs", gpus)).await,
            Op::Expiry(index, cancel, grace, kept, delete) => {
                let expiry = json!({"runningWork": if cancel { "Cancel" } else { "Finish" }, "gracePeriod": format!("{grace}s"),
                    "retention": format!("{kept}s"), "afterRetention": if delete { "Delete" } else { "Retain" }});
                self.edit(&of(index), |spec| spec["expiry"] = expiry.clone()).await;
            }
            Op::Residency(index, code) => {
                let codes: Vec<&str> = Some(code).filter(|code| !code.is_empty()).into_iter().collect();
                self.edit(&of(index), |spec| spec["data"] = json!({"residency": codes})).await;
            }
            Op::Early(index, early) => self.edit(&of(index), |spec| spec["earlyAccess"] = json!(early)).await,
            Op::Adopt(index, adopt) => self.annotate(&of(index), labels::ADOPT_PREVIOUS, adopt.then_some("true")).await,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Whether the operation is one on the factory or a pool.
    pub async fn edit_others(&self, op: Op) -> Result<bool> {
        let host = cast::factory(0);
        match op {
            Op::Stage(site, stage) => {
                self.edit(&host, |spec| named(&mut spec["sites"], "name", SITES[site]).for_each(|s| s["stage"] = json!(stage))).await
            }
            Op::RemoveSite(site) => self.edit(&host, |spec| without(&mut spec["sites"], "name", SITES[site])).await,
            Op::AddSite(site) => {
                let by = |spec: &mut Value| {
                    if named(&mut spec["sites"], "name", SITES[site]).next().is_none() {
                        spec["sites"].as_array_mut().unwrap().push(site_spec(site));
                    }
                };
                self.edit(&host, by).await;
            }
            Op::Prefixes(any) => {
                let prefixes = if any { json!([]) } else { json!(["oidc:"]) };
                self.edit(&host, |spec| spec["policy"]["subjectPrefixes"] = prefixes.clone()).await;
            }
            Op::Orphans(policy) => self.edit(&host, |spec| spec["policy"]["orphans"] = json!(policy)).await,
            Op::Country(site, country) => {
                self.edit(&host, |spec| named(&mut spec["sites"], "name", SITES[site]).for_each(|s| s["country"] = json!(country))).await;
            }
            Op::Abandon(site, given_up) => self.annotate(&host, labels::ABANDON_SITE, given_up.then_some(SITES[site])).await,
            Op::DeleteFactory => self.delete(&host, true).await,
            Op::CreateFactory => {
                self.create(&host, &factory_spec()).await;
            }
            Op::PlaceAt(pool @ 0..2, site, state) => {
                let by = |spec: &mut Value| {
                    if named(&mut spec["sites"], "name", SITES[site]).next().is_none() {
                        spec["sites"].as_array_mut().unwrap().push(json!({"name": SITES[site], "count": 2}));
                    }
                    named(&mut spec["sites"], "name", SITES[site]).for_each(|known| known["state"] = json!(state));
                };
                self.edit(&cast::pool(pool), by).await;
            }
            Op::TakeFrom(pool @ 0..2, site) => self.edit(&cast::pool(pool), |spec| without(&mut spec["sites"], "name", SITES[site])).await,
            Op::Count(pool @ 0..2, site, count) => {
                self.edit(&cast::pool(pool), |spec| named(&mut spec["sites"], "name", SITES[site]).for_each(|s| s["count"] = json!(count))).await;
            }
            Op::PoolStage(pool @ 0..2, stage) => self.edit(&cast::pool(pool), |spec| spec["stage"] = json!(stage)).await,
            Op::Consumers(pool @ 0..2, open) => {
                let consumers = if open { cast::pool_spec(pool)["consumers"].clone() } else { json!([]) };
                self.edit(&cast::pool(pool), |spec| spec["consumers"] = consumers.clone()).await;
            }
            Op::DeletePool(pool @ 0..2) => self.delete(&cast::pool(pool), true).await,
            Op::CreatePool(pool @ 0..2) => {
                self.create(&cast::pool(pool), &cast::pool_spec(pool)).await;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn every(entries: &mut Value, key: &str, value: i64) {
    entries.as_array_mut().into_iter().flatten().for_each(|entry| entry[key] = json!(value));
}
