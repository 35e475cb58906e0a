//! The role that a site installs, held together with what engines work with: no more, and no less.

use std::collections::BTreeSet;

use aifactory_plan::engine;
use aifactory_plan::engine::uses::{Care, KindUse};
use serde::Deserialize;

const ROLE: &str = include_str!("../../../../charts/aifactory-site/operator-role.yaml");

#[derive(Deserialize)]
struct Role {
    kind: String,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
    verbs: Vec<String>,
}

impl Rule {
    fn covers(&self, used: &KindUse) -> bool {
        let (group, _, _, plural) = used.kind.gvk();
        let named = self.resource_names.is_empty() || used.name.is_some_and(|name| self.resource_names.iter().any(|allowed| allowed == name));
        named && self.api_groups.iter().any(|allowed| allowed == group) && self.resources.iter().any(|allowed| allowed == plural)
    }
}

/// The rules of the ClusterRoles; what is allowed in the operator's own namespace is no engine's.
fn rules() -> Vec<Rule> {
    let documents = serde_yaml::Deserializer::from_str(ROLE);
    let roles = documents.map(|document| Role::deserialize(document).unwrap());
    roles.filter(|role| role.kind == "ClusterRole").flat_map(|role| role.rules).collect()
}

fn verbs(used: &KindUse) -> BTreeSet<String> {
    rules().into_iter().filter(|rule| rule.covers(used)).flat_map(|rule| rule.verbs).collect()
}

#[test]
fn what_an_engine_works_with_the_role_allows() {
    for used in engine::ALL.kinds() {
        let verbs = verbs(used);
        let seen = ["get", "list", "watch"].iter().filter(|verb| verbs.contains(**verb)).count();
        assert_eq!(seen, if used.care == Care::Unseen { 0 } else { 3 }, "{used:?}: {verbs:?}");
        assert!(verbs.contains("create"), "{used:?}: {verbs:?}");
        assert!(verbs.contains("patch") || used.care == Care::Unseen, "{used:?}: {verbs:?}");
        assert!(verbs.contains("delete") || !used.kind.is_swept(), "{used:?}: {verbs:?}");
    }
}

#[test]
fn what_the_role_lets_be_made_an_engine_works_with() {
    for rule in rules().iter().filter(|rule| rule.verbs.iter().any(|verb| verb == "create")) {
        for resource in &rule.resources {
            let known = engine::ALL.kinds().any(|used| used.kind.info().plural == resource && rule.covers(used));
            assert!(known, "{resource} of {:?}", rule.api_groups);
        }
    }
}

#[test]
fn no_two_engines_work_with_one_kind() {
    let kinds: Vec<_> = engine::ALL.kinds().map(|used| (used.kind.info().group, used.kind.info().plural)).collect();
    assert_eq!(kinds.iter().collect::<BTreeSet<_>>().len(), kinds.len(), "{kinds:?}");
}
