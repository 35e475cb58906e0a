//! What people do by mistake, in the wrong order, or with objects that nobody can read: nothing is lost and nobody else waits; and meanwhile
//! pipelines read the truth from status.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod fixture;
#[path = "mistakes/kstatus.rs"]
mod kstatus;
#[path = "mistakes/order.rs"]
mod order;
#[path = "mistakes/poison.rs"]
mod poison;
#[path = "mistakes/readiness.rs"]
mod readiness;
#[path = "mistakes/site.rs"]
mod site;
#[path = "mistakes/sweep.rs"]
mod sweep;

use aifactory_tests::{Federation, Lent, Shared};
use fixture::{NAMESPACE, World};

static SHARED: Shared<World> = Shared::new();

/// The federation of all scenarios here, one scenario at a time; each finds factory and pool Ready.
async fn shared() -> Lent<'static, World> {
    let start = async || {
        let federation = Federation::builder().name("mistakes").sites(["bissen", "bettembourg"]).start().await.unwrap();
        World::on(federation, fixture::options().flag("--test-hooks").lease("15s", "10s", "1s")).await
    };
    let world = SHARED.lend(start).await;
    world.federation.admit_factory(NAMESPACE).await.unwrap();
    world.factory().await;
    world
}
