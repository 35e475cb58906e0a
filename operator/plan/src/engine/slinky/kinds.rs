//! The kinds of slurm-operator, and the keys that it is given.

use crate::engine::uses::{Care, KindUse, Place};
use crate::model::kind::{KindInfo, ObjectKind, Removal};

const GROUP: &str = "slinky.slurm.net";
const VERSION: &str = "v1beta1";

/// A kind whose objects go when no partition needs them any more.
const fn of_group(kind: &'static str, plural: &'static str) -> KindInfo {
    KindInfo { removal: Removal::Planned, ..KindInfo::new(GROUP, VERSION, kind, plural) }
}

impl ObjectKind {
    /// A partition and its nodes.
    pub const NODE_SET: ObjectKind = ObjectKind::new(&const { of_group("NodeSet", "nodesets") });
    /// A slurmctld.
    pub const CONTROLLER: ObjectKind = ObjectKind::new(&const { of_group("Controller", "controllers") });
    /// A slurmdbd. It is kept, since the usage that Slurm has counted would be lost with it.
    pub const ACCOUNTING: ObjectKind = ObjectKind::new(&const { KindInfo { removal: Removal::Never, ..of_group("Accounting", "accountings") } });
    /// A slurmrestd.
    pub const REST_API: ObjectKind = ObjectKind::new(&const { of_group("RestApi", "restapis") });
    /// A token for it.
    pub const TOKEN: ObjectKind = ObjectKind::new(&const { of_group("Token", "tokens") });
    /// A key.
    pub const SECRET: ObjectKind = ObjectKind::new(&KindInfo { removal: Removal::Never, ..KindInfo::new("", "v1", "Secret", "secrets") });
}

const fn of_slinky(kind: ObjectKind) -> KindUse {
    KindUse { api: Some("Slinky"), ..KindUse::new(kind, Place::Anywhere) }
}

/// What Slinky's engine works with.
pub(super) const KINDS: [KindUse; 6] = [
    of_slinky(ObjectKind::NODE_SET),
    // Controllers that the site runs itself are read to find out whether budgets work.
    KindUse { care: Care::All, ..of_slinky(ObjectKind::CONTROLLER) },
    of_slinky(ObjectKind::ACCOUNTING),
    of_slinky(ObjectKind::REST_API),
    of_slinky(ObjectKind::TOKEN),
    // Keys are never watched, since only Slurm reads them.
    KindUse { care: Care::Unseen, ..KindUse::new(ObjectKind::SECRET, Place::Anywhere) },
];
