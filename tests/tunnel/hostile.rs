//! What can a stranger without a key do at the listener? They can take a little memory for ten
//! seconds, and learn nothing.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use crate::loopback;
use fernvpn::config::settings::ServerSettings;
use fernvpn::os::process::raise_open_files;
use fernvpn::protocol::frame;
use fernvpn::protocol::key_schedule::Root;
use fernvpn::tunnel::server::HANDSHAKE_TIME;
use loopback::*;
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What a stranger sends, at once or byte by byte.
struct Shape {
    name: &'static str,
    bytes: Vec<u8>,
    pause: Option<Duration>,
}

fn shape(name: &'static str, bytes: impl Into<Vec<u8>>) -> Shape {
    Shape {
        name,
        bytes: bytes.into(),
        pause: None,
    }
}

/// Everything a stranger might try, or a client with the wrong key. Number 0 is a client of the
/// server, 99 is not.
fn shapes() -> Vec<Shape> {
    let known = RawHello::new(0, PLAIN).frame;
    let id = Root::new(key(0)).id();
    let stranger = RawHello::new(99, PLAIN).frame;
    let mut forged = known.clone();
    forged[60] ^= 1;
    let wrong_token = frame::frame(&[&id[..], &stranger[12..]].concat());
    vec![
        shape("silence", b""),
        shape("zeros", [0; 2000]),
        shape("ones", [0xff; 2000]),
        shape("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        shape(
            "TLS",
            [
                &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
                &[7; 508],
            ]
            .concat(),
        ),
        shape("SSH", b"SSH-2.0-OpenSSH_9.6\r\n"),
        shape("a length of zero", 0u32.to_be_bytes()),
        shape("the largest length", u32::MAX.to_be_bytes()),
        shape("half a header", [0, 0]),
        shape("an empty id", frame::frame(b"x")),
        shape("an id alone", frame::frame(&id)),
        shape("a hello of 1024 bytes", frame::frame(&[b'A'; 1024])),
        shape("a hello of 1025 bytes", frame::frame(&[b'A'; 1025])),
        shape(
            "a known id and garbage",
            frame::frame(&[&id[..], &[b'A'; 600]].concat()),
        ),
        shape("an unknown id, a good token", stranger.clone()),
        shape("a known id, a wrong token", wrong_token),
        shape("one bit changed", forged),
        shape("half a hello", &known[..known.len() / 2]),
        shape("a whole hello but one byte", &known[..known.len() - 1]),
        shape("two strangers' hellos", stranger.repeat(2)),
        Shape {
            name: "a dribble of half a hello",
            bytes: known[..250].to_vec(),
            pause: Some(Duration::from_millis(45)),
        },
        Shape {
            name: "a dribble of garbage",
            bytes: vec![0xee; 250],
            pause: Some(Duration::from_millis(45)),
        },
    ]
}

/// Sends it and waits for the end: how long it took, and how many bytes came.
fn outlast(server: SocketAddr, shape: &Shape) -> (Duration, usize) {
    let begun = Instant::now();
    let mut socket = TcpStream::connect(server).unwrap();
    socket.set_nodelay(true).unwrap();
    match shape.pause {
        None => socket.write_all(&shape.bytes).unwrap(),
        Some(pause) => {
            for byte in &shape.bytes {
                thread::sleep(pause);
                if socket.write_all(&[*byte]).is_err() {
                    break; // the deadline was in the middle of the dribble, as it should be
                }
            }
        }
    }
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{}", shape.name),
    }
    (begun.elapsed(), answer.len())
}

#[test]
fn whatever_is_wrong_there_is_no_answer_and_the_end_comes_at_the_deadline() {
    let (_server, at) = serve(settings(1), None);
    let mut shapes = shapes();
    let replayed = RawHello::new(0, PLAIN);
    shapes.push(shape("a replay", &replayed.frame[..]));
    let _first = replayed.ask(at);
    let hello = || RawHello::new(0, PLAIN).frame;
    shapes.push(shape(
        "a PROXY header where none is believed",
        [PROXY_HEADER, &hello()].concat(),
    ));
    let (_server, balanced) = serve(behind_balancer(), None);
    let from_balancer = [
        shape("no PROXY header", hello()),
        shape("half a PROXY header", &PROXY_HEADER[..20]),
        shape(
            "a PROXY header of version 1",
            [b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 443\r\n", &hello()[..]].concat(),
        ),
        shape(
            "a PROXY header, then garbage",
            [PROXY_HEADER, &[b'A'; 600]].concat(),
        ),
        shape(
            "two PROXY headers",
            [PROXY_HEADER, PROXY_HEADER, &hello()].concat(),
        ),
    ];
    let plain = shapes.iter().map(|shape| (at, shape));
    thread::scope(|scope| {
        for (at, shape) in plain.chain(from_balancer.iter().map(|shape| (balanced, shape))) {
            scope.spawn(move || {
                let (took, answered) = outlast(at, shape);
                assert_eq!(answered, 0, "{}", shape.name);
                let early = HANDSHAKE_TIME - Duration::from_millis(200);
                assert!(
                    (early..HANDSHAKE_TIME * 2).contains(&took),
                    "{}: {took:?}",
                    shape.name
                );
            });
        }
        // A stranger who sends without end gets no more time than the others, although there is
        // always something to read.
        scope.spawn(move || {
            let begun = Instant::now();
            let socket = &TcpStream::connect(at).unwrap();
            let flood = move || {
                while { socket }.write_all(&[0x55; 256 * 1024]).is_ok() {
                    assert!(begun.elapsed() < HANDSHAKE_TIME * 2, "a flood is ended too");
                }
            };
            thread::scope(|writers| (0..2).for_each(|_| drop(writers.spawn(flood))));
            assert!(begun.elapsed() >= HANDSHAKE_TIME - Duration::from_millis(200));
        });
    });
}

/// For 192.0.2.7:50000, and with something more that is for others.
const PROXY_HEADER: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xc0\0\x02\x07\xc0\0\x02\x01\xc3\x50\x01\xbb\x04\0\x01x";

fn behind_balancer() -> ServerSettings {
    ServerSettings {
        balancers: vec!["127.0.0.1/32".parse().unwrap()],
        ..settings(1)
    }
}

#[test]
fn a_client_comes_in_behind_a_load_balancer() {
    let (_server, at) = serve(behind_balancer(), None);
    let mut hello = RawHello::new(0, PLAIN);
    hello.frame = [PROXY_HEADER, &hello.frame].concat();
    hello.ask(at).finish().expect("a Config").1.says_hello();
}

#[test]
fn a_balancers_health_checks_are_no_refused_handshakes() {
    const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let (server, at) = serve(behind_balancer(), None);
    let incomplete = || {
        let report: Value = serde_json::from_str(&server.status("json").unwrap()).unwrap();
        report["handshakes_refused"]["incomplete"].as_u64().unwrap()
    };
    let unknown = [&LOCAL[..12], b"\x21\0\0\0"].concat();
    for (name, bytes, counted) in [
        ("a check without a header", &b""[..], 0),
        ("a check", LOCAL, 0),
        ("half a header", &LOCAL[..15], 1),
        ("one byte of a hello", &[LOCAL, b"\0"].concat(), 1),
        ("a client that hangs up", PROXY_HEADER, 1),
        ("one whose address is not told", &unknown, 1),
    ] {
        let before = incomplete();
        let mut socket = TcpStream::connect(at).unwrap();
        socket.write_all(bytes).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(socket.read(&mut [0]).unwrap(), 0, "{name}");
        assert_eq!(incomplete() - before, counted, "{name}");
    }
}

#[test]
fn who_ends_first_is_ended_alike_whatever_was_wrong() {
    let (_server, at) = serve(settings(1), None);
    thread::scope(|scope| {
        for shape in shapes().into_iter().filter(|shape| shape.pause.is_none()) {
            scope.spawn(move || {
                let mut socket = TcpStream::connect(at).unwrap();
                socket.write_all(&shape.bytes).unwrap();
                thread::sleep(Duration::from_millis(100)); // so that the server has judged it
                socket.shutdown(Shutdown::Write).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let begun = Instant::now();
                assert_eq!(
                    socket.read(&mut [0]).unwrap(),
                    0,
                    "{}: an orderly end, no reset",
                    shape.name
                );
                assert!(
                    begun.elapsed() < HANDSHAKE_TIME / 2,
                    "{}: at once",
                    shape.name
                );
            });
        }
    });
}

#[test]
fn a_hello_under_the_limit_may_come_byte_by_byte() {
    let (_server, at) = serve(settings(1), None);
    let hello = RawHello::new(0, PLAIN).frame;
    let mut socket = TcpStream::connect(at).unwrap();
    socket.set_nodelay(true).unwrap();
    for byte in hello {
        socket.write_all(&[byte]).unwrap();
    }
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(read_frame(&mut socket).is_some());
}

// ---------------------------------------------------------------------- many

#[test]
fn five_hundred_of_them_do_not_keep_a_client_waiting() {
    raise_open_files(8192).unwrap();
    let (_server, at) = serve(settings(2), None);
    let shapes = shapes();
    let before = own_resident_kib();
    let mut open = Vec::new();
    for n in 0..625 {
        let mut socket = TcpStream::connect(at).unwrap();
        let bytes = &shapes[n % shapes.len()].bytes;
        // Every third one is only half there, and every fifth has gone again.
        let _ = socket.write_all(if n % 3 == 0 {
            &bytes[..bytes.len() / 2]
        } else {
            bytes
        });
        if n % 5 != 0 {
            open.push(socket);
        }
    }
    // Hellos that were answered, and wait for a Finished that never comes.
    let half: Vec<_> = (0..20).map(|_| RawHello::new(0, PLAIN).ask(at)).collect();
    let cost = own_resident_kib().saturating_sub(before) / open.len();
    assert!(cost < 100, "{cost} KiB for each, both ends counted");
    let begun = Instant::now();
    let running = Running::start(client_settings(at, 1), None);
    assert!(
        running.connects_within(Duration::from_secs(1)),
        "not connected after {:?}",
        begun.elapsed()
    );
    println!(
        "connected in {:?} beside {} strangers",
        begun.elapsed(),
        open.len() + half.len()
    );
    // Not one of them has got a byte.
    for socket in &open {
        socket.set_nonblocking(true).unwrap();
        assert!(!matches!(socket.peek(&mut [0]), Ok(1..)));
    }
    running.stop().unwrap();
}

#[test]
fn when_all_places_are_taken_a_random_stranger_goes_and_a_client_comes_in() {
    raise_open_files(8192).unwrap();
    let (_server, at) = serve(settings(1), None);
    let mut strangers: Vec<_> = (0..1024).map(|_| TcpStream::connect(at).unwrap()).collect();
    thread::sleep(Duration::from_millis(200));
    let ended = |strangers: &[TcpStream]| -> Vec<usize> {
        let is_ended = |socket: &TcpStream| {
            socket.set_nonblocking(true).unwrap();
            matches!(socket.peek(&mut [0]), Ok(0))
        };
        (0..strangers.len())
            .filter(|n| is_ended(&strangers[*n]))
            .collect()
    };
    assert_eq!(ended(&strangers), [0; 0], "there is room for all of these");
    strangers.extend((0..64).map(|_| TcpStream::connect(at).unwrap()));
    eventually("as many go as have come", || ended(&strangers).len() == 64);
    let gone = ended(&strangers);
    assert!(
        gone[63] > 64 && gone[0] < 1024,
        "neither the oldest nor the newest: {gone:?}"
    );
    let running = Running::start(client_settings(at, 0), None);
    assert!(running.connects_within(Duration::from_secs(1)));
    assert!(ended(&strangers).len() <= 65, "one more at most");
    running.stop().unwrap();
}

// ---------------------------------------------------------------------- out of descriptors

#[test]
fn a_server_without_descriptors_recovers() {
    let server = Process::serve_with(40, &format!("{} # client0\n", key(0).to_text()), &[]);
    // The last of these wait in the kernel: the server cannot accept them.
    let strangers: Vec<_> = (0..60)
        .map(|_| TcpStream::connect(server.address).unwrap())
        .collect();
    thread::sleep(Duration::from_millis(300));
    drop(strangers);
    raw_client(server.address, 0, PLAIN).says_hello();
}

#[test]
fn strangers_that_hold_the_last_descriptors_give_way_to_a_client() {
    let server = Process::serve_with(40, &format!("{} # client0\n", key(0).to_text()), &[]);
    let strangers: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(server.address).unwrap())
        .collect();
    let begun = Instant::now();
    raw_client(server.address, 0, PLAIN).says_hello();
    assert!(
        begun.elapsed() < HANDSHAKE_TIME / 2,
        "before the strangers' deadline: {:?}",
        begun.elapsed()
    );
    drop(strangers);
}

// ---------------------------------------------------------------------- with a key

#[test]
fn who_connects_again_and_again_and_never_hangs_up_takes_no_other_clients_place() {
    let keys = format!(
        "{} # client0\n{} # client1\n",
        key(0).to_text(),
        key(1).to_text()
    );
    let server = Process::serve_with(8192, &keys, &["--max-clients", "4"]);
    let (_, before) = server.resident_kib_and_threads();
    let replaced: Vec<_> = (0..40)
        .map(|_| raw_client(server.address, 0, PLAIN))
        .collect();
    raw_client(server.address, 1, PLAIN).says_hello();
    eventually("the replaced ones have gone", || {
        server.resident_kib_and_threads().1 <= before + 4
    });
    drop(replaced);
}

#[test]
fn a_process_that_holds_keys_leaves_no_core() {
    let dumps = |program: &str, arguments: &[&str]| {
        let script = "ulimit -c 1000 && cd \"$0\" && exec \"$@\"";
        let mut child = Command::new("sh")
            .args([
                "-c",
                script,
                std::env::temp_dir().to_str().unwrap(),
                program,
            ])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap(); // it is running
        let killed = Command::new("kill")
            .args(["-ABRT", &child.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
        child.wait().unwrap().core_dumped()
    };
    let folder = std::env::temp_dir();
    if !dumps("sh", &["-c", "echo ready; while :; do sleep 1; done"]) {
        // Not println!, which the test harness keeps to itself.
        return std::io::stderr()
            .write_all(b"\nSKIPPED: this system writes no cores\n")
            .unwrap();
    }
    let file = folder.join(format!("fernvpn-{}-core.keys", std::process::id()));
    std::fs::write(&file, key(0).to_text()).unwrap();
    let file = file.to_str().unwrap();
    let arguments = ["server", "--no-tun", "--listen", "127.0.0.1:0", "-k", file];
    assert!(!dumps(env!("CARGO_BIN_EXE_fernvpn"), &arguments));
    std::fs::remove_file(file).unwrap();
    let _ = std::fs::remove_file(folder.join("core"));
}

// ---------------------------------------------------------------------- who answers in a server's
// place

#[test]
fn what_a_false_instance_says_cannot_move_a_cursor() {
    let folder = std::env::temp_dir().join(format!("fernvpn-{}-false", std::process::id()));
    let sockets = folder.join("fernvpn");
    std::fs::create_dir_all(&sockets).unwrap();
    let says = [
        ("fine", "ok\na\u{e9}\nb\n"),
        ("title", "ok\n\u{1b}]0;owned\u{7}\u{9b}31m\r\n"),
        ("refuses", "no\n\u{1b}[2J\u{202e}"),
        ("\u{1b}[31mred\n", "no answer\n"),
    ];
    let answered = says.map(|(name, says)| {
        let listener = UnixListener::bind(sockets.join(format!("{name}.sock"))).unwrap();
        thread::spawn(move || {
            let mut asker = listener.accept().unwrap().0;
            asker.read_to_end(&mut Vec::new()).unwrap();
            asker.write_all(says.as_bytes()).unwrap();
        })
    });
    let asked = Command::new(env!("CARGO_BIN_EXE_fernvpn"))
        .arg("status")
        .env("XDG_RUNTIME_DIR", &folder)
        .output();
    let asked = asked.unwrap();
    answered
        .into_iter()
        .for_each(|answered| answered.join().unwrap());
    let text = String::from_utf8([asked.stdout, asked.stderr].concat()).unwrap();
    assert!(
        text.contains("a\u{e9}\nb\n") && text.contains("owned") && text.contains("red"),
        "{text:?}"
    );
    assert!(
        !text.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}')),
        "{text:?}"
    );
    std::fs::remove_dir_all(folder).unwrap();
}
