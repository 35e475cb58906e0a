//! The sites: each is reconciled by a worker of its own, so that a slow or dead one holds up nobody else.

pub mod kubernetes;
pub mod slurm;
