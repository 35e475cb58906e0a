//! What the hub refuses: deletes by mistake, and the operator's hand on what belongs to people.

#![allow(clippy::indexing_slicing, reason = "an index into a JSON value gives null where there is nothing")]

#[allow(dead_code, reason = "each suite uses its part of the tables")]
mod admission;
#[path = "hub_policies/credentials.rs"]
mod credentials;
#[path = "hub_policies/deletes.rs"]
mod deletes;
#[path = "hub_policies/scene.rs"]
mod scene;
#[path = "hub_policies/users.rs"]
mod users;

use std::error::Error;

use aifactory_tests::run;
use scene::Scene;
use tokio::sync::OnceCell;

type Outcome = Result<(), Box<dyn Error>>;

static SCENE: OnceCell<Scene> = OnceCell::const_new();

async fn scene() -> aifactory_tests::Result<&'static Scene> {
    SCENE.get_or_try_init(Scene::prepare).await
}
