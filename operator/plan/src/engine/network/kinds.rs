//! The kinds by which networks are closed and opened.

use crate::engine::uses::{Care, KindUse, Place};
use crate::model::kind::{Effect, KindInfo, ObjectKind};

impl ObjectKind {
    /// Who may reach which Pods.
    pub const NETWORK_POLICY: ObjectKind = ObjectKind::new(&KindInfo {
        owns_spec: true,
        effect: Effect::Fences,
        ..KindInfo::new("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
    });
    /// The same for the whole cluster, with precedence over policies in namespaces.
    pub const CLUSTER_NETWORK_POLICY: ObjectKind =
        ObjectKind::new(&KindInfo::new("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies"));
}

/// What the network engine works with.
pub(super) const KINDS: [KindUse; 2] = [
    // Those of a Slurm namespace are ours too.
    KindUse { care: Care::OwnedAndWidening, ..KindUse::new(ObjectKind::NETWORK_POLICY, Place::TenantsAndNamed) },
    KindUse { api: Some("ClusterNetworkPolicy"), ..KindUse::new(ObjectKind::CLUSTER_NETWORK_POLICY, Place::Named) },
];
