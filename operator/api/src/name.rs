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

/// `text` as part of a DNS label: lower case letters, digits and inner hyphens, at most `length` characters, never empty.
pub fn slug(text: &str, length: usize) -> String {
    let mapped: String = text.chars().take(length).map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let trimmed = mapped.trim_matches('-');
    if trimmed.is_empty() { "x".to_owned() } else { trimmed.to_owned() }
}
