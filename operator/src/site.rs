//! The sites: each is reconciled by a worker of its own, so that a slow or dead one holds up nobody else.

pub mod clock;
pub mod connection;
pub mod controller;
#[cfg(test)]
mod fake_hub;
pub mod kubernetes;
pub mod slurm;
pub mod tasks;
