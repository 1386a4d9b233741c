//! Do peers that were written from `docs/PROTOCOL.md` alone understand the real program? Runs
//! `tests/interop/client.py` and `server.py` against it, in all pairs, where Python and its
//! `cryptography` are installed. With `CI` or `FERNVPN_REQUIRE_INTEROP` set, their absence is a
//! failure.
#![allow(clippy::unwrap_used)]

use crate::needs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const SUITES: [&str; 2] = ["aes-256-gcm", "fernet"];
const KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";

/// A peer: the real program, or the one in Python.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Peer {
    Real,
    Python,
}
use Peer::{Python, Real};

/// A program that runs, and what it says on stdout and stderr. It is killed when this is dropped.
struct Running {
    child: Child,
    lines: Receiver<String>,
    said: String,
}

impl Running {
    fn start(command: &mut Command) -> Running {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        for pipe in [Box::new(stdout) as Box<dyn Read + Send>, Box::new(stderr)] {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(pipe).lines() {
                    let _ = sender.send(line.unwrap());
                }
            });
        }
        Running {
            child,
            lines,
            said: String::new(),
        }
    }

    /// The rest of the first line from now on that contains `text`.
    fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no '{text}' in:\n{}", self.said)
            };
            self.said += &format!("{line}\n");
            if let Some((_, rest)) = line.split_once(text) {
                return rest.to_string();
            }
        }
    }

    /// Waits until the program leaves.
    fn finish(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.said += &format!("{line}\n"),
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not end:\n{}", self.said),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A key file, gone when the test is.
struct KeyFile(PathBuf);

impl KeyFile {
    /// Nothing where there is no Python: then the test says so, loudly, and is over.
    fn new(name: &str) -> Option<KeyFile> {
        if !needs::python() {
            return None;
        }
        let file = std::env::temp_dir().join(format!("fernvpn-{}-{name}.key", std::process::id()));
        std::fs::write(&file, KEY).unwrap();
        Some(KeyFile(file))
    }

    fn command(&self, peer: Peer, role: &str, arguments: &[&str]) -> Command {
        let mut command = match peer {
            Real => Command::new(env!("CARGO_BIN_EXE_fernvpn")),
            Python => Command::new("python3"),
        };
        let script = format!("{}/tests/interop/{role}.py", env!("CARGO_MANIFEST_DIR"));
        match peer {
            Real => command.args([role, "--no-tun"]),
            Python => command.args(["-B", &script]),
        };
        command.arg("-k").arg(&self.0).args(arguments);
        command
    }

    /// A server that listens, and where.
    fn server(&self, peer: Peer, arguments: &[&str]) -> (Running, String) {
        let mut command = self.command(peer, "server", arguments);
        let mut server = Running::start(command.args(["--listen", "127.0.0.1:0"]));
        let address = server.wait_for("listening on ");
        (server, address)
    }

    fn client(&self, peer: Peer, address: &str, arguments: &[&str]) -> Running {
        let mut command = self.command(peer, "client", arguments);
        Running::start(command.args(["--connect", address, "--send", "grüße"]))
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn read_frame(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut header = [0; 4];
    from.read_exact(&mut header).ok()?;
    let mut frame = vec![0; usize::try_from(u32::from_be_bytes(header)).unwrap()];
    from.read_exact(&mut frame).ok()?;
    Some([&header[..], &frame].concat())
}

/// An attacker on the path, for one connection to `server`. They forward this many frames of either
/// side, then cut. Returns where to connect, and the client's and the server's frames.
fn eavesdrop(server: &str, frames: usize) -> (String, Receiver<Vec<u8>>, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = server.to_string();
    let ((client_sender, from_client), (server_sender, from_server)) =
        (mpsc::channel(), mpsc::channel());
    thread::spawn(move || {
        let client = listener.accept().unwrap().0;
        let server = TcpStream::connect(server).unwrap();
        for (from, to, heard) in [
            (&client, &server, client_sender),
            (&server, &client, server_sender),
        ] {
            let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            thread::spawn(move || {
                for _ in 0..frames {
                    let Some(frame) = read_frame(&mut from) else {
                        break;
                    };
                    let _ = (to.write_all(&frame), heard.send(frame));
                }
                // Goes on reading: a stream that ends, and not a reset.
                let _ = (
                    to.shutdown(Shutdown::Write),
                    std::io::copy(&mut from, &mut std::io::sink()),
                );
            });
        }
    });
    (address, from_client, from_server)
}

/// What the server says to this, and nothing after it.
fn answer_to(server: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

fn talk(client: Peer, server: Peer) {
    let Some(key) = KeyFile::new(&format!("{client:?}-{server:?}")) else {
        return;
    };
    for suite in SUITES {
        let rekey: &[&str] = if server == Python { &["--rekey"] } else { &[] };
        let (mut listening, address) = key.server(server, &[&["--suite", suite], rekey].concat());
        let mut connected = match client {
            Real => key.client(Real, &address, &["--ping", "--count", "3", "--once"]),
            Python => key.client(
                Python,
                &address,
                &["--suite", suite, "--ping", "3", "--rekey"],
            ),
        };
        let status = connected.finish();
        assert!(status.success(), "{}", connected.said);
        assert!(connected.said.contains(suite), "{}", connected.said);
        // Python's pings both addresses, and everything again after its Rekey.
        let (answers, replies) = if client == Real { (1, 3) } else { (2, 12) };
        assert_eq!(
            connected.said.matches("grüße").count(),
            answers,
            "{}",
            connected.said
        );
        assert_eq!(
            connected.said.matches("reply from ").count(),
            replies,
            "{}",
            connected.said
        );
        if client == Python && server == Python {
            assert!(
                connected.said.contains("the peer has done a Rekey"),
                "{}",
                connected.said
            );
        }
        listening.wait_for(if server == Real {
            "the peer closed"
        } else {
            "Close: code 0"
        });
        assert_eq!(
            listening.said.matches("grüße").count(),
            answers,
            "{}",
            listening.said
        );
        assert!(!listening.said.contains("dropped"), "{}", listening.said);
    }
}

#[test]
fn python_client_and_real_server() {
    talk(Python, Real);
}

#[test]
fn real_client_and_python_server() {
    talk(Real, Python);
}

#[test]
fn python_client_and_python_server() {
    talk(Python, Python);
}

#[test]
fn a_server_without_a_common_suite_refuses() {
    let Some(key) = KeyFile::new("refused") else {
        return;
    };
    for (client, server, arguments) in [
        (Python, Real, &[][..]),
        (Real, Python, &["--once"]),
        (Python, Python, &[]),
    ] {
        let (_server, address) = key.server(server, &["--suite", "fernet"]);
        let mut client = key.client(
            client,
            &address,
            &[&["--suite", "aes-256-gcm"], arguments].concat(),
        );
        assert!(!client.finish().success());
        assert!(client.said.contains("no common suite"), "{}", client.said);
    }
}

#[test]
fn replays_and_reflections_are_not_answered() {
    let Some(key) = KeyFile::new("replays") else {
        return;
    };
    for server in [Real, Python] {
        let (_server, address) = key.server(server, &[]);
        let (path, from_client, from_server) = eavesdrop(&address, usize::MAX);
        assert!(key.client(Real, &path, &["--once"]).finish().success());
        let client_hello = from_client.recv_timeout(PATIENCE).unwrap();
        let server_hello = from_server.recv_timeout(PATIENCE).unwrap();
        let body = [&client_hello[4..12], &server_hello[4..]].concat();
        let reflected = [&u32::try_from(body.len()).unwrap().to_be_bytes(), &body[..]].concat();
        let mut forged = client_hello.clone();
        *forged.last_mut().unwrap() = b'!';
        let mut stranger = client_hello.clone();
        stranger[4] ^= 1;
        for refused in [
            client_hello,
            server_hello,
            reflected,
            forged,
            stranger,
            b"\0\0\x04\x01".to_vec(),
        ] {
            assert_eq!(answer_to(&address, &refused), b"", "{server:?}");
        }
        // And it is there for the next one.
        assert!(key.client(Python, &address, &[]).finish().success());
    }
}

#[test]
fn a_truncation_is_reported_by_both() {
    let Some(key) = KeyFile::new("truncation") else {
        return;
    };
    for (client, server, arguments) in [
        (Python, Real, &[][..]),
        (Real, Python, &["--once"]),
        (Python, Python, &[]),
    ] {
        let (mut listening, address) = key.server(server, &[]);
        let (path, ..) = eavesdrop(&address, 2);
        let mut connected = key.client(client, &path, arguments);
        assert!(!connected.finish().success(), "{}", connected.said);
        assert!(connected.said.contains("truncat"), "{}", connected.said);
        listening.wait_for("truncat");
    }
}
