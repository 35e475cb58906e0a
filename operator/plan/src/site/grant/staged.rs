//! A grant that is known whole, as engines add to it.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::grant_stages::{GrantScene, GrantStages};
use crate::engine::tenancy::Access;
use crate::model::intent::{GrantIntent, SiteIntent};
use crate::model::plan::{Action, ObservedObjects, deletes};

use super::Planner;

/// What the life cycle has decided of a grant.
pub(super) struct Decided<'a> {
    /// The site, with all accelerators that the grant has ever named.
    pub site: &'a SiteIntent,
    /// The grant, in which pools are closed whose budget is used up.
    pub grant: &'a GrantIntent,
    /// What members may do.
    pub access: Access,
    /// What the namespace says beside whose it is.
    pub annotations: &'a BTreeMap<String, String>,
    /// The resources that the namespace names already.
    pub resources: Option<&'a str>,
    /// GPUs that Pods of closed pools still hold, by pool.
    pub held: &'a BTreeMap<String, i64>,
    /// Pools whose budget is used up.
    pub used_up: &'a BTreeSet<&'a str>,
    /// Whether it is known what the factory says of networks.
    pub networks_known: bool,
}

impl Planner<'_> {
    /// The stages of the grant, as all engines fill them.
    pub(super) fn stages(&self, decided: &Decided<'_>) -> GrantStages {
        let (members, _) = self.members();
        let Decided { site, grant, access, annotations, resources, held, used_up, networks_known } = *decided;
        let scene = GrantScene {
            site,
            grant,
            namespace: &self.namespace,
            ownership: &self.ownership,
            access,
            members: &members,
            annotations,
            resources,
            held,
            used_up,
            working: self.view.accelerators_in_use,
            networks_known,
            observed: self.view.objects,
            strangers: self.view.strangers,
            served: self.view.served,
        };
        let mut stages = GrantStages::new(access);
        self.view.engines.iter().for_each(|engine| engine.grant(&scene, &mut stages));
        stages
    }

    /// The deletions of what does not go with the namespace, since it lies in none.
    pub(super) fn outside(&self) -> Vec<Action> {
        outside(self.view.objects)
    }
}

/// The deletions of those objects of a grant that do not go with its namespace.
pub(super) fn outside(objects: &ObservedObjects) -> Vec<Action> {
    let mut actions = deletes(objects, std::iter::empty(), |kind| kind.is_swept() || kind.gives_access());
    actions.retain(|action| matches!(action, Action::Delete { key, .. } if key.namespace.is_empty()));
    actions
}
