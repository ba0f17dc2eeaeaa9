//! A network namespace per test, without a name: it goes with the thread that made it.

use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread in a fresh network namespace, on a runtime of its own; processes it
/// starts are in the namespace too. Fails without root, unless `CALICO_SKIP_PRIVILEGED=1`.
pub(crate) fn in_new_netns<F: Future>(test: impl FnOnce() -> F + Send) {
    if std::env::var_os("CALICO_SKIP_PRIVILEGED").is_some_and(|value| value == "1") {
        println!("SKIPPED (CALICO_SKIP_PRIVILEGED=1): needs a network namespace");
        return;
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect(
                "this test makes a network namespace: run it as root, or set CALICO_SKIP_PRIVILEGED=1",
            );
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().expect("a runtime").block_on(test());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}
