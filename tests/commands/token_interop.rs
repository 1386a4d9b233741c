//! Do other implementations agree? Runs `tests/interop/tokens.py` where Python and its
//! `cryptography` are installed. With `CI` or `FERNVPN_REQUIRE_INTEROP` set, their absence is a
//! failure.

use crate::needs;
use std::process::Command;

#[test]
fn python_cryptography_agrees() {
    if !needs::python() {
        return;
    }
    let done = Command::new("python3")
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/interop/tokens.py"
        ))
        .args([env!("CARGO_BIN_EXE_fernvpn"), "--count", "60"])
        .output()
        .expect("python3 was there a moment ago");
    let said = [done.stdout, done.stderr].concat();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&said));
}
