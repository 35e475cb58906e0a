//! Watches of kinds that a definition brings.

use kube::runtime::watcher;

/// How long one watch request lasts.
const SECONDS: u32 = 30;

/// How a kind is watched that a CustomResourceDefinition brings. An API server that is given another definition of the kind may leave a watch open that
/// shows nothing any more; until the next request a revocation would not be seen, so that requests are short.
pub fn config() -> watcher::Config {
    watcher::Config::default().timeout(SECONDS)
}
