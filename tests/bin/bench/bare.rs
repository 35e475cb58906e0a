//! The reference: a bare server-side-apply client that writes the very objects that the operator would, over 8 connections a site.

use std::sync::Arc;
use std::time::Instant;

use aifactory_api::{AIFactory, AccessGrant, GPUPool, Kind, OwnerRef};
use aifactory_plan::hub::cache::Cache;
use aifactory_plan::hub::project;
use aifactory_plan::model::id::HubId;
use aifactory_plan::model::intent::Body;
use aifactory_plan::model::object::Object;
use aifactory_plan::model::plan::{Action, ObservedObjects};
use aifactory_plan::model::site_key::SiteKey;
use aifactory_plan::site::grant::{self, GrantView};
use aifactory_plan::site::policy::SitePolicy;
use futures::stream::{self, TryStreamExt};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};

use crate::Failure;
use crate::setup::{self, Bench, NAMESPACE};

const CONNECTIONS: usize = 8;

/// What the bare client did.
pub struct Bare {
    pub objects: usize,
    pub seconds: f64,
}

/// Writes the objects of so many grants to both sites at once.
pub async fn write(bench: &Bench, grants: usize) -> Result<Bare, Failure> {
    let mut work = Vec::new();
    for site in bench.federation.sites() {
        work.push((site.admin(), rendered(site.name(), grants)?));
    }
    let objects = work.iter().map(|(_, site)| site.iter().map(Vec::len).sum::<usize>()).sum();
    let started = Instant::now();
    futures::future::try_join_all(work.into_iter().map(|(client, grants)| site(client, grants))).await?;
    Ok(Bare { objects, seconds: started.elapsed().as_secs_f64() })
}

/// Grants side by side, the objects of one in order: a namespace comes before what is in it.
async fn site(client: Client, grants: Vec<Vec<Object>>) -> Result<(), Failure> {
    stream::iter(grants.into_iter().map(Ok::<_, Failure>))
        .try_for_each_concurrent(CONNECTIONS, |objects| {
            let client = client.clone();
            async move {
                for object in objects {
                    apply(&client, &object).await?;
                }
                Ok(())
            }
        })
        .await
}

async fn apply(client: &Client, object: &Object) -> Result<(), Failure> {
    let (group, version, kind, plural) = object.key.kind.gvk();
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: object.key.kind.api_version(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    let api: Api<DynamicObject> = if object.key.namespace.is_empty() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), &object.key.namespace, &resource)
    };
    api.patch(&object.key.name, &PatchParams::apply("bare").force(), &Patch::Apply(&object.content)).await?;
    Ok(())
}

/// What the pure core renders for each grant at a site, under the id of a hub that does not exist.
fn rendered(site: &str, grants: usize) -> Result<Vec<Vec<Object>>, Failure> {
    let mut world = Cache::default();
    let factory: AIFactory = serde_json::from_value(setup::factory())?;
    let pool: GPUPool = serde_json::from_value(setup::pool())?;
    let factory_ref = OwnerRef::new(Kind::AIFactory, NAMESPACE, "bench");
    world.put_factory(factory_ref.clone(), Arc::new(factory));
    world.put_pool(OwnerRef::new(Kind::GPUPool, NAMESPACE, "h100"), Arc::new(pool));
    let key = SiteKey::new(factory_ref, site);
    let mut rendered = Vec::new();
    for index in 0..grants {
        let name = format!("bare-{index}");
        let owner = OwnerRef::new(Kind::AccessGrant, NAMESPACE, &name);
        let object: AccessGrant = serde_json::from_value(setup::grant(&name, &["bissen", "bettembourg"], 3600))?;
        world.put_grant(owner.clone(), Arc::new(object));
        let now = jiff::Timestamp::now();
        let projection = project::grant(&world, &owner, &std::collections::BTreeSet::new(), now).ok_or("no projection")?;
        let intent = projection.sites.get(&key).ok_or("no intent")?;
        let site_intent = project::site(&world, &HubId::new("no-hub"), &key, None).ok_or("no site")?;
        let Body::Grant(body) = &intent.body else { return Err("not a grant".into()) };
        let (objects, policy) = (ObservedObjects::new(), SitePolicy::default());
        let view = GrantView::of(&objects, &policy);
        let plan = grant::plan(&site_intent, intent, body, &view, now);
        rendered.push(
            plan.steps
                .into_iter()
                .flat_map(|step| step.actions)
                .filter_map(|action| match action {
                    Action::Apply(object) => Some(object),
                    Action::CreateKey { .. } | Action::Delete { .. } | Action::EndWork { .. } | Action::EndPod { .. } | Action::PatchNode(_) => None,
                })
                .collect(),
        );
    }
    Ok(rendered)
}
