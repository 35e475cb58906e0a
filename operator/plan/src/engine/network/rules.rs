//! Rules of an egress policy: ports and the ranges that they open.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::factory::{NetworkPort, Protocol};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::cidr::holes;

/// A range with holes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Block {
    cidr: IpNet,
    except: Vec<IpNet>,
    /// Whether the holes are wider than need be.
    pub(super) coarse: bool,
}

/// `range` without `closed`; `None` if nothing is left of it.
pub(super) fn block(range: IpNet, closed: &[IpNet]) -> Option<Block> {
    holes(&range, closed).map(|holes| Block { cidr: range, except: holes.ranges, coarse: holes.coarse })
}

impl Block {
    /// As a peer of a NetworkPolicy.
    pub(super) fn render(&self) -> Value {
        let cidr = self.cidr.to_string();
        if self.except.is_empty() {
            return json!({"ipBlock": {"cidr": cidr}});
        }
        json!({"ipBlock": {"cidr": cidr, "except": self.except.iter().map(IpNet::to_string).collect::<Vec<_>>()}})
    }
}

/// Ports that the API server takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    protocol: Protocol,
    first: u16,
    last: u16,
}

impl Port {
    /// The usable ones, sorted.
    pub(super) fn all(ports: &[NetworkPort]) -> BTreeSet<Self> {
        ports.iter().filter_map(Self::of).collect()
    }

    fn of(port: &NetworkPort) -> Option<Self> {
        let first = u16::try_from(port.port).ok().filter(|first| *first > 0)?;
        let last = match port.end_port {
            Some(last) => u16::try_from(last).ok().filter(|last| *last >= first)?,
            None => first,
        };
        Some(Self { protocol: port.protocol, first, last })
    }

    fn render(&self) -> Value {
        if self.first == self.last {
            json!({"protocol": self.protocol.as_str(), "port": self.first})
        } else {
            json!({"protocol": self.protocol.as_str(), "port": self.first, "endPort": self.last})
        }
    }
}

/// Rules by their ports, so that equal ports share one and the order of what was asked for does not matter.
#[derive(Default)]
pub(super) struct Rules(BTreeMap<BTreeSet<Port>, BTreeSet<Block>>);

impl Rules {
    /// Opens a range on these ports. Without ports it opens nothing and returns false, since a rule without ports would open all of them.
    pub(super) fn open(&mut self, ports: &BTreeSet<Port>, block: Block) -> bool {
        if ports.is_empty() {
            return false;
        }
        self.0.entry(ports.clone()).or_default().insert(block);
        true
    }

    /// Whether nothing is open.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As the `egress` of a NetworkPolicy.
    pub(super) fn render(&self) -> Vec<Value> {
        self.0
            .iter()
            .map(|(ports, blocks)| {
                json!({
                    "to": blocks.iter().map(Block::render).collect::<Vec<_>>(),
                    "ports": ports.iter().map(Port::render).collect::<Vec<_>>(),
                })
            })
            .collect()
    }
}
