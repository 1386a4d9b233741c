//! Do the two ends of a ratcheted key stay in step, whatever crashes or is lost? And does the way
//! back stay closed?
//!
//! The first tests drive the code that decides (`tunnel::peers::ratchet_store` and the handshake)
//! through thousands of random histories, with a memory in place of the files. The last ones drive
//! a real server and client over TCP with real files.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use crate::common;
#[cfg(all(target_os = "linux", not(fernvpn_portable)))]
use crate::loopback;
use common::{Random, TIME, counting, offer};
use fernvpn::config::state_file::{Store, StoredRatchet};
use fernvpn::fernet::Key;
use fernvpn::protocol::handshake::{
    AwaitConfig, AwaitFinished, AwaitServerHello, ClientHello, FreshHello, client_hello, client_id,
};
use fernvpn::protocol::key_schedule::{Id, Root};
use fernvpn::protocol::record::{Fresh, Suite};
use fernvpn::tunnel::peers::ratchet_store::{ClientKey, ServerRatchet};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

/// When the power fails during a save.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    Before,
    After,
}

/// What a disk holds, and what happens at the next write.
struct Disk {
    kept: StoredRatchet,
    fault: Fault,
}

#[derive(Clone)]
struct Memory(Arc<Mutex<Disk>>);

impl Memory {
    fn new() -> Memory {
        let kept = StoredRatchet {
            key: Key::from_bytes(&[3; 32]),
            step: 0,
            secret: None,
        };
        Memory(Arc::new(Mutex::new(Disk {
            kept,
            fault: Fault::None,
        })))
    }

    fn kept(&self) -> StoredRatchet {
        self.0.lock().unwrap().kept.clone()
    }

    fn fail(&self, fault: Fault) {
        self.0.lock().unwrap().fault = fault;
    }

    fn client(&self) -> ClientKey {
        ClientKey::new(self.kept(), Some(Box::new(self.clone())))
    }

    fn server(&self) -> ServerRatchet {
        self.fail(Fault::None);
        ServerRatchet::open(&self.kept(), Box::new(self.clone())).unwrap()
    }
}

impl Store for Memory {
    fn save(&mut self, state: &StoredRatchet) -> Result<(), String> {
        let mut disk = self.0.lock().unwrap();
        let fault = std::mem::replace(&mut disk.fault, Fault::None);
        if fault != Fault::Before {
            disk.kept = state.clone();
        }
        if fault == Fault::None {
            Ok(())
        } else {
            Err("the disk".into())
        }
    }
}

/// The key with this id, if the server has it.
fn root_of(server: &ServerRatchet, id: Id) -> Option<Root> {
    server.keys().find(|(own, _)| *own == id)?.1
}

/// A handshake that the server has answered.
struct Answered {
    step: u64,
    next: AwaitFinished,
}

/// Both ends, their disks, and the nonces of hellos.
struct World {
    disks: [Memory; 2],
    client: ClientKey,
    server: ServerRatchet,
    nonce: u64,
    /// Hello bodies that an attacker recorded, and handshakes that hang.
    recorded: Vec<Vec<u8>>,
    hanging: Vec<(Answered, Vec<u8>)>,
    suite: Suite,
    /// The keys of sessions that were established.
    used: HashSet<[u8; 32]>,
}

impl World {
    fn new(suite: Suite) -> World {
        let disks = [Memory::new(), Memory::new()];
        let (client, server) = (disks[0].client(), disks[1].server());
        let (recorded, hanging, used) = (Vec::new(), Vec::new(), HashSet::new());
        World {
            disks,
            client,
            server,
            nonce: 0,
            recorded,
            hanging,
            suite,
            used,
        }
    }

    fn fresh(&mut self) -> FreshHello {
        self.nonce += 1;
        let mut nonce = [0; 32];
        nonce[..8].copy_from_slice(&self.nonce.to_be_bytes());
        FreshHello {
            nonce,
            token: Fresh {
                time: TIME,
                iv: *nonce.first_chunk().unwrap(),
            },
        }
    }

    fn hello(&mut self) -> (Vec<u8>, AwaitServerHello) {
        let (root, step) = self.client.current();
        let fresh = self.fresh();
        let (frame, next) = client_hello(&root, step, offer(&[self.suite]), fresh);
        self.recorded.push(common::body(&frame));
        (common::body(&frame), next)
    }

    /// What the server says to a hello: nothing, or a ServerHello; then perhaps it awaits Finished.
    fn answer(&mut self, body: &[u8]) -> Option<(Vec<u8>, Option<Answered>)> {
        let id = client_id(body).unwrap();
        let root = root_of(&self.server, id)?;
        let hello = ClientHello::receive(&root, body, None).unwrap();
        let state = self.server.sync(id).ok()?;
        let fresh = self.fresh();
        let (frame, next) = hello.answer(&offer(&[self.suite]), Some(&state), fresh);
        Some((
            common::body(&frame),
            next.ok().map(|next| Answered {
                step: state.step,
                next,
            }),
        ))
    }

    /// The client verifies the answer, keeps the next key, and makes Finished.
    fn finish(&mut self, next: AwaitServerHello, answer: &[u8]) -> Option<(Vec<u8>, AwaitConfig)> {
        let agreed = next.receive(answer).unwrap();
        agreed
            .finish(|state| self.client.keep(state), &mut counting())
            .ok()
    }

    /// The server takes Finished, moves, and sends Config.
    fn configure(&mut self, answered: Answered, finished: &[u8]) -> Option<Vec<u8>> {
        let ready = answered.next.receive(&mut common::body(finished)).unwrap();
        let id = self.server.keys().next().unwrap().0;
        let before = *root_of(&self.server, id).unwrap().key().bytes();
        self.server.finish(answered.step).ok()?;
        assert!(self.used.insert(before), "one session to a key");
        Some(ready.configure(b"mtu=1500\n", &mut counting()).unwrap().0)
    }

    /// A whole handshake in which nothing fails.
    fn connect(&mut self) {
        let (hello, next) = self.hello();
        let (answer, answered) = self
            .answer(&hello)
            .expect("the server knows this client: no lock-out");
        let (finished, next) = self.finish(next, &answer).expect("nothing failed");
        let config = self
            .configure(answered.expect("level"), &finished)
            .expect("nothing failed");
        next.receive(&mut common::body(&config)).unwrap();
        self.agree();
    }

    /// After a session, both disks have the same key and step, and no earlier key.
    fn agree(&self) {
        let [client, server] = self.disks.each_ref().map(Memory::kept);
        assert_eq!(
            (client.key.bytes(), client.step),
            (server.key.bytes(), server.step)
        );
        assert!(
            !self.used.contains(client.key.bytes()),
            "the key of a session is gone after it"
        );
    }

    fn restart_client(&mut self) {
        self.disks[0].fail(Fault::None);
        self.client = self.disks[0].client();
    }

    /// Answered handshakes go with the process.
    fn restart_server(&mut self) {
        self.hanging.clear();
        self.server = self.disks[1].server();
    }
}

#[test]
fn a_crash_at_any_write_of_either_side_is_caught_up_with() {
    for suite in Suite::ALL {
        for fault in [Fault::Before, Fault::After] {
            for restarts in [false, true] {
                // At the client's write.
                let mut world = World::new(suite);
                world.connect();
                let (hello, next) = world.hello();
                let (answer, _) = world.answer(&hello).unwrap();
                world.disks[0].fail(fault);
                assert!(world.finish(next, &answer).is_none(), "no Finished");
                if restarts {
                    world.restart_client();
                }
                world.connect();
                // At the server's, after Finished; and once more where it catches up.
                let (hello, next) = world.hello();
                let (answer, answered) = world.answer(&hello).unwrap();
                let (finished, _) = world.finish(next, &answer).unwrap();
                world.disks[1].fail(fault);
                let ready = answered.unwrap();
                assert!(world.server.finish(ready.step).is_err(), "no Config");
                if restarts {
                    world.restart_server();
                }
                drop((ready.next, finished));
                let (hello, _) = world.hello();
                world.disks[1].fail(fault);
                let answered = world.answer(&hello).is_some();
                assert_eq!(
                    answered,
                    restarts && fault == Fault::After,
                    "only what need not catch up is answered"
                );
                if restarts {
                    world.restart_server();
                }
                world.disks[1].fail(Fault::None);
                world.connect();
            }
        }
    }
}

/// Random histories of crashes, losses, replays and reconnects, each of which ends with a
/// connection that must work.
#[test]
fn no_history_locks_the_client_out_or_uses_a_key_twice() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(0x5eed);
    println!("SEED={seed}");
    let mut random = Random(seed);
    let (mut kept, mut ahead) = (0, 0);
    for history in 0..3_000 {
        let mut world = World::new(Suite::ALL[history % Suite::ALL.len()]);
        for _ in 0..random.below(24) {
            let fault = [Fault::None, Fault::None, Fault::Before, Fault::After][random.below(4)];
            match random.below(8) {
                // A handshake that gets as far as chance lets it; each write may fail.
                0..=3 => {
                    let (hello, next) = world.hello();
                    if random.below(6) == 0 {
                        continue; // the hello is lost
                    }
                    world.disks[1].fail(fault);
                    let answer = world.answer(&hello);
                    world.disks[1].fail(Fault::None);
                    let Some((answer, Some(answered))) = answer else {
                        continue;
                    };
                    if random.below(6) == 0 {
                        continue; // the answer is lost
                    }
                    world.disks[0].fail(
                        [Fault::None, Fault::None, Fault::Before, Fault::After][random.below(4)],
                    );
                    let finished = world.finish(next, &answer);
                    world.disks[0].fail(Fault::None);
                    let Some((finished, next)) = finished else {
                        continue;
                    };
                    match random.below(4) {
                        0 => world.hanging.push((answered, finished)), // it comes late, or never
                        1 => {}
                        _ => {
                            world.disks[1].fail(fault);
                            let config = world.configure(answered, &finished);
                            world.disks[1].fail(Fault::None);
                            if let Some(config) = config {
                                next.receive(&mut common::body(&config)).unwrap();
                                kept += 1;
                            }
                        }
                    }
                }
                4 if !world.recorded.is_empty() => {
                    // A replay: it may be answered, and can move nothing that the client has not
                    // left behind.
                    let replayed = world.recorded[random.below(world.recorded.len())].clone();
                    world.disks[1].fail(fault);
                    let _ = world.answer(&replayed);
                    world.disks[1].fail(Fault::None);
                }
                5 if !world.hanging.is_empty() => {
                    let (answered, finished) =
                        world.hanging.swap_remove(random.below(world.hanging.len()));
                    let _ = world.configure(answered, &finished);
                }
                6 => world.restart_client(),
                _ => world.restart_server(),
            }
            let [client, server] = world.disks.each_ref().map(Memory::kept);
            ahead += usize::from(client.step > server.step);
        }
        world.connect();
        world.connect();
    }
    assert!(
        kept > 1_000 && ahead > 1_000,
        "the histories reach what they are meant to: {kept} {ahead}"
    );
}

/// What a thief with a recording and a key can do: open every token and record of it that this key
/// opens.
fn opens(recording: &Recording, key: &Key) -> bool {
    let root = Root::new(key.clone());
    let hello = ClientHello::receive(&root, &recording.hello, None).is_ok();
    // A thief who can open the ServerHello has r and the session's keys.
    hello || recording.answers(&root)
}

struct Recording {
    hello: Vec<u8>,
    answer: Vec<u8>,
}

impl Recording {
    fn answers(&self, root: &Root) -> bool {
        let mut token = self.answer.clone();
        fernvpn::fernet::token::open(std::slice::from_ref(root.hello()), &mut token, None).is_ok()
    }

    fn secret(&self, key: &Key) -> [u8; 32] {
        let root = Root::new(key.clone());
        let mut token = self.answer.clone();
        let opened =
            fernvpn::fernet::token::open(std::slice::from_ref(root.hello()), &mut token, None)
                .unwrap();
        fernvpn::protocol::fields::Fields::parse(opened.message)
            .unwrap()
            .hex32("ratchet")
            .unwrap()
    }
}

/// A session, recorded.
fn recorded(world: &mut World) -> Recording {
    let (hello, next) = world.hello();
    let (answer, answered) = world.answer(&hello).unwrap();
    let (finished, next) = world.finish(next, &answer).unwrap();
    let config = world.configure(answered.unwrap(), &finished).unwrap();
    next.receive(&mut common::body(&config)).unwrap();
    Recording { hello, answer }
}

#[test]
fn the_states_after_a_session_do_not_open_its_recording() {
    for suite in Suite::ALL {
        let mut world = World::new(suite);
        let before = world.disks[0].kept().key;
        let recording = recorded(&mut world);
        assert!(opens(&recording, &before), "the key of the session does");
        for kept in world.disks.each_ref().map(Memory::kept) {
            assert!(!opens(&recording, &kept.key));
            // Nor a step on from there, with the secret that the server holds.
            let secret = world.disks[1].kept().secret.unwrap();
            let next = Root::new(kept.key.clone()).next(&secret);
            assert!(!opens(&recording, next.key()));
        }
    }
}

#[test]
fn a_copied_key_follows_the_chain_only_with_every_handshake() {
    let mut world = World::new(Suite::AES_256_GCM);
    let copied = world.disks[0].kept().key;
    let first = recorded(&mut world);
    let second = recorded(&mut world);
    let third = recorded(&mut world);
    // With all of the keys it opens each in turn. A copy that only listens shows nothing, and the
    // program says so.
    let one = Root::new(copied.clone()).next(&first.secret(&copied));
    assert!(opens(&second, one.key()));
    let two = one.next(&second.secret(one.key()));
    assert!(opens(&third, two.key()));
    // Without the first it opens none after it, whatever secret it takes for the one that it has
    // missed.
    assert!(!opens(&second, &copied) && !opens(&third, &copied));
    for wrong in [second.secret(one.key()), third.secret(two.key()), [0; 32]] {
        let guess = Root::new(copied.clone()).next(&wrong);
        assert!(!opens(&second, guess.key()) && !opens(&third, guess.key()));
    }
}

#[test]
fn the_last_step_is_refused_and_not_followed_by_the_first() {
    let memory = Memory::new();
    memory.0.lock().unwrap().kept.step = u64::MAX;
    let mut server = memory.server();
    let error = server.finish(u64::MAX).unwrap_err();
    assert!(error.contains("reset-client"), "{error}");
    let ahead = server.keys().nth(1).unwrap().0;
    assert!(server.sync(ahead).is_err(), "nor by catching up");
    assert_eq!(memory.kept().step, u64::MAX);
}

#[cfg(all(target_os = "linux", not(fernvpn_portable)))]
mod files {
    use super::loopback::*;
    use fernvpn::config::settings::{ClientSettings, ServerSettings};
    use fernvpn::config::state_file::{StateFile, StoredRatchet};
    use fernvpn::protocol::record::Suite;
    use fernvpn::tunnel::client::Client;
    use std::fs;
    use std::net::{SocketAddr, TcpListener};
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path =
                std::env::temp_dir().join(format!("fernvpn-ratchet-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            for side in ["server", "client"] {
                fs::write(path.join(side), key(0).to_text()).unwrap();
            }
            Folder(path)
        }

        fn path(&self, side: &str) -> PathBuf {
            self.0.join(side)
        }

        fn kept(&self, side: &str) -> StoredRatchet {
            StoredRatchet::read(&self.path(side)).unwrap()
        }

        fn serve(&self) -> (fernvpn::tunnel::server::Server, SocketAddr) {
            let mut settings: ServerSettings = settings(1);
            settings.peers[0].keys.clear();
            settings.peers[0].ratchet = Some(self.path("server"));
            // A server that stops keeps its files until its last connection has gone.
            eventually("the file is free", || {
                StateFile::open(&self.path("server")).is_ok()
            });
            serve(settings, None)
        }

        fn client(&self, at: SocketAddr, suite: Suite) -> ClientSettings {
            let ratchet = Some(self.path("client"));
            ClientSettings {
                ratchet,
                once: true,
                suites: vec![suite],
                ..client_settings(at, 0)
            }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn is_ahead(folder: &Folder) -> bool {
        let [client, server] = ["client", "server"].map(|side| folder.kept(side));
        client.step == server.step + 1
    }

    #[test]
    fn each_session_moves_both_files_one_step_and_leaves_no_old_key() {
        let folder = Folder::new("sessions");
        let mut seen = Vec::new();
        for step in 1..=4 {
            let (_server, at) = folder.serve();
            let suite = Suite::ALL[step % Suite::ALL.len()];
            let running = Running::start(folder.client(at, suite), None);
            running.connected();
            running.stop().unwrap();
            let [client, server] = ["client", "server"].map(|side| folder.kept(side));
            assert_eq!((client.step, server.step), (step as u64, step as u64));
            assert_eq!(client.key.bytes(), server.key.bytes());
            assert!(client.secret.is_none() && server.secret.is_some());
            seen.push(client.key.to_text());
        }
        for file in fs::read_dir(&folder.0).unwrap() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            for old in &seen[..3] {
                assert!(!text.contains(old), "an old key is left");
            }
        }
    }

    /// What a disk can show after a crash at each step of a replacement, on either side.
    #[test]
    fn whatever_a_crash_leaves_of_a_file_the_next_handshake_works() {
        let folder = Folder::new("crash");
        let leftovers = |side: &str| folder.0.join(format!(".{side}.new"));
        for side in ["client", "server"] {
            for left in ["", "key=cw_0x6", "key=AAAA\nstep=9\n"] {
                // The file was created, half written, or whole, but not yet renamed.
                fs::write(leftovers(side), left).unwrap();
                let (_server, at) = folder.serve();
                let running = Running::start(folder.client(at, Suite::AES_256_GCM), None);
                running.connected();
                running.stop().unwrap();
                assert!(
                    !leftovers(side).exists(),
                    "what a crash left may be a key: it is gone"
                );
            }
        }
        // Renamed at the client, never at the server: one ahead.
        let before = fs::read(folder.path("server")).unwrap();
        let (server, at) = folder.serve();
        let running = Running::start(folder.client(at, Suite::FERNET), None);
        running.connected();
        running.stop().unwrap();
        drop(server);
        eventually("the server gives its file back", || {
            StateFile::open(&folder.path("server")).is_ok()
        });
        fs::write(folder.path("server"), before).unwrap();
        assert!(is_ahead(&folder));
        let (_server, at) = folder.serve();
        let running = Running::start(folder.client(at, Suite::FERNET), None);
        running.connected();
        running.stop().unwrap();
        assert!(!is_ahead(&folder));
    }

    /// A folder in the way of the file that is written first: even root cannot write then.
    fn block(folder: &Folder, side: &str) -> PathBuf {
        let path = folder.0.join(format!(".{side}.new/x"));
        fs::create_dir_all(&path).unwrap();
        path.parent().unwrap().to_owned()
    }

    #[test]
    fn a_state_that_cannot_be_written_refuses_the_handshake() {
        let folder = Folder::new("blocked");
        let connect = |at| {
            let running = Running::start(folder.client(at, Suite::AES_256_GCM), None);
            running.end().unwrap_err()
        };
        let (server, at) = folder.serve();
        // The client's: no Finished, and nothing has moved.
        let blocked = block(&folder, "client");
        let error = connect(at);
        assert!(
            error.contains("cannot replace") && error.contains("ratcheted"),
            "{error}"
        );
        assert_eq!(
            (folder.kept("client").step, folder.kept("server").step),
            (0, 0)
        );
        fs::remove_dir_all(blocked).unwrap();
        // The server's: after Finished no Config; then, one step ahead, a reason.
        let blocked = block(&folder, "server");
        let error = connect(at);
        assert!(error.contains("did not finish"), "{error}");
        assert!(is_ahead(&folder));
        let error = connect(at);
        assert!(error.contains("cannot keep the ratcheted key"), "{error}");
        assert!(server.clients()[0].connection().is_none());
        fs::remove_dir_all(blocked).unwrap();
        let running = Running::start(folder.client(at, Suite::AES_256_GCM), None);
        running.connected();
        running.stop().unwrap();
        assert!(!is_ahead(&folder));
    }

    #[test]
    fn a_state_belongs_to_one_program_at_a_time() {
        let folder = Folder::new("lock");
        let (_server, at) = folder.serve();
        let running = Running::start(folder.client(at, Suite::AES_256_GCM), None);
        running.connected();
        let error = Client::new(folder.client(at, Suite::AES_256_GCM))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("another program uses"), "{error}");
        let mut second: ServerSettings = settings(1);
        second.peers[0].keys.clear();
        second.peers[0].ratchet = Some(folder.path("server"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = fernvpn::tunnel::server::Server::start(second, vec![listener], None)
            .err()
            .unwrap();
        assert!(error.contains("another program uses"), "{error}");
    }

    #[test]
    fn a_storm_of_reconnections_stays_in_step() {
        let folder = Folder::new("storm");
        let (server, at) = folder.serve();
        // A client that was stopped keeps its state until its last thread has ended.
        let free = || {
            let end = Instant::now() + Duration::from_secs(10);
            while StateFile::open(&folder.path("client")).is_err() {
                assert!(
                    Instant::now() < end,
                    "the client that was stopped still has its state"
                );
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        for round in 0..30 {
            free();
            let running = Running::start(
                folder.client(at, Suite::ALL[round % Suite::ALL.len()]),
                None,
            );
            if round % 3 == 0 {
                drop(running.stop()); // wherever it has come by now
            } else {
                running.connected();
                drop(running.stop());
            }
        }
        free();
        let running = Running::start(folder.client(at, Suite::AES_256_GCM), None);
        running.connected();
        assert!(folder.kept("server").step > 20);
        drop(server);
    }

    fn run(arguments: &[&str], folder: &Path) -> (bool, String, String) {
        let program = std::process::Command::new(env!("CARGO_BIN_EXE_fernvpn"));
        let mut program = program;
        let output = program
            .args(arguments)
            .current_dir(folder)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.success(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    #[test]
    fn reset_client_prints_what_the_client_needs() {
        let folder = Folder::new("reset");
        let config = "[server]\n[peer]\nname = alice\nkey-file = server\nratchet = yes\n[peer]\n\
            name = bob\n\
                      key = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
        fs::write(folder.path("conf"), config).unwrap();
        let reset = |name| run(&["reset-client", name, "-c", "conf"], &folder.0);
        assert!(reset("bob").2.contains("static"));
        assert!(reset("carol").2.contains("no peer carol"));
        let (done, printed, error) = reset("alice");
        assert!(done, "{error}");
        fs::write(folder.path("client"), &printed).unwrap();
        assert_ne!(folder.kept("server").key.bytes(), key(0).bytes());
        let (server, at) = folder.serve();
        let running = Running::start(folder.client(at, Suite::AES_256_GCM), None);
        running.connected();
        let (done, printed, error) = reset("alice");
        assert!(done && !printed.is_empty(), "{error}");
        assert!(
            error.contains("To apply the new key: fernvpn reload"),
            "{error}"
        );
        assert_eq!(folder.kept("server").step, 1, "the server's own until then");
        drop((running, server));
    }
}
