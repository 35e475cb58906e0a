//! The sites: each part of a site has a controller of its own, so that a slow or dead site delays no other.

pub mod clock;
pub mod connection;
pub mod controller;
#[cfg(test)]
mod fake_hub;
pub mod kubernetes;
pub mod slurm;
pub mod tasks;
