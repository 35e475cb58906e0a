//! Address ranges that no grant can open.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

use super::cidr::{meet, parse};
use super::rules::{Block, block};

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length)
}

const fn v6(first: u16, second: u16, third: u16, last: u16, length: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(first, second, third, 0, 0, 0, 0, last)), length)
}

/// Metadata services of clouds.
pub(super) const METADATA: [IpNet; 4] =
    [v4(169, 254, 169, 254, 32), v4(168, 63, 129, 16, 32), v4(100, 100, 100, 200, 32), v6(0xfd00, 0xec2, 0, 0x254, 128)];

/// Link-local addresses.
pub(super) const LINK_LOCAL: [IpNet; 2] = [v4(169, 254, 0, 0, 16), v6(0xfe80, 0, 0, 0, 10)];

/// Addresses that no destination outside the node has, or that lead to others by translation.
const SPECIAL: [IpNet; 8] = [
    v4(0, 0, 0, 0, 8),
    v4(127, 0, 0, 0, 8),
    v4(224, 0, 0, 0, 4),
    v4(255, 255, 255, 255, 32),
    // Unspecified, loopback, IPv4-compatible and IPv4-mapped at once, since API servers take `::ffff:0:0/96` for all of IPv4.
    v6(0, 0, 0, 0, 80),
    // NAT64 for local use, 6to4, multicast.
    v6(0x64, 0xff9b, 1, 0, 48),
    v6(0x2002, 0, 0, 0, 16),
    v6(0xff00, 0, 0, 0, 8),
];

/// The well-known prefix by which IPv6 Pods reach IPv4 (RFC 6052): what is closed in IPv4 is closed behind it.
const NAT64: IpNet = v6(0x64, 0xff9b, 0, 0, 96);

/// The ranges of a factory that stay closed, with those that always do.
pub(super) struct Closed {
    constant: Vec<IpNet>,
    all: Vec<IpNet>,
    /// Families of which the factory names a range.
    named: Families,
    unreadable: Option<String>,
}

#[derive(Default)]
struct Families {
    v4: bool,
    v6: bool,
}

impl Closed {
    /// These ranges of the factory, and the constant ones.
    pub(super) fn of(protected: &[String]) -> Self {
        let mut constant: Vec<IpNet> = METADATA.into_iter().chain(LINK_LOCAL).chain(SPECIAL).collect();
        let mut named = Families::default();
        let mut unreadable = None;
        let mut factory = Vec::new();
        for text in protected {
            match parse(text) {
                Some(range @ IpNet::V4(_)) => {
                    named.v4 = true;
                    factory.push(range);
                }
                Some(range @ IpNet::V6(_)) => {
                    named.v6 = true;
                    factory.push(range);
                }
                None => unreadable = Some(unreadable.map_or_else(|| quoted(text), |first: String| first.min(quoted(text)))),
            }
        }
        factory.extend(translated(&factory));
        constant.extend(translated(&constant));
        let all = constant.iter().copied().chain(factory).collect();
        Self { constant, all, named, unreadable }
    }

    /// What a grant opens by naming a range.
    pub(super) fn range(&self, text: &str) -> Result<Block, String> {
        self.readable()?;
        let range = parse(text).ok_or_else(not_a_range)?;
        block(range, &self.all).ok_or_else(|| inside(&range, &self.all))
    }

    /// What a grant opens by naming a service. The factory defines services, so they may lie in its own ranges.
    pub(super) fn service(&self, text: &str) -> Result<Block, String> {
        let range = parse(text).ok_or_else(not_a_range)?;
        block(range, &self.constant).ok_or_else(|| inside(&range, &self.constant))
    }

    /// A range that can be a grant's own.
    pub(super) fn own_address(&self, text: &str) -> Result<IpNet, String> {
        self.readable()?;
        let range = parse(text).ok_or_else(not_a_range)?;
        let (family, named) = match range {
            IpNet::V4(_) => ("IPv4", self.named.v4),
            IpNet::V6(_) => ("IPv6", self.named.v6),
        };
        // As long as the factory names no Pod range, any address may be another grant's Pod.
        if !named {
            return Err(format!("the factory names no {family} ranges of Pods, Services, nodes or management"));
        }
        match self.all.iter().chain([&NAT64]).filter(|closed| meet(closed, &range)).min() {
            Some(closed) => Err(format!("overlaps the protected range {closed}, so it is not of this grant alone")),
            None => Ok(range),
        }
    }

    fn readable(&self) -> Result<(), String> {
        match &self.unreadable {
            Some(text) => Err(format!("the factory's protected range {text} can not be read, so what it protects is not known")),
            None => Ok(()),
        }
    }
}

fn not_a_range() -> String {
    "not a CIDR such as 203.0.113.0/24".to_owned()
}

fn inside(range: &IpNet, closed: &[IpNet]) -> String {
    match closed.iter().filter(|closed| closed.contains(range)).min() {
        Some(closed) => format!("inside the protected range {closed}"),
        None => "protected ranges leave nothing of it".to_owned(),
    }
}

fn translated(ranges: &[IpNet]) -> Vec<IpNet> {
    let prefix = match NAT64.addr() {
        IpAddr::V6(prefix) => u128::from(prefix),
        IpAddr::V4(_) => return Vec::new(),
    };
    let behind = |range: &IpNet| match range {
        IpNet::V4(range) => {
            let address = Ipv6Addr::from(prefix | u128::from(u32::from(range.network())));
            Ipv6Net::new(address, range.prefix_len().saturating_add(96)).ok().map(IpNet::V6)
        }
        IpNet::V6(_) => None,
    };
    ranges.iter().filter_map(behind).collect()
}

/// What a person wrote, short enough for a message.
pub(super) fn quoted(text: &str) -> String {
    let start: String = text.chars().take(64).collect();
    if start.len() < text.len() { format!("{start:?}…") } else { format!("{start:?}") }
}
