//! Nodes with GPUs that KWOK plays.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeStatus, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, PostParams};

use crate::await_condition::eventually;
use crate::cluster::Cluster;
use crate::error::Result;

/// The label by which a site offers a Node to the operator.
pub const OFFERED: &str = "site.aifactory.dev/offered";
/// The label that GPU feature discovery gives to Nodes.
pub const PRODUCT: &str = "nvidia.com/gpu.product";

/// A Node with GPUs.
#[derive(Debug, Clone)]
pub struct GpuNode {
    name: String,
    resource: String,
    gpus: u32,
    labels: BTreeMap<String, String>,
}

impl GpuNode {
    /// A Node with so many `nvidia.com/gpu`, offered to the operator.
    pub fn new(name: impl Into<String>, gpus: u32) -> Self {
        let name = name.into();
        Self {
            labels: BTreeMap::from([
                (OFFERED.to_owned(), "true".to_owned()),
                ("kubernetes.io/hostname".to_owned(), name.clone()),
                ("kubernetes.io/os".to_owned(), "linux".to_owned()),
            ]),
            name,
            resource: "nvidia.com/gpu".to_owned(),
            gpus,
        }
    }

    /// With the product label of GPU feature discovery.
    pub fn product(self, product: &str) -> Self {
        self.label(PRODUCT, product)
    }

    /// With another extended resource than `nvidia.com/gpu`.
    pub fn resource(mut self, resource: &str) -> Self {
        resource.clone_into(&mut self.resource);
        self
    }

    /// With a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Offered to the operator (the default) or kept by the site.
    pub fn offered(mut self, offered: bool) -> Self {
        if offered {
            self.label(OFFERED, "true")
        } else {
            self.labels.remove(OFFERED);
            self
        }
    }

    fn into_node(self) -> Node {
        let quantity = |text: &str| Quantity(text.to_owned());
        let capacity = BTreeMap::from([
            ("cpu".to_owned(), quantity("128")),
            ("memory".to_owned(), quantity("1Ti")),
            ("ephemeral-storage".to_owned(), quantity("4Ti")),
            ("pods".to_owned(), quantity("250")),
            (self.resource, quantity(&self.gpus.to_string())),
        ]);
        Node {
            metadata: ObjectMeta { name: Some(self.name), labels: Some(self.labels), ..ObjectMeta::default() },
            status: Some(NodeStatus { allocatable: Some(capacity.clone()), capacity: Some(capacity), ..NodeStatus::default() }),
            ..Node::default()
        }
    }
}

impl Cluster {
    /// Creates a Node. With KWOK it becomes ready by itself.
    pub async fn add_node(&self, node: GpuNode) -> Result<Node> {
        let action = format!("create Node {}", node.name);
        let nodes: Api<Node> = Api::all(self.admin());
        nodes.create(&PostParams::default(), &node.into_node()).await.map_err(self.asking(action))
    }

    /// Deletes a Node.
    pub async fn remove_node(&self, name: &str) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.admin());
        nodes.delete(name, &DeleteParams::default()).await.map_err(self.asking(format!("delete Node {name}")))?;
        Ok(())
    }

    /// Waits until a Node is ready.
    pub async fn await_node(&self, name: &str, timeout: Duration) -> Result<Node> {
        let nodes: Api<Node> = Api::all(self.admin());
        eventually(timeout, format!("Node {name} of {} is ready", self.name()), async || {
            let node = nodes.get(name).await?;
            let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
            let ready = conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
            if ready { Ok(node) } else { Err(format!("conditions {conditions:?}").into()) }
        })
        .await
    }

    /// Waits until a Pod is in a phase such as `Running`.
    pub async fn await_pod(&self, namespace: &str, name: &str, phase: &str, timeout: Duration) -> Result<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.admin(), namespace);
        let what = format!("Pod {namespace}/{name} of {} is {phase}", self.name());
        eventually(timeout, what, async || {
            let pod = pods.get(name).await?;
            let status = pod.status.clone().unwrap_or_default();
            if status.phase.as_deref() == Some(phase) {
                Ok(pod)
            } else {
                Err(format!("phase {:?}, conditions {:?}", status.phase, status.conditions).into())
            }
        })
        .await
    }
}
