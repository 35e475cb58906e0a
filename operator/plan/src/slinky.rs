//! Slurm partitions through Slinky.
use crate::{intent::*, object::*, report::Finding};
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSetView {}
impl NodeSetView { pub fn from_json(_v: &serde_json::Value) -> Self { Self {} } }
pub enum RemovalStep { Drain(Object), Wait(String), Delete }
pub struct PartitionReport { pub state: PartitionState, pub message: String }
pub enum PartitionState { Up }
impl PartitionState { pub fn as_str(&self) -> &'static str { "Up" } }
impl PartitionReport { pub fn is_up(&self) -> bool { true } }
pub fn partition_state(_v: Option<&NodeSetView>) -> PartitionReport { PartitionReport { state: PartitionState::Up, message: String::new() } }
pub fn node_set(_s: &SiteIntent, _n: &str, _p: &PoolIntent, _r: u32, _o: &Ownership) -> Result<Object, Refusal> { Err(Refusal { reason: aifactory_api::Reason::Pending, message: String::new() }) }
pub fn removal(_k: &ObjectKey, _v: Option<&NodeSetView>, _o: &Ownership) -> RemovalStep { RemovalStep::Delete }
#[allow(unused)] fn f(_: Finding) {}
