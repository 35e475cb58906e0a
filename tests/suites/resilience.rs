//! The operator is stopped, killed and replaced, and stores are set back: what the sites hold in the end is what the specs say.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

#[path = "resilience/chance.rs"]
mod chance;
mod fixture;
#[path = "resilience/handover.rs"]
mod handover;
#[path = "resilience/kills.rs"]
mod kills;
#[path = "resilience/picture.rs"]
mod picture;
#[path = "resilience/rest.rs"]
mod rest;
#[path = "resilience/restores.rs"]
mod restores;

use aifactory_tests::{Federation, Lent, Shared};
use fixture::World;

static SHARED: Shared<World> = Shared::new();

/// The federation of the scenarios that only trouble the operator, one scenario at a time.
async fn shared() -> Lent<'static, World> {
    let start = async || {
        let federation = Federation::builder().name("resilience").sites(["bissen", "bettembourg"]).start().await.unwrap();
        let world = World::on(federation, fixture::options()).await;
        world.factory().await;
        world
    };
    SHARED.lend(start).await
}
