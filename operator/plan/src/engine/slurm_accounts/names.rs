//! Names of ours in Slurm: one constructor each, legal and without collisions for any legal input.

use aifactory_api::OwnerRef;
use aifactory_api::name::{digest, slug};

use crate::model::id::{AccountName, ClusterName, HubId, QosName};

/// What the name of every account and QOS of a grant begins with.
pub const SLURM_PREFIX: &str = "grant-";

/// What the name of every claim on a Slurm cluster begins with.
pub const SLURM_CLAIM_PREFIX: &str = "aifactory-claim-";

/// One Slurm cluster as one site of one factory of one hub has it. Accounts and QOS are the database's, which several clusters may share: what is
/// ours carries all of this in its name, so that no two sites ever have an account or a QOS in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlurmScope {
    /// Id of the hub.
    pub hub: HubId,
    /// The factory.
    pub factory: OwnerRef,
    /// Name of the site.
    pub site: String,
    /// Slurm's ClusterName.
    pub cluster: ClusterName,
}

impl SlurmScope {
    /// The account of a grant: `grant-<name, at most 18>-<cluster, at most 12>-<10 hex>`. The fixed word and the hyphens keep Slurm's REST, which
    /// re-types what looks like a number or a truth value, from reading anything else in it.
    pub fn account(&self, grant: &OwnerRef) -> AccountName {
        let (name, cluster) = (slug(&grant.name, 18), slug(self.cluster.as_str(), 12));
        AccountName::new(format!("{SLURM_PREFIX}{name}-{cluster}-{}", self.hash("account", grant, "")))
    }

    /// The QOS of one entry of a grant: `grant-<name, at most 10>-<entry, at most 10>-<cluster, at most 12>-<10 hex>`.
    pub fn qos(&self, grant: &OwnerRef, entry: &str) -> QosName {
        let (prefix, cluster) = (qos_prefix(grant), slug(self.cluster.as_str(), 12));
        QosName::new(format!("{prefix}{}-{cluster}-{}", slug(entry, 10), self.hash("qos", grant, entry)))
    }

    /// The entry that the name of a QOS of this grant holds; `None`: it is not of this grant, or the entry's name was shortened.
    pub(super) fn entry_in(&self, grant: &OwnerRef, name: &QosName) -> Option<String> {
        let (rest, _) = name.as_str().strip_prefix(&qos_prefix(grant))?.rsplit_once('-')?;
        let entry = rest.strip_suffix(&format!("-{}", slug(self.cluster.as_str(), 12)))?;
        (self.qos(grant, entry) == *name).then(|| entry.to_owned())
    }

    fn hash(&self, what: &str, grant: &OwnerRef, entry: &str) -> String {
        let Self { hub, factory, site, cluster } = self;
        let owners = [factory, grant].map(|owner| [owner.kind.as_str(), &owner.namespace, &owner.name]);
        let [[_, factory_namespace, factory_name], [kind, namespace, name]] = owners;
        digest(&[what, hub.as_str(), factory_namespace, factory_name, site, cluster.as_str(), kind, namespace, name, entry], 10)
    }
}

/// What the names of all QOS of a grant begin with; others' may as well.
pub(super) fn qos_prefix(grant: &OwnerRef) -> String {
    format!("{SLURM_PREFIX}{}-", slug(&grant.name, 10))
}

/// The account whose description is the claim on a Slurm cluster: `aifactory-claim-<cluster, at most 20>-<10 hex>`. It depends on nothing but the
/// cluster, so that every factory of every hub looks at the same one.
pub fn claim_account(cluster: &ClusterName) -> AccountName {
    let cluster = cluster.as_str();
    AccountName::new(format!("{SLURM_CLAIM_PREFIX}{}-{}", slug(cluster, 20), digest(&[cluster], 10)))
}
