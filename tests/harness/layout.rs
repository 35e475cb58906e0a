//! Where things are in the tree.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The root of the workspace.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// The directory that holds all federations and their locks.
pub(crate) fn federations() -> PathBuf {
    root().join("target/federation")
}

/// A binary of the control planes, as `tests/control-plane/build` makes them.
pub fn control_plane(binary: &str) -> Result<PathBuf> {
    existing(root().join("target/control-plane/bin").join(binary), "run tests/control-plane/build")
}

/// The Debian folder with Slurm, as `tests/slurm/build` makes it.
pub(crate) fn slurm_root() -> Result<PathBuf> {
    let directory = root().join("target/slurm/root");
    existing(directory.join("complete"), "run tests/slurm/build as root")?;
    Ok(directory)
}

/// The operator: `AIFACTORY_OPERATOR`, else the one built in the profile of the running executable.
pub fn operator_binary() -> Result<PathBuf> {
    const HINT: &str = "run `cargo build -p aifactory-operator`, or name it in AIFACTORY_OPERATOR";
    if let Some(path) = std::env::var_os("AIFACTORY_OPERATOR") {
        return existing(PathBuf::from(path), HINT);
    }
    let executable = std::env::current_exe().map_err(|source| Error::Process { name: "this executable".to_owned(), source })?;
    let mut directory = executable.parent().unwrap_or(Path::new("."));
    if directory.file_name().is_some_and(|name| name == "deps" || name == "examples") {
        directory = directory.parent().unwrap_or(directory);
    }
    existing(directory.join("aifactory-operator"), HINT)
}

fn existing(path: PathBuf, hint: &'static str) -> Result<PathBuf> {
    if path.is_file() { Ok(path) } else { Err(Error::MissingBinary { path, hint }) }
}
