//! One runtime for all tests of a suite, so that they can share a federation.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{MappedMutexGuard, MutexGuard};

/// Runs a test on the runtime that all tests of this process share. Tests of a suite take turns, since they may share a world.
///
/// Clients and proxies belong to the runtime they were made on, so a federation that several tests use can not be
/// started under `#[tokio::test]`, whose runtime ends with the test. A federation in a static is never dropped; the
/// watchdog ends it with the process.
///
/// ```no_run
/// # use aifactory_tests::{Federation, Result, run};
/// static SHARED: tokio::sync::OnceCell<Federation> = tokio::sync::OnceCell::const_new();
///
/// async fn shared() -> Result<&'static Federation> {
///     SHARED.get_or_try_init(async || Federation::builder().sites(["bissen"]).start().await).await
/// }
///
/// // In a `#[test]`:
/// run(async {
///     let federation = shared().await.unwrap();
///     federation.hub().admin();
/// });
/// ```
///
/// # Panics
/// When the system gives no thread for the runtime.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    run_beside(test)
}

/// The same for a test with a world of its own, or one that nothing disturbs: it runs beside others.
///
/// # Panics
/// When the system gives no thread for the runtime.
#[expect(clippy::expect_used, reason = "a test process without threads can not report anything better")]
pub fn run_beside<T>(test: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Builder::new_multi_thread().enable_all().build().expect("a runtime"));
    runtime.block_on(test)
}

/// A world that the tests of a suite use in turn. One that a test failed in is thrown away, since what the test left of it (a site cut off, a
/// schema changed) would fail the tests after it.
pub struct Shared<T> {
    world: tokio::sync::Mutex<Option<T>>,
    spoiled: AtomicBool,
}

impl<T> Shared<T> {
    /// Nothing is started yet.
    pub const fn new() -> Self {
        Self { world: tokio::sync::Mutex::const_new(None), spoiled: AtomicBool::new(false) }
    }

    /// The world for one test, started if there is none.
    pub async fn lend(&self, start: impl AsyncFnOnce() -> T) -> Lent<'_, T> {
        let mut place = self.world.lock().await;
        let found = place.take().filter(|_| !self.spoiled.swap(false, Ordering::Relaxed));
        let world = match found {
            Some(world) => world,
            None => start().await,
        };
        Lent { world: MutexGuard::map(place, |place| place.insert(world)), spoiled: &self.spoiled }
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// A shared world in the hands of one test.
pub struct Lent<'a, T> {
    world: MappedMutexGuard<'a, T>,
    spoiled: &'a AtomicBool,
}

impl<T> Deref for Lent<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.world
    }
}

impl<T> DerefMut for Lent<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.world
    }
}

impl<T> Drop for Lent<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.spoiled.store(true, Ordering::Relaxed);
        }
    }
}
