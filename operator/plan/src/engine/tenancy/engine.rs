//! Tenancy as an engine: what it adds to a grant.

use std::collections::BTreeSet;

use super::{Access, Mark, access_note, bindings, bindings_beside_work, keep_resources, limits, namespace, service_account};
use super::{kinds, stale_impostors, tokens};
use crate::engine::contract::Engine;
use crate::engine::grant_stages::{GrantScene, GrantStages};
use crate::engine::uses::KindUse;
use crate::model::object::{Object, ObjectKey};

/// A grant's namespace with its quota, limits, ServiceAccount, role bindings and the note to members.
pub struct Tenancy;

impl Engine for Tenancy {
    fn name(&self) -> &'static str {
        "tenancy"
    }

    fn kinds(&self) -> &'static [KindUse] {
        &kinds::KINDS
    }

    fn grant(&self, scene: &GrantScene<'_>, stages: &mut GrantStages) {
        let GrantScene { site, grant, namespace: name, ownership, access, .. } = *scene;
        let mark = Mark { annotations: scene.annotations.clone() };
        let mut around = namespace(site, grant, name, access, &mark, ownership);
        if grant.keep {
            keep_resources(&mut around, scene.resources);
        }
        stages.fence([around]);
        stages.fence(limits(site, grant, name, access, scene.held, ownership));
        stages.fence([service_account(name, ownership)]);
        let bindings = bindings_of(scene);
        let keys: BTreeSet<&ObjectKey> = bindings.iter().map(|binding| &binding.key).collect();
        stages.remove_access(stale_impostors(scene.strangers, &keys));
        stages.with_removal(tokens(name));
        stages.give_access(bindings);
        stages.give_access([access_note(site, grant, name, access, scene.used_up, ownership)]);
    }
}

/// A lead who may exec into a Pod could go on with work that still runs after the end. So leads are readers until that work has ended.
fn bindings_of(scene: &GrantScene<'_>) -> Vec<Object> {
    let GrantScene { members, namespace, ownership, access, observed, .. } = *scene;
    let mut wanted = if access == Access::Locked && scene.working {
        bindings_beside_work(members, namespace, ownership)
    } else {
        bindings(members, namespace, access, ownership)
    };
    if scene.grant.keep {
        wanted.retain(|binding| observed.contains_key(&binding.key));
    }
    wanted
}
