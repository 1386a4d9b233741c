//! Which clients notice that a server has a new configuration? The server runs as threads, and the
//! peers are made of the protocol alone. `reload.sh` tests the command `reload` and SIGHUP.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::loopback;
use fernvpn::config::settings::ServerSettings;
use fernvpn::protocol::record::RecordType;
use fernvpn::tunnel::server::Server;
use fernvpn::tunnel::session::receiver::close;
use loopback::*;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

/// Takes it up, on a machine on which there is nothing to do for it.
fn reload(server: &Server, settings: ServerSettings) -> Result<String, String> {
    server.reload(settings, |_| Ok(()))
}

/// The settings of `clients` clients, changed.
fn changed(clients: usize, change: impl FnOnce(&mut ServerSettings)) -> ServerSettings {
    let mut settings = settings(clients);
    change(&mut settings);
    settings
}

#[test]
fn who_is_not_concerned_notices_nothing() {
    let (tun, kernel) = device(false);
    let (server, at) = serve(settings(3), Some(tun));
    let mut peers: Vec<Raw> = (0..3).map(|n| raw_client(at, n, PLAIN)).collect();
    let before: Vec<_> = server
        .clients()
        .iter()
        .map(|client| client.connection().unwrap())
        .collect();
    // Client 0 is removed, 1 gets another address, 3 is new.
    let said = reload(
        &server,
        changed(4, |new| {
            new.peers[1].addresses = vec![address("10.8.9.9"), v6(1)];
            new.peers.remove(0);
        }),
    )
    .unwrap();
    assert_eq!(
        said,
        "3 clients; disconnected because their key is gone: 1; told to connect again: 1"
    );
    assert_eq!(peers[0].closed_with(), Some(close::REMOVED));
    assert_eq!(peers[1].closed_with(), Some(close::CONFIGURED));
    let unchanged = server.clients()[1].connection().unwrap();
    assert!(Arc::ptr_eq(&unchanged, &before[2]), "the same connection");
    for n in 0..10 {
        let there = packet(v4(2), address("10.8.0.1"), &[n]);
        peers[2].send_packet(&there);
        assert_eq!(kernel.receive(), there);
        let back = packet(address("10.8.0.1"), v4(2), &[n]);
        kernel.send(&back);
        assert_eq!(peers[2].receive_packets(), [back]);
    }
    // The removed key is a stranger's now; the others connect, one of them for the first time.
    let hello = RawHello::new(0, PLAIN).frame;
    assert!(is_met_with_silence(at, &hello));
    let (config, _) = RawHello::new(1, PLAIN).ask(at).finish().unwrap();
    assert_eq!(config.addresses[0].address, address("10.8.9.9"));
    assert!(raw_client(at, 3, PLAIN).says_hello().contains("client3"));
}

#[test]
fn everybody_is_told_what_everybody_should_know() {
    let (server, at) = serve(settings(2), None);
    for change in [
        (|new: &mut ServerSettings| new.push_routes = vec!["192.168.0.0/24".parse().unwrap()])
            as fn(&mut _),
        |new| new.push_dns = vec![address("10.8.0.1")],
        |new| new.mtu = 1400,
        |new| new.keepalive = 7,
    ] {
        let mut peers: Vec<Raw> = (0..2).map(|n| raw_client(at, n, PLAIN)).collect();
        reload(&server, changed(2, change)).unwrap();
        for peer in &mut peers {
            assert_eq!(peer.closed_with(), Some(close::CONFIGURED));
        }
        drop(peers);
        reload(&server, settings(2)).unwrap();
    }
}

#[test]
fn what_is_not_told_is_taken_up_silently() {
    let (server, at) = serve(settings(2), None);
    let mut peers: Vec<Raw> = (0..2).map(|n| raw_client(at, n, PLAIN)).collect();
    let from_behind = packet(address("192.168.7.1"), v4(1), b"from behind");
    let between = packet(v4(0), v4(1), b"to another client");
    for peer in [&from_behind, &between] {
        peers[0].send_packet(peer);
        assert!(
            peers[0].says_hello().contains("client0"),
            "the packets before it were judged"
        );
    }
    let load =
        |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    let traffic = Arc::clone(&server.clients()[0].traffic);
    assert_eq!(
        (
            load(&traffic.dropped_source),
            load(&traffic.dropped_destination)
        ),
        (1, 1)
    );
    let said = reload(
        &server,
        changed(2, |new| {
            new.client_to_client = true;
            new.max_clients = 1;
            new.peers[0].routes = vec!["192.168.7.0/24".parse().unwrap()];
        }),
    )
    .unwrap();
    assert_eq!(
        said,
        "2 clients; disconnected because their key is gone: 0; told to connect again: 0"
    );
    for packet in [from_behind, between] {
        peers[0].send_packet(&packet);
        assert_eq!(peers[1].receive_packets(), [packet]);
    }
    eventually("the same counters go on", || {
        load(&server.clients()[0].traffic.packets_in) == 2
    });
}

#[test]
fn a_configuration_that_contradicts_itself_changes_nothing() {
    let (server, at) = serve(settings(2), None);
    let mut peer = raw_client(at, 0, PLAIN);
    for (wrong, reason) in [
        (
            changed(2, |new| new.peers[1].keys = new.peers[0].keys.clone()),
            "same key",
        ),
        (
            changed(2, |new| {
                new.peers[1].addresses = new.peers[0].addresses.clone()
            }),
            "taken",
        ),
        (
            changed(3, |new| {
                new.peers[2].ratchet = Some(PathBuf::from("/none/there"))
            }),
            "/none",
        ),
        (
            changed(1, |new| {
                new.push_routes = vec!["10.0.0.0/8".parse().unwrap(); 2000]
            }),
            "1000",
        ),
    ] {
        let error = reload(&server, wrong).unwrap_err();
        assert!(error.contains(reason), "{error}");
        assert!(peer.says_hello().contains("client0"));
        assert!(raw_client(at, 1, PLAIN).says_hello().contains("client1"));
    }
}

#[test]
fn a_key_is_exchanged_for_another_one() {
    let (server, at) = serve(settings(1), None);
    let mut old = raw_client(at, 0, PLAIN);
    // Both keys are good, and nobody notices.
    reload(&server, changed(1, |new| new.peers[0].keys.push(key(7)))).unwrap();
    assert!(old.says_hello().contains("client0"));
    let mut new = raw_client(at, 7, PLAIN);
    assert_eq!(
        old.closed_with(),
        Some(close::REPLACED),
        "one client, whichever key"
    );
    // The old key goes. A client that uses the new one notices nothing.
    reload(
        &server,
        changed(1, |settings| settings.peers[0].keys = vec![key(7)]),
    )
    .unwrap();
    assert!(new.says_hello().contains("client0"));
    assert!(is_met_with_silence(at, &RawHello::new(0, PLAIN).frame));
    // And the other way round, under another name too.
    reload(
        &server,
        changed(1, |settings| settings.peers[0].keys = vec![key(0)]),
    )
    .unwrap();
    assert_eq!(new.closed_with(), Some(close::REMOVED));
    let mut renamed = raw_client(at, 0, PLAIN);
    reload(
        &server,
        changed(1, |settings| settings.peers[0].name = "carol".into()),
    )
    .unwrap();
    assert_eq!(renamed.closed_with(), Some(close::CONFIGURED));
    assert!(raw_client(at, 0, PLAIN).says_hello().contains("carol"));
}

#[test]
fn a_handshake_under_way_does_not_outlive_its_key() {
    let (server, at) = serve(settings(2), None);
    let (doomed, fine) = (
        RawHello::new(0, PLAIN).ask(at),
        RawHello::new(1, PLAIN).ask(at),
    );
    reload(&server, changed(2, |new| _ = new.peers.remove(0))).unwrap();
    let (_, mut peer) = doomed.finish().expect("a Config, and then the end");
    assert_eq!(peer.closed_with(), Some(close::REMOVED));
    let (_, mut peer) = fine.finish().unwrap();
    assert!(peer.says_hello().contains("client1"));
}

#[test]
fn hellos_stay_answered() {
    let (server, at) = serve(settings(1), None);
    let hello = RawHello::new(0, PLAIN);
    let frame = hello.frame.clone();
    hello.ask(at);
    reload(&server, settings(1)).unwrap();
    assert!(is_met_with_silence(at, &frame), "a replay");
}

/// The state of a ratcheted key is one program's at a time, and across reloads this one's.
#[test]
fn ratcheted_keys_go_on() {
    let folder = std::env::temp_dir().join(format!("fernvpn-reload-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let state = |who: &str, n: usize| {
        let file = folder.join(who);
        std::fs::write(&file, key(n).to_text()).unwrap();
        file
    };
    let [servers, clients] = [state("server", 0), state("client", 0)];
    let with = |name: &str| {
        changed(2, |new| {
            (new.peers[0].name, new.peers[0].keys) = (name.into(), Vec::new());
            new.peers[0].ratchet = Some(servers.clone());
        })
    };
    let (server, at) = serve(with("client0"), None);
    let mut settings = client_settings(at, 0);
    settings.ratchet = Some(clients);
    let running = Running::start(settings, None);
    running.connected();
    let mut steps = HashSet::new();
    for name in ["client0", "renamed", "client0"] {
        steps.insert(server.clients()[0].step().unwrap());
        reload(&server, with(name)).unwrap();
        if name == "client0" && steps.len() == 1 {
            assert!(server.clients()[0].connection().is_some(), "not disturbed");
        } else {
            running.connected();
            eventually("it has connected again", || {
                server.clients()[0].connection().is_some()
            });
        }
    }
    assert_eq!(steps, HashSet::from([1, 2]), "a step each time");
    // Gone from the configuration, its file is free, and the client is told for good.
    reload(&server, changed(1, |new| new.peers[0].keys = vec![key(9)])).unwrap();
    assert!(running.end().unwrap_err().contains("removed"));
    eventually("the file is free", || {
        fernvpn::config::state_file::StateFile::open(&servers).is_ok()
    });
    std::fs::remove_dir_all(folder).unwrap();
}

/// Whether the server does not answer within the time in which it has answered another peer.
fn is_met_with_silence(at: std::net::SocketAddr, hello: &[u8]) -> bool {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(at).unwrap();
    socket.write_all(hello).unwrap();
    socket
        .set_read_timeout(Some(std::time::Duration::from_millis(300)))
        .unwrap();
    matches!(socket.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Packets in flight while the configuration is taken up again and again: none is lost.
#[test]
fn no_packet_is_lost() {
    let (tun, kernel) = device(false);
    let (server, at) = serve(settings(1), Some(tun));
    let mut peer = raw_client(at, 0, PLAIN);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (server, stop) = (&server, &stop);
        let reloading = scope.spawn(move || {
            let mut times = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                reload(server, changed(1 + times % 2, |_| {})).unwrap();
                times += 1;
            }
            times
        });
        for n in 0..3000_u32 {
            let there = packet(v4(0), address("10.8.0.1"), &n.to_be_bytes());
            peer.send(RecordType::Packets, &listed(&[&there]));
            assert_eq!(kernel.receive(), there);
            let back = packet(address("10.8.0.1"), v4(0), &n.to_be_bytes());
            kernel.send(&back);
            assert_eq!(peer.receive_packets(), [back]);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reloading.join().unwrap() > 10);
    });
}
