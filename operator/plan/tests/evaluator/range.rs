//! Ranges as pairs of first and last address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range of addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    pub v6: bool,
    pub first: u128,
    pub last: u128,
    pub length: u32,
}

impl Range {
    /// Reads a CIDR that must be one; host bits count for nothing.
    pub fn parse(text: &str) -> Self {
        let (address, length) = text.split_once('/').unwrap_or_else(|| panic!("{text}: no length"));
        let address: IpAddr = address.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        let length: u32 = length.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        let (v6, bits, number) = number(address);
        assert!(length <= bits, "{text}: too long");
        let hosts = if bits - length == 128 { u128::MAX } else { (1 << (bits - length)) - 1 };
        Self { v6, first: number & !hosts, last: number | hosts, length }
    }

    /// Whether it holds the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (v6, _, number) = number(address);
        v6 == self.v6 && (self.first..=self.last).contains(&number)
    }

    /// Whether it holds all of the other.
    pub fn holds(&self, other: &Range) -> bool {
        self.v6 == other.v6 && self.first <= other.first && other.last <= self.last
    }

    /// The addresses by which IPv6 reaches this IPv4 range through the well-known NAT64 prefix.
    pub fn behind_nat64(&self) -> Option<Self> {
        let prefix = u128::from(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0));
        (!self.v6).then(|| Self { v6: true, first: prefix | self.first, last: prefix | self.last, length: self.length + 96 })
    }

    /// The address of this number in this range's family.
    pub fn address(&self, number: u128) -> IpAddr {
        if self.v6 { Ipv6Addr::from(number).into() } else { Ipv4Addr::from(u32::try_from(number).expect("32 bits")).into() }
    }
}

fn number(address: IpAddr) -> (bool, u32, u128) {
    match address {
        IpAddr::V4(address) => (false, 32, u32::from(address).into()),
        IpAddr::V6(address) => (true, 128, address.into()),
    }
}
