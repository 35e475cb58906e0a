//! Role bindings in a tenant's namespace, as they are found there: whom they bind, and whether that is more than reading.

use serde_json::Value;

use aifactory_api::grant::SubjectKind;
use aifactory_api::labels;

use crate::model::intent::MemberIntent;

/// Roles that members are bound to, by the word in the binding's name: `aif-<word>-<10 hex>` is to `aifactory-<word>`.
const ROLES: [&str; 4] = ["lead", "member", "reader", "keeper"];
/// Roles that only allow reading, which members keep after the end: ours for readers, and the one that is built into Kubernetes.
const READING: [&str; 2] = ["aifactory-reader", "view"];

/// What is kept of a role binding that is not ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BindingView {
    /// Kind of the role.
    pub role_kind: String,
    /// Name of the role.
    pub role: String,
    /// Who is bound.
    pub subjects: Vec<Subject>,
    /// The binding that takes its place when work with accelerators has ended; only on ours.
    pub becomes: Option<String>,
}

/// Somebody who is bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// `User`, `Group` or `ServiceAccount`.
    pub kind: String,
    /// The name.
    pub name: String,
    /// Namespace of a ServiceAccount.
    pub namespace: String,
}

impl BindingView {
    /// Reduces a RoleBinding.
    pub fn from_json(object: &Value) -> Self {
        let text = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let subjects = object.get("subjects").and_then(Value::as_array).into_iter().flatten();
        let becomes = object.pointer("/metadata/annotations").and_then(|annotations| annotations.get(labels::BECOMES)).and_then(Value::as_str);
        Self {
            becomes: becomes.filter(|name| role_in(name) == Some("keeper")).map(str::to_owned),
            role_kind: text(object, "/roleRef/kind"),
            role: text(object, "/roleRef/name"),
            subjects: subjects
                .map(|subject| Subject { kind: text(subject, "/kind"), name: text(subject, "/name"), namespace: text(subject, "/namespace") })
                .collect(),
        }
    }

    /// Whether the binding refers to the role that its name stands for. True for every name that is not of our form.
    pub fn is_as_named(&self, name: &str) -> bool {
        role_in(name).is_none_or(|word| self.role_kind == "ClusterRole" && self.role.strip_prefix("aifactory-") == Some(word))
    }

    /// Whether it lets its subjects do more than read.
    pub fn is_more_than_reading(&self) -> bool {
        self.role_kind != "ClusterRole" || !READING.contains(&self.role.as_str())
    }

    /// Whether it binds this member, as far as a site can tell. Only the site's login knows a person's groups, except for the groups that every user
    /// is in.
    pub fn binds(&self, member: &MemberIntent) -> bool {
        let Some(known) = &member.subject else { return false };
        self.subjects.iter().any(|subject| match subject.kind.as_str() {
            "Group" => {
                (known.kind == SubjectKind::Group && subject.name == known.name)
                    || ["system:authenticated", "system:unauthenticated"].contains(&subject.name.as_str())
                    || (known.kind == SubjectKind::User && groups_of(&known.name).contains(&subject.name))
            }
            "User" => known.kind == SubjectKind::User && (subject.name == known.name || subject.name == "system:anonymous"),
            "ServiceAccount" => {
                known.kind == SubjectKind::User && known.name == format!("system:serviceaccount:{}:{}", subject.namespace, subject.name)
            }
            _ => false,
        })
    }
}

/// The groups of a ServiceAccount that is written as a user.
fn groups_of(user: &str) -> Vec<String> {
    let Some((namespace, _)) = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) else { return Vec::new() };
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

/// Whether a role binding of this name can only be ours.
pub fn has_our_name(name: &str) -> bool {
    role_in(name).is_some()
}

/// Whether a role binding of ours with this name lets its member work: neither a reader's nor a keeper's.
pub fn lets_work(name: &str) -> bool {
    !matches!(role_in(name), Some("reader" | "keeper"))
}

fn role_in(name: &str) -> Option<&str> {
    let (word, hash) = name.strip_prefix(labels::PREFIX)?.rsplit_once('-')?;
    let hexadecimal = hash.len() == 10 && hash.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    (hexadecimal && ROLES.contains(&word)).then_some(word)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use aifactory_api::grant::{KubernetesSubject, MemberRole};
    use serde_json::json;

    use super::*;

    fn member(kind: SubjectKind, name: &str) -> MemberIntent {
        let subject = Some(KubernetesSubject { kind, name: name.to_owned() });
        MemberIntent { id: "p-1".to_owned(), role: MemberRole::Member, subject, slurm_user: None }
    }

    fn binding(role: &str, subjects: Value) -> BindingView {
        BindingView::from_json(&json!({"roleRef": {"kind": "ClusterRole", "name": role}, "subjects": subjects}))
    }

    #[test]
    fn a_member_is_found_by_name_and_by_the_groups_in_which_everybody_is() {
        let user = member(SubjectKind::User, "oidc:1");
        let account = member(SubjectKind::User, "system:serviceaccount:ci:runner");
        let group = member(SubjectKind::Group, "oidc:course");
        for (subject, [bound, account_bound, group_bound]) in [
            (json!({"kind": "User", "name": "oidc:1"}), [true, false, false]),
            (json!({"kind": "User", "name": "oidc:2"}), [false, false, false]),
            (json!({"kind": "Group", "name": "oidc:course"}), [false, false, true]),
            (json!({"kind": "Group", "name": "system:authenticated"}), [true, true, true]),
            (json!({"kind": "Group", "name": "system:unauthenticated"}), [true, true, true]),
            (json!({"kind": "Group", "name": "system:serviceaccounts"}), [false, true, false]),
            (json!({"kind": "Group", "name": "system:serviceaccounts:ci"}), [false, true, false]),
            (json!({"kind": "Group", "name": "system:serviceaccounts:other"}), [false, false, false]),
            (json!({"kind": "ServiceAccount", "name": "runner", "namespace": "ci"}), [false, true, false]),
        ] {
            let found = binding("edit", json!([subject]));
            assert_eq!([found.binds(&user), found.binds(&account), found.binds(&group)], [bound, account_bound, group_bound], "{subject}");
        }
        assert!(!binding("edit", json!([])).binds(&user));
    }

    #[test]
    fn reading_is_the_role_of_readers_and_view() {
        assert!(!binding("view", json!([])).is_more_than_reading() && !binding("aifactory-reader", json!([])).is_more_than_reading());
        assert!(binding("edit", json!([])).is_more_than_reading() && binding("aifactory-keeper", json!([])).is_more_than_reading());
        let own = BindingView { role_kind: "Role".to_owned(), role: "view".to_owned(), ..BindingView::default() };
        assert!(own.is_more_than_reading(), "a Role named so may hold anything");
    }

    #[test]
    fn a_name_of_ours_contains_the_role() {
        assert!(has_our_name("aif-lead-0123456789") && has_our_name("aif-keeper-abcdefabcd"));
        for name in ["aif-lead-012345678", "aif-owner-0123456789", "lead-0123456789", "aif-lead-012345678X", "debug"] {
            assert!(!has_our_name(name), "{name}");
        }
        assert!(binding("aifactory-lead", json!([])).is_as_named("aif-lead-0123456789"));
        assert!(!binding("edit", json!([])).is_as_named("aif-reader-0123456789"));
        assert!(binding("edit", json!([])).is_as_named("debug"));
    }
}
