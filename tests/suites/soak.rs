//! Random changes and disturbances on real API servers, for as long as one likes: `make soak`.
//!
//! The sequences are those of the simulation, drawn by the same generator, and judged by what the documentation promises. What only virtual time
//! can show (days that pass, a hub whose watches lag) is left to the simulation, and so is what needs a Slurm.

#[path = "fixture/mod.rs"]
mod fixture;

#[path = "../../operator/plan/tests/simulation/cast.rs"]
#[allow(dead_code)]
mod cast;
#[path = "../../operator/plan/tests/simulation/clock.rs"]
#[allow(dead_code)]
mod clock;
#[path = "../../operator/plan/tests/simulation/ops.rs"]
#[allow(dead_code)]
mod ops;

#[path = "soak/disturb.rs"]
mod disturb;
#[path = "soak/edit.rs"]
mod edit;
#[path = "soak/hands.rs"]
mod hands;
#[path = "soak/stage.rs"]
mod stage;
#[path = "soak/verdict.rs"]
mod verdict;

use std::time::Instant;

use aifactory_tests::run;
use ops::{Op, Profile, WHOLE};
use stage::Soak;

/// Operations of one sequence.
const LENGTH: usize = 24;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// `AIFACTORY_SOAK_SEQUENCES` sequences, 200 where it is not set, from seed `AIFACTORY_SOAK_SEED` on.
#[test]
fn status_is_true_after_whatever_happens() {
    run(async {
        let soak = Soak::start().await;
        let (first, sequences) = (number("AIFACTORY_SOAK_SEED", 1), number("AIFACTORY_SOAK_SEQUENCES", 200));
        let begun = Instant::now();
        for seed in first..first + sequences {
            let profile = Profile { structure: seed % 2 == 0, setbacks: seed % 4 == 0, ..WHOLE };
            let sequence = ops::case(seed, profile, LENGTH);
            play(&soak, seed, &sequence).await;
            eprintln!("sequence {seed}: {} operations, {:?} since the start", sequence.len(), begun.elapsed());
        }
    });
}

async fn play(soak: &Soak, seed: u64, sequence: &[Op]) {
    soak.begin().await;
    let mut done = Vec::new();
    for op in sequence {
        done.push(*op);
        soak.apply(*op).await;
        let found = match op {
            Op::Settle => soak.settle().await,
            _ => soak.never().await,
        };
        assert!(found.is_empty(), "seed {seed}: {found:#?}\nafter {done:?}\n{}", soak.world.log_tail());
    }
}
