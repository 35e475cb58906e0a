//! Which addresses the operator connects to where a credential names them. Whoever writes a credential must not use the operator to reach its own
//! host or its cloud's metadata service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Refused unless a flag of the operator allows them: loopback, link-local, multicast, unspecified and cloud metadata addresses.
const FORBIDDEN_V4: [(Ipv4Net, &str); 8] = [
    (v4([0, 0, 0, 0], 8), "unspecified"),
    (v4([127, 0, 0, 0], 8), "loopback"),
    (v4([169, 254, 0, 0], 16), "link-local (cloud metadata)"),
    (v4([100, 100, 100, 200], 32), "cloud metadata"),
    (v4([168, 63, 129, 16], 32), "cloud metadata"),
    (v4([192, 0, 0, 0], 24), "reserved"),
    (v4([224, 0, 0, 0], 4), "multicast"),
    (v4([240, 0, 0, 0], 4), "reserved"),
];
const FORBIDDEN_V6: [(Ipv6Net, &str); 6] = [
    (v6([0; 8], 96), "unspecified or loopback"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link-local"),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "reserved"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast"),
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128), "cloud metadata"),
    (v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), "cloud metadata"),
];
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);
const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16);

const fn v4(octets: [u8; 4], prefix: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(segments: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// The flag for addresses of sites.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AddressArgs {
    /// Range of addresses that sites may have although it is loopback, link-local or otherwise refused; repeatable. For tests and demos.
    #[arg(long, value_name = "CIDR")]
    pub allow_site_cidr: Vec<IpNet>,
}

impl AddressArgs {
    /// The rules that the flag asks for.
    pub fn rules(&self) -> AddressRules {
        AddressRules::allowing(self.allow_site_cidr.iter().copied())
    }
}

/// Which addresses a site may have. Private ranges are allowed: that is where most sites are.
#[derive(Clone, Debug, Default)]
pub struct AddressRules {
    allowed: Vec<IpNet>,
    forbidden: Vec<IpNet>,
}

impl AddressRules {
    /// The rules with the ranges of `--allow-site-cidr`, which win over every other rule.
    pub fn allowing(allowed: impl IntoIterator<Item = IpNet>) -> Self {
        Self { allowed: allowed.into_iter().collect(), forbidden: Vec::new() }
    }

    /// Forbids a range more, such as the hub's own API server or its service range.
    #[must_use]
    pub fn forbidding(mut self, range: IpNet) -> Self {
        self.forbidden.push(range);
        self
    }

    /// Why no site may be at this address, or `None` if one may.
    pub fn refusal(&self, address: IpAddr) -> Option<&'static str> {
        // An IPv4 address that is embedded in an IPv6 address is judged as the IPv4 address.
        let reached = match address {
            IpAddr::V6(address) => embedded(address).map_or(IpAddr::V6(address), IpAddr::V4),
            IpAddr::V4(_) => address,
        };
        if self.allows(address) || self.allows(reached) {
            return None;
        }
        if self.forbidden.iter().any(|range| range.contains(&reached)) {
            return Some("part of the hub");
        }
        match reached {
            IpAddr::V4(address) => FORBIDDEN_V4.iter().find(|(range, _)| range.contains(&address)).map(|(_, why)| *why),
            IpAddr::V6(address) => FORBIDDEN_V6.iter().find(|(range, _)| range.contains(&address)).map(|(_, why)| *why),
        }
    }

    /// Why no site may have this host name, or `None` if one may. The addresses behind it are judged when they are known.
    pub(super) fn name_refusal(&self, host: &str) -> Option<&'static str> {
        let host = host.to_ascii_lowercase();
        let labels: Vec<&str> = host.split('.').collect();
        match labels.as_slice() {
            [.., "localhost"] => {
                let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                (!loopback.into_iter().any(|address| self.allows(address))).then_some("this host")
            }
            ["kubernetes" | "kubernetes.default"] | ["kubernetes", "default", ..] => Some("the hub's own API server"),
            [.., "svc"] | [.., "svc", "cluster", "local"] | [.., "cluster", "local"] => Some("a service inside the hub"),
            ["metadata", "google", "internal"] | ["metadata"] => Some("cloud metadata"),
            [_] => Some("a name without a domain, which means something else on every host"),
            _ => None,
        }
    }

    fn allows(&self, address: IpAddr) -> bool {
        self.allowed.iter().any(|range| range.contains(&address))
    }
}

fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., y, z] = address.segments();
    let last = Ipv4Addr::from((u32::from(y) << 16) | u32::from(z));
    if let Some(mapped) = address.to_ipv4_mapped() {
        Some(mapped)
    } else if NAT64.contains(&address) {
        Some(last)
    } else if SIX_TO_FOUR.contains(&address) {
        let [_, b, c, ..] = address.segments();
        Some(Ipv4Addr::from((u32::from(b) << 16) | u32::from(c)))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::AddressRules;

    fn refused(rules: &AddressRules, address: &str) -> bool {
        rules.refusal(address.parse::<IpAddr>().unwrap()).is_some()
    }

    #[test]
    fn dangerous_addresses_are_refused_in_every_disguise() {
        let rules = AddressRules::default();
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fec0::1",
        ] {
            assert!(refused(&rules, address), "{address}");
        }
        for address in
            ["10.1.2.3", "192.168.0.10", "172.16.4.4", "100.64.0.1", "203.0.113.7", "8.8.8.8", "2001:db8::1", "fd12::1", "64:ff9b::a01:203"]
        {
            assert!(!refused(&rules, address), "{address}");
        }
    }

    #[test]
    fn flags_allow_and_forbid_ranges() {
        let rules = AddressRules::allowing(["127.0.0.0/8".parse().unwrap()]).forbidding("10.96.0.0/12".parse().unwrap());
        assert!(!refused(&rules, "127.0.0.1"));
        assert!(!refused(&rules, "::ffff:127.0.0.1"));
        assert!(refused(&rules, "::1"));
        assert!(refused(&rules, "10.96.0.1"));
        assert!(!refused(&rules, "10.9.0.1"));
        assert!(rules.name_refusal("localhost").is_none());
    }

    #[test]
    fn names_of_the_hub_itself_are_refused() {
        let rules = AddressRules::default();
        for host in [
            "localhost",
            "LOCALHOST",
            "a.localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "Kubernetes.Default.svc.cluster.local",
            "x.y.svc",
            "x.y.svc.cluster.local",
            "metadata.google.internal",
            "intranet",
        ] {
            assert!(rules.name_refusal(host).is_some(), "{host}");
        }
        for host in ["api.bissen.example", "kubernetes.example.org", "svc.example.org"] {
            assert!(rules.name_refusal(host).is_none(), "{host}");
        }
    }
}
