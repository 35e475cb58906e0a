//! AIFactory: an institution and its sites.

mod status;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::slurm::SiteSlurm;

pub use status::{AIFactoryStatus, CredentialStatus, EngineStatus, FactorySiteStatus, FactorySummary, GpuCount};

/// What an institution runs, and where.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "aifactory.dev",
    version = "v1alpha1",
    kind = "AIFactory",
    plural = "aifactories",
    shortname = "aif",
    category = "ai-factory",
    namespaced,
    status = "AIFactoryStatus",
    derive = "PartialEq",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "Sites", type_ = "string", json_path = ".status.summary.sites", description = "Reachable sites of all"),
    printcolumn(name = "GPUs", type_ = "string", json_path = ".status.summary.gpus", description = "Allocated GPUs of those there"),
    printcolumn(name = "Grants", type_ = "integer", json_path = ".status.summary.grants"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message", priority = 1)
)]
#[x_kube(validation = Rule::new("self.type != 'Antenna' || !has(self.sites) || self.sites.size() == 0").message("sites: an Antenna has no sites of its own; leave `sites` out, or write `type: Factory`"))]
#[x_kube(validation = Rule::new("!has(oldSelf.sites) || oldSelf.sites.all(o, o.stage in ['Proposed', 'Decommissioned'] || (has(self.sites) && self.sites.exists(s, s.name == o.name)))").message("sites: a site leaves the list only from stage Proposed or Decommissioned; write `stage: Decommissioned` first, and remove the site once it is released"))]
#[x_kube(validation = Rule::new("!has(self.links) || self.links.all(l, l.between.all(n, has(self.sites) && self.sites.exists(s, s.name == n)))").message("links: both ends must be names of sites of this factory; example: `links: [{between: [bissen, bettembourg]}]`"))]
#[serde(rename_all = "camelCase")]
pub struct AIFactorySpec {
    /// Kind of institution. An Antenna gives access to the machines of others and has no sites.
    #[serde(rename = "type")]
    pub type_: FactoryType,
    /// Name for people, for example `Example AI Factory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub display_name: Option<String>,
    /// The hosting entity. Informational.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    /// The sites, at most 64. A site leaves the list only from stage Proposed or Decommissioned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub sites: Vec<Site>,
    /// Pairs of sites between which a grant's own addresses may talk to each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub links: Vec<Link>,
    /// Rules for all grants of this factory's pools.
    #[serde(default)]
    pub policy: FactoryPolicy,
}

/// Kind of institution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FactoryType {
    /// An AI factory with machines of its own.
    Factory,
    /// A gigafactory.
    Gigafactory,
    /// Access without a machine.
    Antenna,
    /// A value that this release does not know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// The hosting entity. Informational.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// Name, for example `Example HPC Centre`.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// ISO 3166-1 alpha-2 code, for example `LU`.
    #[schemars(regex(pattern = r"^[A-Z]{2}$"), length(max = 2))]
    pub country: String,
}

/// A place with machines: a Kubernetes cluster, a Slurm cluster on it, or both.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.kubernetes) || has(self.slurm)").message("a site needs at least one of `kubernetes` and `slurm`; example: `kubernetes: {push: {kubeconfigSecretRef: {name: bissen-kubeconfig}}}`"))]
#[x_kube(validation = Rule::new("!has(self.slurm) || !has(self.slurm.slinky) || has(self.kubernetes)").message("slurm.slinky: Slinky runs on the site's Kubernetes, so `kubernetes` must be set as well"))]
pub struct Site {
    /// Name, unique in the factory, for example `bissen`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 40))]
    pub name: String,
    /// Where the machines stand, ISO 3166-1 alpha-2, for example `LU`. Decides on residency.
    #[schemars(regex(pattern = r"^[A-Z]{2}$"), length(max = 2))]
    pub country: String,
    /// How far the site is. Grants bind in Production, those with `earlyAccess` also in EarlyAccess.
    pub stage: Stage,
    /// How the site's Kubernetes is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<SiteKubernetes>,
    /// The site's Slurm cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm: Option<SiteSlurm>,
    /// Address ranges and services of the site, which network policies need.
    #[serde(default)]
    pub network: SiteNetwork,
    /// What members are told. Informational for the operator.
    #[serde(default)]
    pub access: SiteAccess,
}

/// How far a site or pool is, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Stage {
    /// Decided, nothing there yet.
    Proposed,
    /// Machines have arrived.
    EquipmentReceived,
    /// Machines are installed.
    Installed,
    /// Network links are validated.
    LinksValidated,
    /// Grants with `earlyAccess` may bind.
    EarlyAccess,
    /// Grants may bind.
    Production,
    /// No new grants; existing ones stay.
    Draining,
    /// Out of service.
    Decommissioned,
    /// A value that this release does not know: allows nothing new.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

impl Stage {
    /// Whether grants that are not bound yet may bind, where the lower of pool and site decides.
    pub fn admits(self, early_access: bool) -> bool {
        match self {
            Stage::Production => true,
            Stage::EarlyAccess => early_access,
            Stage::Proposed
            | Stage::EquipmentReceived
            | Stage::Installed
            | Stage::LinksValidated
            | Stage::Draining
            | Stage::Decommissioned
            | Stage::Unknown => false,
        }
    }
}

/// Exactly one of push, pull and local.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("[has(self.push), has(self.pull), has(self.local)].filter(x, x).size() == 1").message("kubernetes: exactly one of `push`, `pull` and `local` must be set; example: `kubernetes: {push: {kubeconfigSecretRef: {name: bissen-kubeconfig}}}`"))]
pub struct SiteKubernetes {
    /// The hub holds a credential for the site and connects to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<Push>,
    /// An agent on the site connects to the hub. Accepted, and reported as `PullNotServed` by this release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull: Option<Pull>,
    /// The hub's own cluster is the site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<Local>,
}

/// The hub connects to the site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Push {
    /// Secret in the AIFactory's namespace that holds a kubeconfig for the site's ServiceAccount `aifactory-site`.
    pub kubeconfig_secret_ref: SecretKeyRef,
}

/// An agent connects to the hub.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pull {}

/// The hub is the site.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Local {}

/// A key of a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyRef {
    /// Name of the Secret, for example `bissen-kubeconfig`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"), length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret, for example `kubeconfig`.
    #[serde(default = "default_key")]
    #[schemars(regex(pattern = r"^[-._a-zA-Z0-9]+$"), length(min = 1, max = 253))]
    pub key: String,
}

fn default_key() -> String {
    "kubeconfig".to_owned()
}

/// An object of the same namespace, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct LocalRef {
    /// Its name, for example `example`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"), length(min = 1, max = 63))]
    pub name: String,
}

/// Address ranges and services of a site.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SiteNetwork {
    /// Ranges of Pods, for example `10.42.0.0/16`. Tenants' egress never opens them.
    #[serde(default, rename = "podCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 3, max = 43)))]
    #[x_kube(validation = Rule::new(crate::schema::NO_HOST_BITS).message("network.podCIDRs: each must be a CIDR without host bits; examples: `10.42.0.0/16`, `2001:db8::/48`"))]
    #[x_kube(validation = Rule::new(crate::schema::none_reserved()).message("network.podCIDRs: must not lie inside link-local, loopback, multicast or metadata ranges such as 169.254.0.0/16 and fe80::/10; example: `10.42.0.0/16`"))]
    pub pod_cidrs: Vec<String>,
    /// Ranges of Services, for example `10.43.0.0/16`. Tenants' egress never opens them.
    #[serde(default, rename = "serviceCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 3, max = 43)))]
    #[x_kube(validation = Rule::new(crate::schema::NO_HOST_BITS).message("network.serviceCIDRs: each must be a CIDR without host bits; examples: `10.42.0.0/16`, `2001:db8::/48`"))]
    #[x_kube(validation = Rule::new(crate::schema::none_reserved()).message("network.serviceCIDRs: must not lie inside link-local, loopback, multicast or metadata ranges such as 169.254.0.0/16 and fe80::/10; example: `10.42.0.0/16`"))]
    pub service_cidrs: Vec<String>,
    /// Ranges of nodes, for example `10.1.0.0/16`. Tenants' egress never opens them.
    #[serde(default, rename = "nodeCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 3, max = 43)))]
    #[x_kube(validation = Rule::new(crate::schema::NO_HOST_BITS).message("network.nodeCIDRs: each must be a CIDR without host bits; examples: `10.42.0.0/16`, `2001:db8::/48`"))]
    #[x_kube(validation = Rule::new(crate::schema::none_reserved()).message("network.nodeCIDRs: must not lie inside link-local, loopback, multicast or metadata ranges such as 169.254.0.0/16 and fe80::/10; example: `10.42.0.0/16`"))]
    pub node_cidrs: Vec<String>,
    /// Ranges of management networks, for example `10.0.0.0/16`. Tenants' egress never opens them.
    #[serde(default, rename = "managementCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 3, max = 43)))]
    #[x_kube(validation = Rule::new(crate::schema::NO_HOST_BITS).message("network.managementCIDRs: each must be a CIDR without host bits; examples: `10.42.0.0/16`, `2001:db8::/48`"))]
    #[x_kube(validation = Rule::new(crate::schema::none_reserved()).message("network.managementCIDRs: must not lie inside link-local, loopback, multicast or metadata ranges such as 169.254.0.0/16 and fe80::/10; example: `10.42.0.0/16`"))]
    pub management_cidrs: Vec<String>,
    /// Where Pods resolve names.
    #[serde(default)]
    pub dns: Dns,
    /// What enforces NetworkPolicies; left out: not said. Informational, since no API tells it.
    #[serde(default, skip_serializing_if = "NetworkImplementation::is_unknown")]
    pub implementation: NetworkImplementation,
    /// Services of the site that grants may name in `network.egress`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub services: Vec<NetworkService>,
}

/// Where Pods resolve names: Pods with these labels in this namespace, port 53.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dns {
    /// Namespace of the DNS Pods, for example `kube-system`.
    #[serde(default = "default_dns_namespace")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 63))]
    pub namespace: String,
    /// Value of their label `k8s-app`, for example `kube-dns`.
    #[serde(default = "default_dns_app")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 63))]
    pub app: String,
    /// Addresses of node-local resolvers as CIDRs, for example `169.254.20.10/32`; the only link-local addresses that are ever opened, on port 53.
    #[serde(default, rename = "nodeLocalCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(min = 3, max = 43)))]
    #[x_kube(validation = Rule::new(crate::schema::NO_HOST_BITS).message("network.dns.nodeLocalCIDRs: each must be a CIDR without host bits; example: `169.254.20.10/32`"))]
    pub node_local_cidrs: Vec<String>,
}

impl Default for Dns {
    fn default() -> Self {
        Self { namespace: default_dns_namespace(), app: default_dns_app(), node_local_cidrs: Vec::new() }
    }
}

fn default_dns_namespace() -> String {
    "kube-system".to_owned()
}

fn default_dns_app() -> String {
    "kube-dns".to_owned()
}

/// What enforces NetworkPolicies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NetworkImplementation {
    /// Cilium.
    Cilium,
    /// Calico.
    Calico,
    /// OVN-Kubernetes.
    OVNKubernetes,
    /// Kube-OVN.
    KubeOVN,
    /// Antrea.
    Antrea,
    /// Something else that enforces NetworkPolicy v1.
    Other,
    /// Nothing enforces them: grants are told so.
    None,
    /// Not said, or a value that this release does not know.
    #[default]
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

impl NetworkImplementation {
    fn is_unknown(&self) -> bool {
        *self == Self::Unknown
    }
}

/// A service of the site that grants may name.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkService {
    /// Name, for example `s3`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(min = 1, max = 40))]
    pub name: String,
    /// Where it is, for example `10.1.200.0/28`. May lie inside a protected range, since the factory names it.
    #[schemars(length(min = 1, max = 8), inner(length(min = 3, max = 43)))]
    #[x_kube(validation = Rule::new(crate::schema::NO_HOST_BITS).message("network.services[].cidrs: each must be a CIDR without host bits; examples: `10.42.0.0/16`, `2001:db8::/48`"))]
    #[x_kube(validation = Rule::new(crate::schema::none_reserved()).message("network.services[].cidrs: must not lie inside link-local, loopback, multicast or metadata ranges such as 169.254.0.0/16 and fe80::/10; example: `10.42.0.0/16`"))]
    pub cidrs: Vec<String>,
    /// Its ports.
    #[schemars(length(min = 1, max = 16))]
    pub ports: Vec<NetworkPort>,
}

/// A port or a range of ports.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.endPort) || self.endPort >= self.port").message("endPort must not be lower than port; example: `{port: 30000, endPort: 30100}`"))]
pub struct NetworkPort {
    /// Port, 1 to 65535, for example 443.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Last port of a range, 1 to 65535 and at least `port`, for example 30100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub end_port: Option<i32>,
    /// Transport protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// TCP.
    #[default]
    TCP,
    /// UDP.
    UDP,
    /// SCTP.
    SCTP,
}

impl Protocol {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::TCP => "TCP",
            Protocol::UDP => "UDP",
            Protocol::SCTP => "SCTP",
        }
    }
}

/// What members are told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteAccess {
    /// URL of the API server as members reach it, for example `https://api.bissen.example.eu:6443`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub api_server: Option<String>,
    /// Login hosts, for example `login1.bissen.example.eu`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 253)))]
    pub login_hosts: Vec<String>,
    /// Documentation for members, for example `https://docs.example.eu`.
    #[serde(default, rename = "docsURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub docs_url: Option<String>,
    /// Where members get help, for example `https://help.example.eu`.
    #[serde(default, rename = "supportURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub support_url: Option<String>,
}

/// A pair of sites.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("self.between.size() != 2 || self.between[0] != self.between[1]").message("links: a link is between two different sites; example: `between: [bissen, bettembourg]`"))]
pub struct Link {
    /// The two sites' names, for example `[bissen, bettembourg]`.
    #[schemars(length(min = 2, max = 2), inner(length(min = 1, max = 40)))]
    pub between: Vec<String>,
}

/// Rules for all grants of a factory's pools.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FactoryPolicy {
    /// Prefixes of which a member's subject must have one, for example `oidc:`. Empty: any subject that is not of the system.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 63)))]
    pub subject_prefixes: Vec<String>,
    /// Pod Security level of grants' namespaces.
    #[serde(default)]
    pub pod_security: PodSecurity,
    /// What happens to objects of ours whose owner is gone.
    #[serde(default)]
    pub orphans: OrphanPolicy,
}

/// Pod Security level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PodSecurity {
    /// Prevents known privilege escalations.
    Baseline,
    /// The strictest level, and what unknown values mean.
    #[default]
    #[serde(other)]
    Restricted,
}

impl PodSecurity {
    /// As the namespace label says it.
    pub fn as_str(self) -> &'static str {
        match self {
            PodSecurity::Restricted => "restricted",
            PodSecurity::Baseline => "baseline",
        }
    }
}

/// What happens to objects of ours whose owner is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OrphanPolicy {
    /// Bindings go and quotas become 0.
    Lock,
    /// They are deleted.
    Delete,
    /// They are counted and named; also what unknown values mean.
    #[default]
    #[serde(other)]
    Report,
}
