//! Ranges as people write them, the hostile ones among them.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use crate::evaluator::Range;

/// A range, perhaps in terms of a protected one.
#[derive(Clone, Debug)]
pub enum RangeText {
    /// As it stands.
    Plain(String),
    /// Wider (negative) or narrower than one of the known ranges by so many bits.
    Near { which: usize, bits: i32, step: u128 },
}

impl RangeText {
    /// The text, given the known ranges.
    pub fn near(&self, known: &[String]) -> String {
        match self {
            RangeText::Plain(text) => text.clone(),
            RangeText::Near { which, bits, step } => {
                let range = Range::parse(&known[which % known.len()]);
                let longest = if range.v6 { 128 } else { 32 };
                let length = range.length.saturating_add_signed(*bits).min(longest);
                let address = range.address(range.first + step % (range.last - range.first).saturating_add(1));
                format!("{address}/{length}")
            }
        }
    }
}

const HOSTILE: [&str; 26] = [
    "0.0.0.0/0",
    "::/0",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "8000::/1",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "fd00::/8",
    "2000::/3",
    "169.254.169.254/32",
    "169.254.169.252/30",
    "169.254.0.0/15",
    "168.63.0.0/16",
    "fd00:ec2::254/128",
    "fd00:ec2::/32",
    "fe80::/9",
    "::ffff:0:0/95",
    "::ffff:169.254.169.254/128",
    "64:ff9b::/96",
    "64:ff9b::a9fe:a9fe/128",
    "127.0.0.1/32",
    "010.0.0.0/8",
    "10.0.0.0/8/8",
    "nonsense",
];

fn v4() -> impl Strategy<Value = RangeText> {
    (any::<u32>(), 0..=32u8).prop_map(|(address, length)| RangeText::Plain(format!("{}/{length}", Ipv4Addr::from(address))))
}

fn v6() -> impl Strategy<Value = RangeText> {
    (any::<u128>(), 0..=128u8).prop_map(|(address, length)| RangeText::Plain(format!("{}/{length}", Ipv6Addr::from(address))))
}

/// Any range that somebody may write, with host bits or not.
pub fn range_text() -> impl Strategy<Value = RangeText> {
    let near = (0..8usize, -6..=6i32, any::<u128>()).prop_map(|(which, bits, step)| RangeText::Near { which, bits, step });
    let hostile = proptest::sample::select(&HOSTILE[..]).prop_map(|text| RangeText::Plain(text.to_owned()));
    prop_oneof![4 => near, 3 => hostile, 2 => v4(), 2 => v6()]
}

/// A range that may be routed to one grant; from few, so that grants collide.
pub fn routed_range() -> impl Strategy<Value = RangeText> {
    let documentation = (0..=255u8, 24..=32u8).prop_map(|(host, length)| format!("192.0.2.{host}/{length}"));
    let six = (0..=255u8, 120..=128u8).prop_map(|(host, length)| format!("2001:db8::{host:x}/{length}"));
    prop_oneof![documentation, six].prop_map(RangeText::Plain)
}

/// A range of Pods, Services, nodes or management.
pub fn private_range() -> impl Strategy<Value = String> {
    let ten = (any::<u32>(), 9..=30u8).prop_map(|(host, length)| (0x0a00_0000 | host >> 8, length));
    let shared = (any::<u32>(), 11..=30u8).prop_map(|(host, length)| (0x6440_0000 | host >> 10, length));
    let four = prop_oneof![3 => ten, 1 => shared].prop_map(|(address, length)| format!("{}/{length}", Ipv4Addr::from(address)));
    let six = (any::<u128>(), 9..=126u8).prop_map(|(host, length)| format!("{}/{length}", Ipv6Addr::from(0xfd_u128 << 120 | host >> 8)));
    prop_oneof![3 => four, 1 => six]
}
