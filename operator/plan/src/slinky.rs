//! Slurm partitions through Slinky.
