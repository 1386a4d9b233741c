//! Do other implementations agree? Runs `tests/interop/tokens.py` where Python and its `cryptography` are installed.
//! With `CI` or `FERNVPN_REQUIRE_INTEROP` set, their absence is a failure.

use std::io::Write;
use std::process::Command;

#[test]
fn python_cryptography_agrees() {
    let there = Command::new("python3").args(["-c", "import cryptography.fernet"]).output();
    if !there.is_ok_and(|done| done.status.success()) {
        let required = ["CI", "FERNVPN_REQUIRE_INTEROP"].map(std::env::var_os);
        assert_eq!(required, [None, None], "python3 with cryptography is required");
        // Not eprintln!, which the test harness keeps to itself.
        let said = "\nSKIPPED: tests/interop/tokens.py needs python3 with cryptography (pip install cryptography)\n";
        std::io::stderr().write_all(said.as_bytes()).expect("stderr");
        return;
    }
    let done = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/tokens.py"))
        .args([env!("CARGO_BIN_EXE_fernvpn"), "--count", "60"])
        .output()
        .expect("python3 was there a moment ago");
    let said = [done.stdout, done.stderr].concat();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&said));
}
