//! The labels, annotations and fixed names by which we find our objects again.
//!
//! The admission policies of `charts/` read the same keys; both must change together.

/// Label on every object of ours but Nodes.
pub const MANAGED: &str = "aifactory.dev/managed";
/// As a label: a hash of hub id and owner, to select by. As an annotation: `Kind/namespace/name`, to read.
pub const OWNER: &str = "aifactory.dev/owner";
/// Annotation: the owner's UID when the object was written.
pub const OWNER_UID: &str = "aifactory.dev/owner-uid";
/// Annotation: the id of the hub that wrote the object.
pub const HUB: &str = "aifactory.dev/hub";

/// Label on a grant's namespace.
pub const TENANT: &str = "aifactory.dev/tenant";
/// Label on a grant's namespace: [`STATE_BOUND`], [`STATE_PAUSED`] or [`STATE_LOCKED`].
pub const STATE: &str = "aifactory.dev/state";
/// Members work.
pub const STATE_BOUND: &str = "Bound";
/// Members can not start work; what runs goes on.
pub const STATE_PAUSED: &str = "Paused";
/// The grant has ended here; data is retained.
pub const STATE_LOCKED: &str = "Locked";
/// Label prefix: one label a granted pool.
pub const POOL_PREFIX: &str = "pool.aifactory.dev/";
/// Label on a namespace with exactly one pool, whose Pods get selector and toleration added.
pub const SINGLE_POOL: &str = "aifactory.dev/single-pool";
/// Label on a locked namespace: Pods without accelerators may run, to copy data out.
pub const CPU_PODS: &str = "aifactory.dev/cpu-pods";
/// Annotation: the extended resources that Pods may ask for, comma separated.
pub const RESOURCES: &str = "aifactory.dev/resources";
/// Label on Nodes, and annotation on a namespace with one pool: the pool's name.
pub const POOL: &str = "aifactory.dev/pool";
/// Annotation on a namespace with one pool: the resource name, which is the taint's key.
pub const POOL_RESOURCE: &str = "aifactory.dev/pool-resource";
/// Annotation: the grant's code, which decides whether a later grant of the same name may take the namespace back.
pub const CODE: &str = "aifactory.dev/code";

/// Annotation on a grant's namespace: device time of its Pods that was counted, and up to when.
pub const USED: &str = "aifactory.dev/used";

/// Annotation on a grant's namespace: the pools, comma separated, whose GPU-hours are used up here: their Pods that wait may be deleted, and those
/// that run where the grant says so.
pub const CANCEL_PODS: &str = "aifactory.dev/cancel-pods";

/// Annotation on a locked namespace: when access ended.
pub const ENDED_AT: &str = "aifactory.dev/ended-at";
/// Annotation on a locked namespace: when it was locked; grace period and retention are counted from then, if it is later than the end.
pub const LOCKED_AT: &str = "aifactory.dev/locked-at";
/// Annotation on a role binding of a locked namespace: the name of the binding that takes its place when work with accelerators has ended.
pub const BECOMES: &str = "aifactory.dev/becomes";
/// Annotation on a locked namespace: why access ended.
pub const ENDED_BECAUSE: &str = "aifactory.dev/ended-because";
/// Annotation on a locked namespace: when what still runs is cancelled; absent: it may finish.
pub const CANCEL_WORK_AT: &str = "aifactory.dev/cancel-work-at";
/// Annotation on a locked namespace: when the cancelling was ordered.
pub const WORK_CANCELLED_AT: &str = "aifactory.dev/work-cancelled-at";
/// Annotation on a locked namespace: until when data is kept.
pub const RETAINED_UNTIL: &str = "aifactory.dev/retained-until";
/// Annotation on a locked namespace: what happens then, `Retain` or `Delete`.
pub const AFTER_RETENTION: &str = "aifactory.dev/after-retention";

/// Label that a site puts on the Nodes which the operator may label and taint.
pub const OFFERED: &str = "site.aifactory.dev/offered";
/// Label that a site puts on the namespace of an engine.
pub const ENGINE: &str = "site.aifactory.dev/engine";

/// Finalizer on our resources, and on credentials in use.
pub const FINALIZER: &str = "aifactory.dev/finalizer";
/// Annotation that confirms the deletion of the object whose UID it holds.
pub const CONFIRM_DELETE: &str = "aifactory.dev/confirm-delete";
/// Annotation on a resource that can not be decoded and is being deleted: the resource whose UID it holds goes, and what sites hold of it becomes an
/// orphan there.
pub const RELEASE_UNDECODABLE: &str = "aifactory.dev/release-undecodable";
/// Annotation on an AIFactory: sites that are given up, comma separated.
pub const ABANDON_SITE: &str = "aifactory.dev/abandon-site";
/// Annotation on an AIFactory: `site=clusterUID` pairs that are accepted as the site's new identity, comma separated.
pub const ACCEPT_IDENTITY: &str = "aifactory.dev/accept-identity";
/// Annotation on an AccessGrant: take over what an earlier grant of this name, with another code, left behind.
pub const ADOPT_PREVIOUS: &str = "aifactory.dev/adopt-previous";

/// Namespace of the operator, on the hub and on every site.
pub const SYSTEM_NAMESPACE: &str = "aifactory-system";
/// ConfigMap on a site: which factory of which hub the site belongs to.
pub const CLAIM: &str = "aifactory-claim";
/// ConfigMap on a site: the site's own policy. The operator reads it and never writes it.
pub const SITE_POLICY: &str = "aifactory-site-policy";
/// ConfigMap on a site: member id to local user of its Slurm. The operator reads it and never writes it.
pub const SLURM_USERS: &str = "aifactory-slurm-users";
/// ConfigMap on the hub: the hub id.
pub const HUB_CONFIG: &str = "aifactory-hub";
/// ConfigMap on the hub: the parts of sites that may hold something of this hub.
pub const KNOWN_SITES: &str = "aifactory-known-sites";
/// ConfigMap on the hub: the namespaces that hold living grants.
pub const LIVING_GRANTS: &str = "aifactory-living-grants";
/// Role and RoleBinding by which a team lets the operator read the credentials in its namespace.
pub const CREDENTIALS: &str = "aifactory-credentials";
/// Prefix of every namespace and cluster-scoped object that we make.
pub const PREFIX: &str = "aif-";

/// Field manager on sites.
pub const SITE_MANAGER: &str = "aifactory-site";
/// Field manager of status on the hub.
pub const STATUS_MANAGER: &str = "aifactory-status";
/// Field manager of the conditions of a resource that can not be reconciled.
pub const CONDITIONS_MANAGER: &str = "aifactory-conditions";
/// Field manager of other objects on the hub.
pub const HUB_MANAGER: &str = "aifactory-hub";
