//! The federation on which sequences are played, and what is remembered of one.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use aifactory_api::OwnerRef;
use aifactory_api::name::tenant_namespace;
use aifactory_api::{AIFactory, AccessGrant, GPUPool, labels};
use aifactory_tests::{Cluster, Federation, GpuNode, Operator, SYSTEM_NAMESPACE, Snapshot, credential_name, eventually};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cast::{self, SITES};
use crate::fixture::{self, World};
use crate::ops::Op;

/// Two sites, each with a store of its own, and the operator.
pub struct Soak {
    pub world: World,
    pub hub_id: String,
    pub saved: Mutex<BTreeMap<usize, Snapshot>>,
}

impl Soak {
    pub async fn start() -> Self {
        let federation = Federation::builder().name("soak").sites(SITES).own_stores(true).start().await.unwrap();
        federation.install(cast::FACTORIES.map(|(namespace, _)| namespace)).await.unwrap();
        let operator = Operator::start(&federation, fixture::options()).await.unwrap();
        let world = World { federation, operator };
        let config: Api<ConfigMap> = Api::namespaced(world.hub().admin(), SYSTEM_NAMESPACE);
        let hub_id = eventually(fixture::PATIENCE, "the hub has an id", async || {
            let found = config.get(labels::HUB_CONFIG).await?;
            found.data.and_then(|data| data.get("id").cloned()).ok_or_else(|| "no id".into())
        })
        .await
        .unwrap();
        Self { world, hub_id, saved: Mutex::default() }
    }

    pub fn site(&self, site: usize) -> &Cluster {
        self.world.site(SITES[site])
    }

    pub fn tenant(&self, grant: usize) -> String {
        tenant_namespace(&self.hub_id, &cast::grant(grant))
    }

    /// Everything as at the beginning: no grant, both sites at rest and without a policy, factory and pools as in the cast.
    pub async fn begin(&self) {
        self.saved.lock().unwrap().clear();
        for site in 0..SITES.len() {
            self.apply(Op::Heal(site)).await;
            self.set_policy(site, None).await;
            self.nodes(site).await;
        }
        for index in 0..cast::GRANTS.len() {
            self.apply(Op::Delete(index, true)).await;
        }
        for index in 0..cast::GRANTS.len() {
            self.until_gone::<AccessGrant>(&cast::grant(index)).await;
        }
        for site in self.world.federation.sites() {
            self.sweep(site).await;
        }
        self.put(&cast::factory(0), factory_spec()).await;
        self.put(&cast::factory(1), cast::factory_spec(1)).await;
        for index in 0..2 {
            self.put(&cast::pool(index), cast::pool_spec(index)).await;
        }
        self.until_ready::<AIFactory>(&cast::factory(0)).await;
        for index in 0..2 {
            self.until_ready::<GPUPool>(&cast::pool(index)).await;
        }
    }

    /// Four offered nodes at a site, as in the cast.
    async fn nodes(&self, site: usize) {
        for index in 0..4 {
            self.apply(Op::NodeComes(site, index)).await;
            self.apply(Op::Offer(site, index, true)).await;
            self.apply(Op::Relabelled(site, index, index % 2)).await;
        }
    }

    pub fn node(site: usize, index: usize) -> GpuNode {
        GpuNode::new(format!("{}-{index}", SITES[site]), 4).label("model", cast::POOLS[index % 2])
    }

    /// Namespaces that an earlier sequence left: of orphans, and what is kept for a retention.
    async fn sweep(&self, site: &Cluster) {
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(site.admin());
        for grant in 0..cast::GRANTS.len() {
            let name = self.tenant(grant);
            let _ = namespaces.delete(&name, &kube::api::DeleteParams::default()).await;
            eventually(fixture::PATIENCE, format!("{name} is gone"), async || match namespaces.get_opt(&name).await? {
                None => Ok(()),
                Some(_) => Err("it is there".into()),
            })
            .await
            .unwrap();
        }
    }

    async fn until_gone<K: fixture::Conditioned>(&self, owner: &OwnerRef) {
        let api: Api<K> = Api::namespaced(self.world.hub().admin(), &owner.namespace);
        eventually(Duration::from_secs(120), format!("{owner} is gone"), async || match api.get_opt(&owner.name).await? {
            None => Ok(()),
            Some(object) => Err(fixture::summary(object.conditions()).into()),
        })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", self.world.log_tail()));
    }

    async fn until_ready<K: fixture::Conditioned>(&self, owner: &OwnerRef) {
        let api: Api<K> = Api::namespaced(self.world.hub().admin(), &owner.namespace);
        eventually(Duration::from_secs(120), format!("{owner} is Ready"), async || {
            let object = api.get(&owner.name).await?;
            let ready = object
                .conditions()
                .iter()
                .any(|found| found.type_ == "Ready" && found.status == "True" && found.observed_generation == object.meta().generation);
            if ready { Ok(()) } else { Err(fixture::summary(object.conditions()).into()) }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", self.world.log_tail()));
        let _ = api.get(&owner.name).await.map(|object| object.uid());
    }
}

/// The factory of the cast without its Slurm, with the credentials of the federation.
pub fn factory_spec() -> Value {
    let mut spec = cast::factory_spec(0);
    spec["sites"] = (0..SITES.len()).map(site_spec).collect();
    spec
}

pub fn site_spec(site: usize) -> Value {
    let mut spec = cast::site_spec(site);
    spec.as_object_mut().unwrap().remove("slurm");
    spec["kubernetes"] = json!({"push": {"kubeconfigSecretRef": {"name": credential_name(SITES[site]), "key": "kubeconfig"}}});
    spec
}
