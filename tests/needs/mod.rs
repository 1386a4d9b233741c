//! What tests need that a machine may lack. Where it is required (`CI`, `FERNVPN_REQUIRE_INTEROP`)
//! its absence is a failure, and elsewhere, loudly, a skip.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Display;
use std::io::Write;
use std::process::Command;

/// Whether a program does what it is asked to.
pub fn there(what: &str, program: &str, arguments: &[&str]) -> bool {
    let there = Command::new(program)
        .args(arguments)
        .output()
        .is_ok_and(|done| done.status.success());
    if !there {
        skipped(what);
    }
    there
}

pub fn python() -> bool {
    there(
        "python3 with cryptography (pip install cryptography)",
        "python3",
        &["-c", "import cryptography.fernet"],
    )
}

pub fn skipped(what: impl Display) {
    let required = ["CI", "FERNVPN_REQUIRE_INTEROP"].map(std::env::var_os);
    assert_eq!(required, [None, None], "required: {what}");
    // Not eprintln!, which the test harness keeps to itself.
    let said = format!(
        "\nSKIPPED by {}, which needs {what}\n",
        env!("CARGO_CRATE_NAME")
    );
    std::io::stderr().write_all(said.as_bytes()).unwrap();
}
