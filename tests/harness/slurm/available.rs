//! Whether real Slurm can run here.

use std::path::Path;

use crate::layout;

/// Why no cluster can be started here; `None` where it can.
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("real Slurm needs root".to_owned());
    }
    if !Path::new("/etc/debian_version").exists() {
        return Some("real Slurm needs Debian or Ubuntu".to_owned());
    }
    layout::slurm_root().err().map(|_| "there is no folder with Slurm; tests/slurm/build makes it".to_owned())
}
