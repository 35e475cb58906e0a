//! Leader election.

mod gate;

pub use gate::{Gated, GatedBody, WriteGate, WriteRefused};
