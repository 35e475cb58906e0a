//! The kinds of Kubernetes itself that a grant's namespace is made of.

use crate::engine::uses::{Care, KindUse, Place};
use crate::model::kind::{Effect, KindInfo, ObjectKind, Removal};

const RBAC: &str = "rbac.authorization.k8s.io";

impl ObjectKind {
    /// A tenant's namespace. It goes last, with all that is in it.
    pub const NAMESPACE: ObjectKind =
        ObjectKind::new(&KindInfo { effect: Effect::Fences, removal: Removal::Planned, ..KindInfo::new("", "v1", "Namespace", "namespaces") });
    /// What a tenant may use.
    pub const RESOURCE_QUOTA: ObjectKind =
        ObjectKind::new(&KindInfo { effect: Effect::Fences, ..KindInfo::new("", "v1", "ResourceQuota", "resourcequotas") });
    /// Defaults for containers.
    pub const LIMIT_RANGE: ObjectKind = ObjectKind::new(&KindInfo { effect: Effect::Fences, ..KindInfo::new("", "v1", "LimitRange", "limitranges") });
    /// Whom members' Pods run as.
    pub const SERVICE_ACCOUNT: ObjectKind = ObjectKind::new(&KindInfo::new("", "v1", "ServiceAccount", "serviceaccounts"));
    /// The binding that gives a member access.
    pub const ROLE_BINDING: ObjectKind = ObjectKind::new(&KindInfo {
        effect: Effect::GivesAccess,
        removal: Removal::Planned,
        ..KindInfo::new(RBAC, "v1", "RoleBinding", "rolebindings")
    });
    /// A ConfigMap with information for members.
    pub const CONFIG_MAP: ObjectKind = ObjectKind::new(&KindInfo::new("", "v1", "ConfigMap", "configmaps"));
}

/// What tenancy works with. All of it is selected by name and never by label: an object that has lost our label is still ours.
pub(super) const KINDS: [KindUse; 6] = [
    KindUse::new(ObjectKind::NAMESPACE, Place::Named),
    KindUse::new(ObjectKind::RESOURCE_QUOTA, Place::Tenants),
    // Every namespace of a site has a ServiceAccount; all of ours have this name.
    KindUse { name: Some("aifactory"), ..KindUse::new(ObjectKind::LIMIT_RANGE, Place::Tenants) },
    KindUse { name: Some("aifactory"), ..KindUse::new(ObjectKind::SERVICE_ACCOUNT, Place::Tenants) },
    KindUse { care: Care::OwnedAndWidening, ..KindUse::new(ObjectKind::ROLE_BINDING, Place::Tenants) },
    // The site role lets us see this one name only.
    KindUse { name: Some("aifactory-access"), ..KindUse::new(ObjectKind::CONFIG_MAP, Place::Tenants) },
];
