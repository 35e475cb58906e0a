//! What the API server does without the operator: mistakes and their messages, defaults, columns, and the cost of the rules.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "an index into a JSON value gives null where there is nothing; a table that is wrong ends the test"
)]

#[path = "api/apply.rs"]
mod apply;
#[path = "api/columns.rs"]
mod columns;
#[path = "api/cost.rs"]
mod cost;
#[path = "api/defaults.rs"]
mod defaults;
#[path = "api/factory.rs"]
mod factory;
#[path = "api/grant.rs"]
mod grant;
#[path = "api/mistake.rs"]
mod mistake;
#[path = "api/pool.rs"]
mod pool;
#[path = "api/preconditions.rs"]
mod preconditions;
#[path = "api/scene.rs"]
mod scene;
#[path = "api/updates.rs"]
mod updates;

use std::error::Error;

type Outcome = Result<(), Box<dyn Error>>;
