//! What may happen: edits on the hub, hands at sites, disturbances, and time. A list of these is a whole case: nothing else is random, so that a
//! list can be shortened, and pasted into a test.

use super::cast::{GRANTS, MEMBERS, POOLS, SITES};
use super::clock::{DAY, HOUR, Ms, Random, SECOND};

/// One operation. Grants, pools, members and sites are meant by their number in the cast; what does not apply changes nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// Time passes, and everything that is due happens.
    Wait(Ms),
    /// Time passes, and nothing happens until it has: the machine was asleep.
    Sleep(Ms),
    /// Waits until a moment before or after a grant's `notBefore` (false) or `notAfter` (true).
    Edge(usize, bool, Ms),
    /// All disturbances end, everything comes to rest, and all oracles are asked.
    Settle,

    Create(usize, usize),
    Delete(usize, bool),
    Role(usize, usize, &'static str),
    Leave(usize, usize),
    Suspend(usize, usize, bool),
    State(usize, &'static str),
    NotBefore(usize, Ms),
    NotAfter(usize, Ms),
    /// Whether a grant names h100, a100, and a pool that does not exist.
    Pools(usize, bool, bool, bool),
    /// Whether a grant names the partition.
    Partition(usize, bool),
    /// A grant's first entry names one site, none, or one that does not exist.
    Sites(usize, Option<usize>),
    Hours(usize, i64),
    Gpus(usize, i64),
    /// Cancel, grace in seconds, retention in seconds, Delete.
    Expiry(usize, bool, i64, i64, bool),
    Residency(usize, &'static str),
    Early(usize, bool),
    Adopt(usize, bool),

    Stage(usize, &'static str),
    RemoveSite(usize),
    /// The status of the factory is lost, and a site leaves it in the same moment.
    Forced(usize),
    AddSite(usize),
    /// The factory names the REST of the site's Slurm, or does not.
    Rest(bool),
    Prefixes(bool),
    Orphans(&'static str),
    Country(usize, &'static str),
    Abandon(usize, bool),
    DeleteFactory,
    CreateFactory,

    PlaceAt(usize, usize, &'static str),
    TakeFrom(usize, usize),
    Count(usize, usize, i32),
    PoolStage(usize, &'static str),
    Consumers(usize, bool),
    DeletePool(usize),
    CreatePool(usize),

    /// The status of a resource (kind, number) is lost, as `kubectl replace --force` or a restore without status does it.
    LoseStatus(usize, usize),
    /// A resource (kind, number) can not be decoded, or again can.
    Spoil(usize, usize, bool),

    /// Hands at a site (first number): the object of this number in a grant's namespace.
    DeleteObject(usize, usize, usize),
    EditObject(usize, usize, usize),
    Unlabel(usize, usize, usize),
    Relabel(usize, usize),
    UnlabelNamespace(usize, usize),
    /// Somebody else's binding, for a member or for another.
    Foreign(usize, usize, Option<usize>),
    DeleteNamespace(usize, usize),
    NodeGoes(usize, usize),
    NodeComes(usize, usize),
    Offer(usize, usize, bool),
    Relabelled(usize, usize, usize),
    Paused(usize, bool),
    KeepNamespaces(usize, bool),
    RefuseGrant(usize, Option<usize>),
    RefuseMember(usize, Option<usize>),

    /// Requests to the site and its answers are lost.
    Cut(usize),
    /// Requests reach the site, and its answers are lost.
    Mute(usize),
    Heal(usize),
    /// All watches of the site lag so long; one of them (by number) twice as long.
    Lag(usize, Ms, usize),
    /// Each write at a site takes so long.
    Slow(usize, Ms),
    /// The actions of one step arrive in the other order.
    Reversed(usize, bool),
    HubLag(Ms),
    /// The operator is killed, and starts again after so long.
    Restart(Ms),
    SaveSite(usize),
    RestoreSite(usize),
    SaveHub,
    RestoreHub,
}

/// What kinds of things may happen in a case.
#[derive(Clone, Copy, Debug, Default)]
pub struct Profile {
    /// Cuts, lags, kills, sleep.
    pub faults: bool,
    /// Hands at sites, beside nodes and policies.
    pub hands: bool,
    /// Sites and hub set back to snapshots, status lost.
    pub setbacks: bool,
    /// Sites leave the factory, the factory goes, resources can not be decoded, sites are given up.
    pub structure: bool,
}

pub const WHOLE: Profile = Profile { faults: true, hands: true, setbacks: true, structure: true };
pub const CALM: Profile = Profile { faults: false, hands: false, setbacks: false, structure: false };

const RETENTIONS: [i64; 4] = [0, 60, 24 * 3600, 720 * 3600];

fn grant(random: &mut Random) -> usize {
    // One grant at the centre, so that what happens meets.
    if random.one_in(2) { 0 } else { random.below(GRANTS.len()) }
}

/// A case for a seed.
pub fn case(seed: u64, profile: Profile, length: usize) -> Vec<Op> {
    let mut random = Random::new(seed);
    let mut ops = Vec::new();
    for index in 0..GRANTS.len() {
        if index == 0 || random.one_in(2) {
            ops.push(Op::Create(index, 0));
            if random.one_in(3) {
                ops.push(Op::Partition(index, true));
            }
        }
    }
    ops.push(Op::Wait(5 * SECOND));
    while ops.len() < length {
        for op in if random.one_in(6) { story(&mut random, profile) } else { vec![draw(&mut random, profile)] } {
            ops.push(op);
            if random.one_in(3) {
                ops.push(Op::Wait(random.pick(&[1, 3, 10, 100, 1000, 20 * SECOND])));
            }
        }
        if random.one_in(2) {
            ops.push(Op::Wait(random.pick(&[1, 3, 10, 30, 100, 300, 1000, 3000, 20 * SECOND, HOUR])));
        }
        if random.one_in(14) {
            ops.push(Op::Settle);
        }
    }
    ops.push(Op::Settle);
    ops
}

/// Operations that belong together, which chance alone would seldom bring.
fn story(random: &mut Random, profile: Profile) -> Vec<Op> {
    let (index, pool, site) = (grant(random), random.below(POOLS.len()), random.below(SITES.len()));
    let end = random.pick(&[Op::State(index, "Revoked"), Op::Delete(index, true), Op::NotAfter(index, SECOND), Op::Pools(index, false, true, false)]);
    match random.below(9) {
        0 => vec![Op::PlaceAt(pool, site, "Draining"), Op::TakeFrom(pool, site), Op::PlaceAt(pool, site, "Active")],
        1 => vec![Op::Delete(index, true), Op::Create(index, random.below(2)), Op::Adopt(index, random.one_in(2))],
        2 => vec![end, Op::Edge(index, true, 1), Op::NotAfter(index, 90 * DAY), Op::State(index, "Active")],
        // The API server accepts the removal of a site that holds something only where status does not show that.
        3 if profile.structure && profile.setbacks => {
            vec![Op::Stage(site, "Decommissioned"), Op::Forced(site), end, Op::AddSite(site)]
        }
        3 if profile.structure => vec![Op::Stage(site, "Decommissioned"), end, Op::Wait(20 * SECOND), Op::RemoveSite(site), Op::AddSite(site)],
        4 if profile.structure => vec![Op::Cut(site), Op::Abandon(site, true), end, Op::Heal(site), Op::Abandon(site, false)],
        5 if profile.faults => vec![Op::Cut(site), end, Op::Restart(SECOND), Op::Heal(site)],
        6 if profile.faults => vec![Op::Slow(site, 4000), end, Op::Restart(SECOND), Op::Slow(site, 1)],
        7 if profile.setbacks => vec![Op::SaveSite(site), end, Op::RestoreSite(site)],
        8 if profile.setbacks => vec![Op::SaveHub, end, Op::Wait(20 * SECOND), Op::RestoreHub],
        _ => vec![end],
    }
}

fn draw(random: &mut Random, profile: Profile) -> Op {
    loop {
        let (allowed, make): (bool, fn(&mut Random) -> Op) = match random.below(22) {
            0..8 => (true, spec_of_grant),
            8..10 => (true, life_of_grant),
            10..12 => (true, spec_of_pool),
            12 => (true, spec_of_factory),
            13 => (true, nodes_and_policy),
            14..16 => (profile.hands, hands),
            16..20 => (profile.faults, faults),
            20 => (profile.setbacks, setbacks),
            _ => (profile.structure, structure),
        };
        if allowed {
            return make(random);
        }
    }
}

fn life_of_grant(random: &mut Random) -> Op {
    let index = grant(random);
    match random.below(8) {
        0..4 => Op::Create(index, random.pick(&[0, 0, 0, 1])),
        4..7 => Op::Delete(index, !random.one_in(4)),
        _ => Op::Adopt(index, random.one_in(2)),
    }
}

fn spec_of_grant(random: &mut Random) -> Op {
    let index = grant(random);
    let member = random.below(MEMBERS);
    match random.below(26) {
        24..26 => Op::Partition(index, !random.one_in(3)),
        0..3 => Op::Role(index, member, random.pick(&["Lead", "Member", "Reader"])),
        3..5 => Op::Leave(index, member),
        5..8 => Op::Suspend(index, member, !random.one_in(3)),
        8..13 => Op::State(index, random.pick(&["Active", "Active", "Active", "Paused", "Revoked", "Revoked"])),
        13 => Op::NotBefore(index, random.pick(&[-HOUR, -1, 1, SECOND, 60 * SECOND, DAY])),
        14..16 => Op::NotAfter(index, random.pick(&[-400 * DAY, -DAY, -1, 1, SECOND, 30 * SECOND, HOUR, 90 * DAY, 90 * DAY])),
        16..18 => Op::Pools(index, !random.one_in(3), random.one_in(2), random.one_in(3)),
        18 => Op::Sites(index, random.pick(&[None, Some(0), Some(1), Some(SITES.len())])),
        19 => Op::Hours(index, random.pick(&[1, 10, 100, 1000])),
        20 => Op::Gpus(index, random.pick(&[1, 3, 8, 100])),
        21 => Op::Expiry(index, random.one_in(2), random.pick(&[0, 60]), random.pick(&RETENTIONS), random.one_in(2)),
        22 => Op::Residency(index, random.pick(&["", "LU", "EU", "FR"])),
        _ => {
            if random.one_in(2) {
                Op::Early(index, random.one_in(2))
            } else {
                Op::Edge(index, !random.one_in(3), random.pick(&[-1, 0, 1, 2 * SECOND]))
            }
        }
    }
}

fn spec_of_pool(random: &mut Random) -> Op {
    let (pool, site) = (random.below(POOLS.len()), random.below(SITES.len()));
    match random.below(12) {
        0..3 => Op::PlaceAt(pool, site, "Active"),
        3..6 => Op::PlaceAt(pool, site, "Draining"),
        6..8 => Op::TakeFrom(pool, site),
        8 => Op::Count(pool, site, random.pick(&[0, 1, 2, 5])),
        9 => Op::PoolStage(pool, random.pick(&["Production", "Production", "EarlyAccess", "Installed"])),
        10 => Op::Consumers(pool, random.one_in(2)),
        _ => {
            if random.one_in(3) {
                Op::DeletePool(pool)
            } else {
                Op::CreatePool(pool)
            }
        }
    }
}

fn spec_of_factory(random: &mut Random) -> Op {
    let site = random.below(SITES.len());
    match random.below(6) {
        0..2 => Op::Stage(site, random.pick(&["Production", "Production", "EarlyAccess", "Draining"])),
        2 => Op::Prefixes(random.one_in(2)),
        3 => Op::Country(site, random.pick(&["LU", "DE", "US"])),
        _ => Op::Stage(site, "Production"),
    }
}

fn nodes_and_policy(random: &mut Random) -> Op {
    let (site, node) = (random.below(SITES.len()), random.below(5));
    match random.below(9) {
        0 => Op::NodeGoes(site, node),
        1 => Op::NodeComes(site, node),
        2 => Op::Offer(site, node, random.one_in(2)),
        3 => Op::Relabelled(site, node, random.below(2)),
        4 => Op::Paused(site, random.one_in(3)),
        5 => Op::KeepNamespaces(site, random.one_in(2)),
        6 => Op::RefuseGrant(site, if random.one_in(2) { None } else { Some(grant(random)) }),
        7 => Op::RefuseMember(site, if random.one_in(2) { None } else { Some(random.below(MEMBERS)) }),
        _ => Op::Paused(site, false),
    }
}

fn hands(random: &mut Random) -> Op {
    let (site, index, object) = (random.below(SITES.len()), grant(random), random.below(16));
    match random.below(12) {
        0..3 => Op::DeleteObject(site, index, object),
        3..5 => Op::EditObject(site, index, object),
        5..7 => Op::Unlabel(site, index, object),
        7 => Op::UnlabelNamespace(site, index),
        8..10 => Op::Relabel(site, index),
        10 => Op::Foreign(site, index, if random.one_in(2) { None } else { Some(random.below(2)) }),
        _ => Op::DeleteNamespace(site, index),
    }
}

fn faults(random: &mut Random) -> Op {
    let site = random.below(SITES.len());
    match random.below(14) {
        0..2 => Op::Cut(site),
        2 => Op::Mute(site),
        3..6 => Op::Heal(site),
        6..8 => Op::Lag(site, random.pick(&[1, 50, 500, 5000]), random.below(9)),
        8 => Op::Slow(site, random.pick(&[1, 20, 300, 4000])),
        9 => Op::Reversed(site, random.one_in(2)),
        10 => Op::HubLag(random.pick(&[1, 100, 3000])),
        11..13 => Op::Restart(random.pick(&[1, SECOND, 60 * SECOND])),
        _ => Op::Sleep(random.pick(&[SECOND, 20 * SECOND, HOUR, 2 * DAY])),
    }
}

fn setbacks(random: &mut Random) -> Op {
    let site = random.below(SITES.len());
    match random.below(8) {
        0..2 => Op::SaveSite(site),
        2..4 => Op::RestoreSite(site),
        4 => Op::SaveHub,
        5 => Op::RestoreHub,
        _ => Op::LoseStatus(random.below(3), random.below(3)),
    }
}

fn structure(random: &mut Random) -> Op {
    let site = random.below(SITES.len());
    match random.below(17) {
        14..17 => Op::Rest(random.one_in(2)),
        0..2 => Op::Stage(site, "Decommissioned"),
        2..4 => Op::RemoveSite(site),
        4..6 => Op::AddSite(site),
        6..8 => Op::Spoil(random.below(3), random.below(3), random.one_in(2)),
        8 => Op::Abandon(site, true),
        9..11 => Op::Abandon(site, false),
        11 => Op::Orphans(random.pick(&["Report", "Lock", "Delete"])),
        12 => Op::DeleteFactory,
        _ => Op::CreateFactory,
    }
}
