//! Network policies: what a grant's Pods may reach, and who may reach them.
//!
//! NetworkPolicies only ever add permissions, so isolation is a sum: `aif-default-deny` closes both directions, and each other
//! policy opens something that is this grant's alone or that the factory names. A path between two grants needs both ends to open
//! it.
//!
//! None of this works where nothing enforces policies, and none of it holds for traffic that does not pass the Pod network (RDMA,
//! NVLink) or that reaches another site behind an address which several grants share. Such shared addresses belong among the
//! factory's node or management ranges, since those can not be claimed by a grant.

mod cidr;
mod engine;
mod guard_rails;
mod kinds;
mod protected;
mod rules;
mod slurm;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::model::id::TenantNamespace;
use crate::model::intent::{CrossSiteIntent, EgressIntent, GrantIntent, SiteIntent};
use crate::model::object::{Object, ObjectKey, ObjectKind, Ownership};

pub use cidr::{normalised, overlaps};
pub use engine::Network;
pub use guard_rails::{GUARD_RAILS, guard_rails};
use protected::{Closed, quoted};
use rules::{Port, Rules};
pub use slurm::slurm_policies;

/// Closes both directions for every Pod of the namespace.
pub const DEFAULT_DENY: &str = "aif-default-deny";
/// Opens name resolution.
pub const DNS: &str = "aif-dns";
/// Allows traffic within the namespace.
pub const NAMESPACE: &str = "aif-namespace";
/// Opens services and ranges that the grant names.
pub const EGRESS: &str = "aif-egress";
/// Opens the grant's own addresses at linked sites.
pub const CROSS_SITE: &str = "aif-cross-site";

/// The label that the API server sets on every namespace and lets nobody change; other labels may be writable by others.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

const TOO_MANY: &str = "too many protected ranges lie inside; wider ones around them stay closed. Name a narrower range";

/// Policies, and what had to be left out of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// The NetworkPolicies, default deny first.
    pub objects: Vec<Object>,
    /// What was asked for and stays closed, with the reason; sorted.
    pub findings: Vec<String>,
}

/// The NetworkPolicies of a grant in its namespace at a site. Whatever can not be read stays closed and is reported.
pub fn policies(site: &SiteIntent, grant: &GrantIntent, namespace: &TenantNamespace, ownership: &Ownership) -> Rendered {
    let closed = Closed::of(&site.protected);
    let mut findings = BTreeSet::new();
    let policy = |name: &str, spec: Value| policy(name, spec, namespace, ownership);
    let own = json!([{"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: namespace}}}]);
    let mut objects = vec![
        default_deny(namespace, ownership),
        policy(DNS, json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": dns(site, &mut findings)})),
        policy(NAMESPACE, json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{"from": own}], "egress": [{"to": own}]})),
    ];
    let egress = egress(site, &grant.egress, &closed, &mut findings);
    if !egress.is_empty() {
        objects.push(policy(EGRESS, json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress.render()})));
    }
    let peers = grant.cross_site.as_ref().map(|asked| peers(site, asked, &closed, &mut findings)).unwrap_or_default();
    if !peers.is_empty() {
        let blocks: Vec<Value> = peers.iter().map(|cidr| json!({"ipBlock": {"cidr": cidr.to_string()}})).collect();
        objects.push(policy(
            CROSS_SITE,
            json!({
                "podSelector": {},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": blocks}],
                "egress": [{"to": blocks}],
            }),
        ));
    }
    Rendered { objects, findings: findings.into_iter().collect() }
}

/// The policy that closes both directions. It needs to know nothing of site and grant.
pub fn default_deny(namespace: &TenantNamespace, ownership: &Ownership) -> Object {
    policy(DEFAULT_DENY, json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}), namespace, ownership)
}

fn policy(name: &str, mut spec: Value, namespace: &TenantNamespace, ownership: &Ownership) -> Object {
    // Written also where it is empty, so that applying the policy removes rules that others have added.
    if let Value::Object(spec) = &mut spec {
        for direction in ["ingress", "egress"] {
            spec.entry(direction).or_insert_with(|| json!([]));
        }
    }
    Object::new(ObjectKey::namespaced(ObjectKind::NETWORK_POLICY, namespace.as_str(), name), ownership, json!({"spec": spec}))
}

/// A grant's own address range in canonical form, or why it can not be one: it must be a range, and stay clear of everything that
/// is protected. `protected` are the ranges of the whole factory, as in [`SiteIntent::protected`].
pub fn own_address(protected: &[String], cidr: &str) -> Result<String, String> {
    Closed::of(protected).own_address(cidr).map(|range| range.to_string())
}

fn dns(site: &SiteIntent, findings: &mut BTreeSet<String>) -> Vec<Value> {
    let ports = json!([{"protocol": "TCP", "port": 53}, {"protocol": "UDP", "port": 53}]);
    let mut rules = vec![json!({
        // One element: both selectors must match. Two elements would open every Pod of the DNS namespace.
        "to": [{
            "namespaceSelector": {"matchLabels": {NAMESPACE_NAME: site.dns.namespace}},
            "podSelector": {"matchLabels": {"k8s-app": site.dns.app}},
        }],
        "ports": ports,
    })];
    let mut blocks = BTreeSet::new();
    for text in &site.dns.node_local_cidrs {
        match cidr::parse(text).and_then(|range| rules::block(range, &protected::METADATA)) {
            Some(block) => {
                blocks.insert(block);
            }
            None => {
                findings.insert(format!("node-local DNS {}: not a CIDR of a resolver such as 169.254.20.10/32; it stays closed", quoted(text)));
            }
        }
    }
    if !blocks.is_empty() {
        rules.push(json!({"to": blocks.iter().map(rules::Block::render).collect::<Vec<_>>(), "ports": ports}));
    }
    rules
}

fn egress(site: &SiteIntent, asked: &[EgressIntent], closed: &Closed, findings: &mut BTreeSet<String>) -> Rules {
    let services: BTreeMap<&str, _> = site.services.iter().map(|service| (service.name.as_str(), service)).collect();
    let mut rules = Rules::default();
    for entry in asked {
        let (what, ports, blocks) = match entry {
            EgressIntent::Service(name) => {
                let Some(service) = services.get(name.as_str()) else {
                    findings.insert(format!("service {}: the site names none such under network.services; it stays closed", quoted(name)));
                    continue;
                };
                let blocks = service.cidrs.iter().map(|cidr| (cidr, closed.service(cidr))).collect();
                (format!("service {}", quoted(name)), &service.ports, blocks)
            }
            EgressIntent::Range { cidr, ports } => ("egress".to_owned(), ports, vec![(cidr, closed.range(cidr))]),
        };
        let ports = Port::all(ports);
        for (cidr, block) in blocks {
            let found = match block {
                Ok(block) => {
                    let coarse = block.coarse.then(|| TOO_MANY.to_owned());
                    if rules.open(&ports, block) { coarse } else { Some("no usable port; it stays closed".to_owned()) }
                }
                Err(why) => Some(format!("{why}; it stays closed")),
            };
            findings.extend(found.map(|found| format!("{what}, {}: {found}", quoted(cidr))));
        }
    }
    rules
}

fn peers(site: &SiteIntent, asked: &CrossSiteIntent, closed: &Closed, findings: &mut BTreeSet<String>) -> Vec<ipnet::IpNet> {
    let mut ranges = Vec::new();
    // Traffic inside a site never leaves the namespace's own policy.
    for (peer, cidrs) in asked.peers.iter().filter(|(peer, _)| **peer != site.site) {
        for text in cidrs {
            match closed.own_address(text) {
                Ok(range) => ranges.push(range),
                Err(why) => {
                    findings.insert(format!("crossSite {}, {}: {why}; it stays closed", quoted(peer), quoted(text)));
                }
            }
        }
    }
    cidr::merged(ranges)
}
