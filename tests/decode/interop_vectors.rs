//! Does other software compute the same sessions? Runs `tests/interop/vectors.py` where Python and
//! its `cryptography` are installed; elsewhere it says loudly that it did not.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::needs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs the script over `files`: whether it agreed, and what it printed.
fn recompute(files: &[&Path]) -> (bool, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/vectors.py");
    let output = Command::new("python3")
        .arg(script)
        .args(files)
        .output()
        .unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&printed).into_owned(),
    )
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

#[test]
fn other_software_computes_the_same_values() {
    if !needs::python() {
        return;
    }
    let (agrees, printed) = recompute(&[]);
    assert!(agrees, "{printed}");
    let entries = std::fs::read_dir(vectors()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files = names.filter(|name| name.starts_with("session-")).count();
    assert!(files >= 4);
    let recomputed = printed.matches("values recomputed").count();
    assert_eq!(recomputed, files, "{printed}");
}

/// A checker that never objects proves nothing: one digit changed in each place must be found and
/// named.
#[test]
fn the_other_software_objects_to_any_changed_value() {
    if !needs::python() {
        return;
    }
    for file in [
        "session-aes-256-gcm-ratcheted.json",
        "session-fernet-ratcheted.json",
    ] {
        let text = std::fs::read_to_string(vectors().join(file)).unwrap();
        for name in [
            "id",
            "hello",
            "transcript",
            "client",
            "next",
            "next_id",
            "secret",
            "key",
            "frame",
            "counter",
        ] {
            // The last place where this name stands.
            let at = text.rfind(&format!("\"{name}\": ")).unwrap() + name.len() + 4;
            let at = at + text[at..].find(|c: char| c.is_ascii_hexdigit()).unwrap();
            let other = if &text[at..=at] == "1" { "2" } else { "1" };
            let changed = [&text[..at], other, &text[at + 1..]].concat();
            let path =
                std::env::temp_dir().join(format!("fernvpn-{}-{name}-{file}", std::process::id()));
            std::fs::write(&path, changed).unwrap();
            let (agrees, printed) = recompute(&[&path]);
            std::fs::remove_file(&path).unwrap();
            let differing = printed
                .lines()
                .filter_map(|line| line.strip_suffix(" differs")?.rsplit_once(": "));
            let is_named = differing
                .flat_map(|(_, what)| what.split(' '))
                .any(|word| word == name);
            assert!(!agrees && is_named, "{name} in {file}: {printed}");
        }
    }
}
