//! Addresses that grants name as their own, found by the ranges that they share.

use std::collections::{BTreeMap, BTreeSet};

use aifactory_api::AccessGrant;
use ipnet::IpNet;

use crate::engine::network;
use crate::model::quota::Position;
use crate::model::visits::Visits;

/// Ranges with the grants that name them. What is no range overlaps nothing.
#[derive(Clone, Debug, Default)]
pub struct Addresses(BTreeMap<IpNet, BTreeSet<Position>>);

/// The ranges that a grant names, at any site.
pub fn named(grant: &AccessGrant) -> BTreeSet<IpNet> {
    let sites = grant.spec.network.cross_site.iter().flat_map(|cross_site| &cross_site.addresses);
    sites.flat_map(|site| &site.cidrs).filter_map(|cidr| parse(cidr)).collect()
}

fn parse(cidr: &str) -> Option<IpNet> {
    network::normalised(cidr)?.parse().ok()
}

impl Addresses {
    /// A grant names these ranges.
    pub fn add(&mut self, position: &Position, ranges: &BTreeSet<IpNet>) {
        for range in ranges {
            self.0.entry(*range).or_default().insert(position.clone());
        }
    }

    /// A grant does not name these ranges any more.
    pub fn remove(&mut self, position: &Position, ranges: &BTreeSet<IpNet>) {
        for range in ranges {
            if let Some(positions) = self.0.get_mut(range) {
                positions.remove(position);
                if positions.is_empty() {
                    self.0.remove(range);
                }
            }
        }
    }

    /// The ranges that overlap this one, each with the grants that name it.
    pub fn overlapping(&self, cidr: &str, visits: &Visits) -> Vec<(IpNet, &BTreeSet<Position>)> {
        parse(cidr).map(|range| self.sharing(range, visits)).unwrap_or_default()
    }

    /// Of two ranges that overlap one contains the other.
    pub fn sharing(&self, range: IpNet, visits: &Visits) -> Vec<(IpNet, &BTreeSet<Position>)> {
        let around = std::iter::successors(range.supernet(), IpNet::supernet).filter_map(|wider| self.0.get_key_value(&wider));
        let within = self.0.range(range..).take_while(|(other, _)| range.contains(*other));
        visits.of(around.chain(within)).map(|(range, positions)| (*range, positions)).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use aifactory_api::{Kind, OwnerRef};
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn what_overlaps_is_found_whichever_is_wider() {
        let all = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.0/28", "10.2.0.0/16", "2001:db8::/48", "2001:db8:0:1::/64", "192.0.2.0/24"];
        let position: Position = (Timestamp::UNIX_EPOCH, OwnerRef::new(Kind::AccessGrant, "n", "g"));
        let mut addresses = Addresses::default();
        addresses.add(&position, &all.iter().filter_map(|cidr| parse(cidr)).collect());
        for asked in all.into_iter().chain(["10.1.2.3/32", "::/0", "0.0.0.0/0", "198.51.100.0/24", "no range"]) {
            let found: BTreeSet<String> = addresses.overlapping(asked, &Visits::default()).iter().map(|(range, _)| range.to_string()).collect();
            let expected: BTreeSet<String> = all.iter().filter(|other| network::overlaps(asked, other)).map(ToString::to_string).collect();
            assert_eq!(found, expected, "{asked}");
        }
        addresses.remove(&position, &all.iter().filter_map(|cidr| parse(cidr)).collect());
        assert!(addresses.0.is_empty());
    }
}
