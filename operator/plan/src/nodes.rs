//! Nodes of pools.
use std::collections::BTreeMap;
use aifactory_api::OwnerRef;
use crate::{intent::PoolIntent, report::Finding};
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeView { pub name: String, pub uid: String, pub labels: BTreeMap<String, String> }
impl NodeView { pub fn from_node(_n: &k8s_openapi::api::core::v1::Node) -> Self { Self::default() } }
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct NodePatch { pub node: String, pub uid: String, pub operations: serde_json::Value }
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolNodes { pub held: Vec<String>, pub ready: usize, pub unhealthy: usize, pub wanted: usize, pub gpus_capacity: i64, pub patches: Vec<NodePatch>, pub findings: Vec<Finding> }
pub fn assign(_p: &BTreeMap<OwnerRef, &PoolIntent>, _n: &[&NodeView]) -> BTreeMap<OwnerRef, PoolNodes> { BTreeMap::new() }
