//! What the tests of the command line share: the real program, and files for it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A folder of its own for each test, gone when the test is.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("fernvpn-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        Folder(folder)
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let file = self.0.join(name);
        fs::write(&file, content).expect("a file");
        mode(&file, 0o600);
        file.to_str().expect("UTF-8").to_string()
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).expect("text")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(unix)]
pub fn mode(file: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("the mode");
}

#[cfg(not(unix))]
pub fn mode(_: &Path, _: u32) {}

pub fn fernvpn(arguments: &[&str], stdin: impl AsRef<[u8]>) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fernvpn"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut pipe = child.stdin.take().expect("stdin");
    let stdin = stdin.as_ref().to_vec();
    // It may leave without reading: that is no failure of the test.
    let writer = std::thread::spawn(move || pipe.write_all(&stdin).is_ok());
    let output = child.wait_with_output().expect("its output");
    let _ = writer.join();
    output
}

/// Exit status, stdout, stderr.
pub fn run(arguments: &[&str], stdin: impl AsRef<[u8]>) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = fernvpn(arguments, stdin);
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (
        status.code().expect("not killed"),
        text(stdout),
        text(stderr),
    )
}

/// The program, running. Killed at the end.
pub struct Running(Child);

impl Running {
    /// Starts it with its log to `log`, and waits for its first line, which begins with `begin`.
    /// Returns the rest of that line.
    pub fn start(arguments: &[&str], begin: &str, log: impl Into<Stdio>) -> (Running, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_fernvpn"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the program");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("stdout"))
            .read_line(&mut line)
            .expect("a line");
        let rest = line
            .trim()
            .strip_prefix(begin)
            .unwrap_or_else(|| panic!("not {begin:?}: {line}"))
            .to_owned();
        (Running(child), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}
