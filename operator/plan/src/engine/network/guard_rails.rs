//! The factory's guard rails: a ClusterNetworkPolicy over all grants, for sites that serve it.

use aifactory_api::labels;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::cidr::{merged, parse};
use super::protected::{LINK_LOCAL, METADATA};
use crate::model::intent::SiteIntent;
use crate::model::object::{Object, ObjectKey, ObjectKind, Ownership};

/// Name of the policy.
pub const GUARD_RAILS: &str = "aif-guard-rails";

/// The API takes so many peers a rule, and so many networks a peer.
const LIMIT: usize = 25;

/// The lowest precedence of the Admin tier: the site's own policies are evaluated first, so our Pass skips none of them.
const PRIORITY: i32 = 1000;

/// Denies access to metadata services and link-local addresses, whatever NetworkPolicies a grant's namespace has, except for node-local name
/// resolution. Only for sites that serve `policy.networking.k8s.io/v1alpha2`, of which only fields of the standard channel are used.
pub fn guard_rails(site: &SiteIntent, ownership: &Ownership) -> Vec<Object> {
    let mut egress = vec![json!({"name": "no-metadata", "action": "Deny", "to": networks(&METADATA)})];
    let resolvers = merged(site.dns.node_local_cidrs.iter().filter_map(|text| parse(text)).collect());
    if !resolvers.is_empty() {
        egress.push(json!({
            "name": "node-local-dns",
            "action": "Pass",
            "to": networks(&resolvers),
            "protocols": [{"tcp": {"destinationPort": {"number": 53}}}, {"udp": {"destinationPort": {"number": 53}}}],
        }));
    }
    egress.push(json!({"name": "no-link-local", "action": "Deny", "to": networks(&LINK_LOCAL)}));
    let key = ObjectKey::cluster(ObjectKind::CLUSTER_NETWORK_POLICY, GUARD_RAILS);
    let body = json!({"spec": {
        "tier": "Admin",
        "priority": PRIORITY,
        "subject": {"namespaces": {"matchLabels": {labels::TENANT: "true"}}},
        "egress": egress,
    }});
    vec![Object::new(key, ownership, body)]
}

fn networks(ranges: &[IpNet]) -> Vec<Value> {
    ranges.chunks(LIMIT).take(LIMIT).map(|ranges| json!({"networks": ranges.iter().map(IpNet::to_string).collect::<Vec<_>>()})).collect()
}
