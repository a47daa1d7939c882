//! The gate in front of every test that needs root: skips loudly, or fails where `REQUIRE_NETNS=1`.

/// Whether this process may make network namespaces. Without root it says on standard error what is
/// skipped.
///
/// # Panics
/// Without root when `REQUIRE_NETNS=1`: CI must not pass by skipping.
#[must_use]
pub fn is_granted(what: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let required = std::env::var("REQUIRE_NETNS").is_ok_and(|value| value == "1");
    assert!(
        !required,
        "{what} needs root, and REQUIRE_NETNS=1 forbids skipping it"
    );
    shout(what);
    false
}

#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn shout(what: &str) {
    use std::io::Write as _;
    // The test harness captures eprintln!, so that a skip would be silent: write to the descriptor.
    let line = format!("SKIPPED, NOT RUN: {what} needs root (network namespaces)\n");
    if std::io::stderr().write_all(line.as_bytes()).is_err() {
        eprintln!("{line}");
    }
}

/// Returns from the test, saying so loudly, when it may not make network namespaces.
#[macro_export]
macro_rules! require_root {
    () => {
        if !$crate::root::is_granted(module_path!()) {
            return;
        }
    };
}
