//! Address ranges: reading, comparing, merging, and cutting holes.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// So many holes a range may have; more are merged into wider ones.
pub(super) const MAX_HOLES: usize = 128;

/// A range without its host bits. An IPv4-mapped IPv6 range is the IPv4 range that it means. Spellings that others read in another
/// way (leading zeros, octal) are none.
pub(super) fn parse(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    if length.starts_with('+') || (length.len() > 1 && length.starts_with('0')) {
        return None;
    }
    let range = IpNet::new(address.parse().ok()?, length.parse().ok()?).ok()?.trunc();
    let IpAddr::V6(first) = range.addr() else { return Some(range) };
    match (first.to_ipv4_mapped(), range.prefix_len().checked_sub(96)) {
        (Some(mapped), Some(length)) => Ipv4Net::new(mapped, length).ok().map(IpNet::V4),
        _ => Some(range),
    }
}

/// The canonical form of a range, for example `10.0.0.0/8` for `10.1.2.3/8`; `None` if it is no range.
pub fn normalised(cidr: &str) -> Option<String> {
    parse(cidr).map(|range| range.to_string())
}

/// Whether two ranges have an address in common. What is no range has none.
pub fn overlaps(a: &str, b: &str) -> bool {
    match (parse(a), parse(b)) {
        (Some(a), Some(b)) => meet(&a, &b),
        _ => false,
    }
}

/// Whether two ranges have an address in common: one then contains the other.
pub(super) fn meet(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The fewest ranges that hold the same addresses, sorted.
pub(super) fn merged(ranges: Vec<IpNet>) -> Vec<IpNet> {
    let mut ranges = IpNet::aggregate(&ranges);
    ranges.sort_unstable();
    ranges
}

/// Holes of a range.
pub(super) struct Holes {
    /// Strictly inside the range, sorted, disjoint, at most [`MAX_HOLES`].
    pub(super) ranges: Vec<IpNet>,
    /// Whether they are wider than what was to be cut out.
    pub(super) coarse: bool,
}

/// What must be cut out of `range` so that nothing of `closed` is left in it; `None` if nothing would be left at all.
pub(super) fn holes(range: &IpNet, closed: &[IpNet]) -> Option<Holes> {
    if closed.iter().any(|other| other.contains(range)) {
        return None;
    }
    let mut ranges = merged(closed.iter().filter(|other| range.contains(*other)).copied().collect());
    let mut longest = ranges.iter().map(IpNet::prefix_len).max().unwrap_or_default();
    let coarse = ranges.len() > MAX_HOLES;
    while ranges.len() > MAX_HOLES && longest > range.prefix_len() {
        longest -= 1;
        ranges = merged(ranges.iter().map(|hole| widened(hole, longest)).collect());
    }
    // The holes together may cover the whole range.
    (!ranges.contains(range)).then_some(Holes { ranges, coarse })
}

fn widened(range: &IpNet, longest: u8) -> IpNet {
    match IpNet::new(range.addr(), range.prefix_len().min(longest)) {
        Ok(wider) => wider.trunc(),
        // Never: a shorter prefix than a valid one is valid.
        Err(_) => *range,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().filter_map(|text| parse(text)).collect()
    }

    #[test]
    fn canonical_form() {
        for (text, wanted) in [
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("2001:DB8:0::1/32", Some("2001:db8::/32")),
            ("::ffff:10.1.2.3/104", Some("10.0.0.0/8")),
            ("::ffff:0:0/96", Some("0.0.0.0/0")),
            ("::/0", Some("::/0")),
            ("10.0.0.0/33", None),
            ("10.0.0.0", None),
            ("010.0.0.0/8", None),
            ("10.0.0.0/08", None),
            ("10.0.0.0/+8", None),
            ("10.0.0.0/8 ", None),
            ("fe80::1%eth0/64", None),
            ("", None),
            ("/", None),
        ] {
            assert_eq!(normalised(text).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn overlap_is_within_a_family_and_symmetric() {
        for (a, b, wanted) in [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.1.0.0/16", "10.0.0.0/8", true),
            ("10.1.0.0/16", "10.2.0.0/16", false),
            ("0.0.0.0/0", "::/0", false),
            ("::ffff:10.0.0.0/104", "10.3.0.0/16", true),
            ("nonsense", "0.0.0.0/0", false),
        ] {
            assert_eq!(overlaps(a, b), wanted, "{a} {b}");
            assert_eq!(overlaps(b, a), wanted, "{b} {a}");
        }
    }

    #[test]
    fn holes_are_minimal_and_strictly_inside() {
        let closed = ranges(&["10.0.1.0/24", "10.0.0.0/24", "10.0.0.7/32", "192.0.2.0/24", "::/0"]);
        let cut = holes(&ranges(&["10.0.0.0/8"])[0], &closed).map(|holes| holes.ranges);
        assert_eq!(cut, Some(ranges(&["10.0.0.0/23"])));
        assert!(holes(&ranges(&["10.0.0.0/23"])[0], &closed).is_none(), "two halves are the whole");
        assert!(holes(&ranges(&["192.0.2.0/24"])[0], &closed).is_none(), "equal");
        assert!(holes(&ranges(&["192.0.2.128/25"])[0], &closed).is_none(), "inside");
        assert_eq!(holes(&ranges(&["198.51.100.0/24"])[0], &closed).map(|holes| holes.ranges), Some(Vec::new()));
    }

    #[test]
    fn many_holes_become_wider_ones() {
        let many: Vec<IpNet> = (0..=255u8).filter_map(|third| parse(&format!("10.0.{third}.1/32"))).collect();
        let cut = holes(&ranges(&["10.0.0.0/8"])[0], &many);
        let cut = cut.filter(|cut| cut.coarse && cut.ranges.len() <= MAX_HOLES);
        assert!(cut.is_some_and(|cut| many.iter().all(|hole| cut.ranges.iter().any(|wider| wider.contains(hole)))));
    }
}
