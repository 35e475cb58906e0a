//! Names that are derived: one constructor each, legal and collision-free for any legal input.

use sha2::{Digest, Sha256};

use crate::labels::PREFIX;
use crate::reference::OwnerRef;

/// The first `length` (at most 64) hex digits of the SHA-256 of `parts`, each preceded by its length so that no two lists of parts
/// hash alike by concatenation.
pub fn digest(parts: &[&str], length: usize) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let mut text = String::with_capacity(64);
    for byte in hasher.finalize() {
        text.push_str(&format!("{byte:02x}"));
    }
    text.truncate(length);
    text
}

/// Value of the label `aifactory.dev/owner`: 16 hex digits.
pub fn owner_label(hub: &str, owner: &OwnerRef) -> String {
    digest(&[hub, owner.kind.as_str(), &owner.namespace, &owner.name], 16)
}

/// The namespace of a grant on a site: `aif-<name, at most 40>-<10 hex>`, at most 55 characters.
pub fn tenant_namespace(hub: &str, grant: &OwnerRef) -> String {
    let hash = digest(&[hub, grant.kind.as_str(), &grant.namespace, &grant.name], 10);
    format!("{PREFIX}{}-{hash}", slug(&grant.name, 40))
}

/// The RoleBinding of one member in one role: `aif-<role>-<10 hex>`. The member's id is hashed, since ids are pseudonyms of persons.
pub fn member_binding(role: &str, member: &str, subject: &str) -> String {
    format!("{PREFIX}{role}-{}", digest(&[role, member, subject], 10))
}

/// One Slurm cluster as one site of one factory of one hub has it. Accounts and QOS are the database's, which several clusters may share: what is
/// ours carries all of this in its name, so that no two sites ever have an account or a QOS in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlurmScope {
    /// Id of the hub.
    pub hub: String,
    /// The factory.
    pub factory: OwnerRef,
    /// Name of the site.
    pub site: String,
    /// Slurm's ClusterName.
    pub cluster: String,
}

impl SlurmScope {
    /// The account of a grant: `grant-<name, at most 18>-<cluster, at most 12>-<10 hex>`. The fixed word and the hyphens keep Slurm's REST, which
    /// re-types what looks like a number or a truth value, from reading anything else in it.
    pub fn account(&self, grant: &OwnerRef) -> String {
        format!("{SLURM_PREFIX}{}-{}-{}", slug(&grant.name, 18), slug(&self.cluster, 12), self.hash("account", grant, ""))
    }

    /// The QOS of one entry of a grant: `grant-<name, at most 10>-<entry, at most 10>-<cluster, at most 12>-<10 hex>`.
    pub fn qos(&self, grant: &OwnerRef, entry: &str) -> String {
        format!("{}{}-{}-{}", slurm_qos_prefix(grant), slug(entry, 10), slug(&self.cluster, 12), self.hash("qos", grant, entry))
    }

    fn hash(&self, what: &str, grant: &OwnerRef, entry: &str) -> String {
        let Self { hub, factory, site, cluster } = self;
        let owners = [factory, grant].map(|owner| [owner.kind.as_str(), &owner.namespace, &owner.name]);
        let [[_, factory_namespace, factory_name], [kind, namespace, name]] = owners;
        digest(&[what, hub, factory_namespace, factory_name, site, cluster, kind, namespace, name, entry], 10)
    }
}

/// What the names of all QOS of a grant begin with; others' may as well.
pub fn slurm_qos_prefix(grant: &OwnerRef) -> String {
    format!("{SLURM_PREFIX}{}-", slug(&grant.name, 10))
}

/// The account whose description is the claim on a Slurm cluster: `aifactory-claim-<cluster, at most 20>-<10 hex>`. It depends on nothing but the
/// cluster, so that every factory of every hub looks at the same one.
pub fn slurm_claim(cluster: &str) -> String {
    format!("{SLURM_CLAIM_PREFIX}{}-{}", slug(cluster, 20), digest(&[cluster], 10))
}

/// What the name of every account and QOS of a grant in Slurm begins with.
pub const SLURM_PREFIX: &str = "grant-";

/// What the name of every claim on a Slurm cluster begins with.
pub const SLURM_CLAIM_PREFIX: &str = "aifactory-claim-";

/// `text` as part of a DNS label: lower case letters, digits and inner hyphens, at most `length` characters, never empty.
fn slug(text: &str, length: usize) -> String {
    let mapped: String = text.chars().take(length).map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let trimmed = mapped.trim_matches('-');
    if trimmed.is_empty() { "x".to_owned() } else { trimmed.to_owned() }
}
