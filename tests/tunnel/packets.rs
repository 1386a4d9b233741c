//! Do packets go where they should, whatever the peers do? Servers and clients as threads, over TCP
//! on loopback, with datagram sockets in place of TUN devices.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use crate::common;
use crate::loopback;
use fernvpn::config::settings::{ClientSettings, ServerSettings};
use fernvpn::os::tun::Tun;
use fernvpn::packet::icmp;
use fernvpn::packet::offload::{LENGTH, Offload};
use fernvpn::packet::subnet::Subnet;
use fernvpn::protocol::record::{Opener, RecordType, Suite};
use fernvpn::tunnel::device;
use fernvpn::tunnel::server::Server;
use fernvpn::tunnel::session::dispatch::{Batch, Router};
use fernvpn::tunnel::session::receiver::close;
use fernvpn::tunnel::session::sender::{Sent, SessionSender};
use loopback::*;
use std::io::{Read, Write};
use std::iter::from_fn;
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const QUIET: Duration = Duration::from_millis(200);

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

// ---------------------------------------------------------------------- packets

#[test]
fn packets_cross_each_way_in_both_suites_and_both_families() {
    for suite in Suite::ALL {
        let (tun, kernel) = device(false);
        let (server, at) = serve(settings(3), Some(tun));
        let clients: Vec<_> = (0..3)
            .map(|n| {
                let (tun, kernel) = device(false);
                (client(at, n, suite, Some(tun)), kernel)
            })
            .collect();
        for (n, (_, far)) in clients.iter().enumerate() {
            for (own, to) in [(v4(n), address("10.8.0.1")), (v6(n), address("fd08::1"))] {
                for length in [0, 1, 1000, 1480] {
                    let up = packet(own, to, &vec![n as u8; length]);
                    far.send(&up);
                    assert_eq!(kernel.receive(), up);
                    let down = packet(to, own, &vec![0x80 | n as u8; length]);
                    kernel.send(&down);
                    assert_eq!(far.receive(), down, "and nobody else's");
                }
            }
            // What is no packet goes nowhere, and harms nothing.
            for bytes in [&[][..], &[0x45], &[0xff; 60], &[0x45; 60], &[0x60; 60]] {
                far.send(bytes);
                kernel.send(bytes);
            }
            // The world behind the server; an address of the tunnel that nobody has.
            let world = packet(v4(n), address("198.51.100.1"), b"out");
            far.send(&packet(v4(n), address("10.8.77.77"), b"nobody"));
            far.send(&world);
            assert_eq!(kernel.receive(), world);
        }
        for client in server.clients() {
            let traffic = &client.traffic;
            // A packet counts once it has been passed on.
            eventually("9 in and 8 out", || {
                (load(&traffic.packets_in), load(&traffic.packets_out)) == (9, 8)
            });
            assert_eq!(load(&traffic.dropped_destination), 1);
        }
    }
}

#[test]
fn a_source_that_is_not_the_clients_never_leaves_the_server() {
    let (tun, kernel) = device(false);
    let mut settings = settings(2);
    settings.client_to_client = true;
    settings.peers[0].routes = vec!["192.168.7.0/24".parse().unwrap()];
    let (server, at) = serve(settings, Some(tun));
    let (mut spoofer, mut victim) = (raw_client(at, 0, PLAIN), raw_client(at, 1, PLAIN));
    let spoofed = [
        v4(1),
        address("10.8.0.1"),
        address("192.168.8.1"),
        address("127.0.0.1"),
    ];
    for source in spoofed {
        spoofer.send_packet(&packet(source, address("198.51.100.1"), b"spoofed"));
        spoofer.send_packet(&packet(source, v4(1), b"spoofed"));
    }
    spoofer.send_packet(&packet(v6(1), address("2001:db8::1"), b"spoofed"));
    let behind = packet(
        address("192.168.7.9"),
        v4(1),
        b"from the network behind the client",
    );
    spoofer.send_packet(&behind);
    assert_eq!(victim.receive_packets(), [behind]);
    let honest = packet(v4(0), address("198.51.100.1"), b"honest");
    spoofer.send_packet(&honest);
    assert_eq!(kernel.receive(), honest, "the first that came out");
    assert_eq!(load(&server.clients()[0].traffic.dropped_source), 9);
}

#[test]
fn a_client_with_all_the_world_behind_it_is_neither_the_server_nor_another_client() {
    let (tun, kernel) = device(false);
    let mut settings = settings(2);
    settings.client_to_client = true;
    settings.peers[0].routes = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    let (server, at) = serve(settings, Some(tun));
    let (mut exit, mut other) = (raw_client(at, 0, PLAIN), raw_client(at, 1, PLAIN));
    // What is for the server goes to the server, what is for nobody to nobody, and the rest to the
    // world behind.
    for to in ["10.8.0.1", "fd08::1"].map(address) {
        let own = if to.is_ipv4() { v4(1) } else { v6(1) };
        let asks = packet(own, to, b"a question");
        other.send_packet(&asks);
        assert_eq!(kernel.receive(), asks);
    }
    other.send_packet(&packet(v4(1), address("10.8.77.77"), b"nobody"));
    let out = packet(v4(1), address("198.51.100.1"), b"out");
    other.send_packet(&out);
    assert_eq!(exit.receive_packets(), [out]);
    // It answers for the world, and in no one's name that is in the tunnel.
    for source in [
        address("10.8.0.1"),
        address("fd08::1"),
        address("10.8.77.77"),
    ] {
        let to = if source.is_ipv4() { v4(1) } else { v6(1) };
        exit.send_packet(&packet(source, to, b"spoofed"));
    }
    let back = packet(address("198.51.100.1"), v4(1), b"back");
    exit.send_packet(&back);
    assert_eq!(other.receive_packets(), [back]);
    assert_eq!(load(&server.clients()[0].traffic.dropped_source), 3);
}

#[test]
fn what_is_for_no_single_host_never_reaches_the_kernel() {
    let (tun, kernel) = device(false);
    let (server, at) = serve(settings(1), Some(tun));
    let mut one = raw_client(at, 0, PLAIN);
    let nobodys = [
        "224.0.0.251",
        "255.255.255.255",
        "127.0.0.1",
        "0.0.0.0",
        "ff02::fb",
        "::1",
        "::",
    ];
    for to in nobodys.map(address) {
        one.send_packet(&packet(
            if to.is_ipv4() { v4(0) } else { v6(0) },
            to,
            b"to many, or to itself",
        ));
    }
    let honest = packet(v4(0), address("198.51.100.1"), b"honest");
    one.send_packet(&honest);
    assert_eq!(kernel.receive(), honest, "the first that came out");
    let dropped = load(&server.clients()[0].traffic.dropped_destination);
    assert_eq!(dropped, nobodys.len() as u64);
    // Nor from a server to a client's.
    let (tun, kernel) = device(false);
    let server = RawServer::new();
    let _running = Running::start(client_settings(server.address, 0), Some(tun));
    let mut peer = server.accept(CONFIG);
    for to in nobodys.map(address) {
        let from = if to.is_ipv4() { "10.8.0.1" } else { "fd08::1" };
        peer.send_packet(&packet(address(from), to, b"to many, or to itself"));
    }
    let honest = packet(address("10.8.0.1"), v4(0), b"honest");
    peer.send_packet(&honest);
    assert_eq!(kernel.receive(), honest, "the first that came out");
}

#[test]
fn clients_reach_each_other_only_if_they_may() {
    for allowed in [false, true] {
        let (tun, kernel) = device(false);
        let (server, at) = serve(
            ServerSettings {
                client_to_client: allowed,
                ..settings(2)
            },
            Some(tun),
        );
        let (mut one, mut two) = (raw_client(at, 0, PLAIN), raw_client(at, 1, PLAIN));
        for (from, to) in [(v4(0), v4(1)), (v6(0), v6(1))] {
            let across = packet(from, to, b"across");
            one.send_packet(&across);
            if allowed {
                assert_eq!(two.receive_packets(), [across]);
            }
        }
        // Never back to the sender, and never by way of the server's kernel.
        one.send_packet(&packet(v4(0), v4(0), b"to myself"));
        two.says_hello();
        let last = packet(v4(0), address("10.8.0.1"), b"last");
        one.send_packet(&last);
        assert_eq!(kernel.receive(), last);
        let dropped = load(&server.clients()[0].traffic.dropped_destination);
        assert_eq!(dropped, if allowed { 1 } else { 3 });
    }
}

/// Neither the server itself, nor another client, nor the world is exempt. A reload takes it up.
#[test]
fn packets_reach_only_the_networks_that_are_allowed() {
    let (tun, kernel) = device(false);
    let listed = |networks: &str| -> Option<Vec<Subnet>> {
        let parsed = networks.split(' ').map(|it| it.parse().unwrap());
        Some(parsed.collect())
    };
    let mut with = settings(3);
    with.client_to_client = true;
    with.allow = listed("198.51.100.0/25 10.8.0.1/32 2001:db8::/64");
    with.peers[1].allow = Some(Vec::new());
    with.peers[2].allow = listed("0.0.0.0/0 ::/0");
    let (server, at) = serve(with.clone(), Some(tun));
    let mut raw: Vec<Raw> = (0..3).map(|n| raw_client(at, n, PLAIN)).collect();
    let all = |n: usize| {
        let to = ["198.51.100.1", "10.8.0.1", "198.51.100.128"].map(address);
        let mut packets: Vec<Vec<u8>> = to.iter().map(|to| packet(v4(n), *to, b"4")).collect();
        let to = ["2001:db8::1", "2001:db8:0:1::1", "fd08::1"].map(address);
        packets.extend(to.iter().map(|to| packet(v6(n), *to, b"6")));
        packets
    };
    let dropped = |n: usize| load(&server.clients()[n].traffic.dropped_destination);
    for (n, passes) in [(0, vec![0, 1, 3]), (1, vec![]), (2, vec![0, 1, 2, 3, 4, 5])] {
        let packets = all(n);
        for packet in &packets {
            raw[n].send_packet(packet);
        }
        let to_client = packet(v4(n), v4((n + 1) % 3), b"across");
        raw[n].send_packet(&to_client);
        assert!(raw[n].says_hello().contains("client"));
        for at in &passes {
            assert_eq!(kernel.receive(), packets[*at], "client {n}, packet {at}");
        }
        let expected = if n == 2 { 0 } else { 7 - passes.len() as u64 };
        assert_eq!(dropped(n), expected, "client {n}");
    }
    with.allow = None;
    with.peers[1].allow = None;
    server.reload(with, |_| Ok(())).unwrap();
    for (n, raw) in raw.iter_mut().enumerate() {
        let world = packet(v4(n), address("198.51.100.128"), b"now");
        raw.send_packet(&world);
        assert_eq!(kernel.receive(), world, "client {n} after the reload");
    }
}

#[test]
fn super_packets_cross_whole_where_both_can_and_in_pieces_elsewhere() {
    let payload: Vec<u8> = (0..60_000u32).map(|n| (n % 251) as u8).collect();
    let (tun, kernel) = device(true);
    let (_server, at) = serve(
        ServerSettings {
            client_to_client: true,
            ..settings(3)
        },
        Some(tun),
    );
    let ((whole, far_whole), (split, far_split)) = (device(true), device(false));
    let _clients = [
        client(at, 0, Suite::AES_256_GCM, Some(whole)),
        client(at, 1, Suite::FERNET, Some(split)),
    ];
    let mut plain = raw_client(at, 2, PLAIN);

    let in_pieces = |pieces: &[Vec<u8>]| {
        assert_eq!(pieces.len(), 60_000usize.div_ceil(1400));
        let payloads: Vec<u8> = pieces
            .iter()
            .flat_map(|piece| piece[40..].to_vec())
            .collect();
        assert!(payloads == payload, "the pieces make up the whole");
        for piece in pieces {
            let pseudo = fernvpn::packet::checksum::pseudo_header(
                piece[12..16]
                    .first_chunk::<4>()
                    .map(|b| (*b).into())
                    .unwrap(),
                piece[16..20]
                    .first_chunk::<4>()
                    .map(|b| (*b).into())
                    .unwrap(),
                6,
                piece.len() - 20,
            );
            assert_eq!(
                fernvpn::packet::checksum::sum(&piece[20..], pseudo),
                0xffff,
                "complete checksums"
            );
        }
    };
    // Down: whole to the device with offload; in pieces to the one without, and to the peer without
    // the capability.
    let (offload, packet) = super_packet(address("10.8.0.1"), v4(0), &payload, 1400);
    kernel.send_super(offload, &packet);
    assert_eq!(far_whole.receive_super(), (offload, packet));
    let (offload, packet) = super_packet(address("10.8.0.1"), v4(1), &payload, 1400);
    // The datagram socket may hold as few as ten packets and loses the rest: until one has come
    // through whole.
    let mut pieces = Vec::new();
    eventually("all pieces", || {
        kernel.send_super(offload, &packet);
        pieces = from_fn(|| far_split.try_receive(QUIET).map(|(_, piece)| piece)).collect();
        pieces.len() == 43
    });
    in_pieces(&pieces);
    let (offload, packet) = super_packet(address("10.8.0.1"), v4(2), &payload, 1400);
    kernel.send_super(offload, &packet);
    let mut pieces = Vec::new();
    while pieces.len() < 43 {
        pieces.extend(plain.receive_packets());
    }
    in_pieces(&pieces);
    // Up, and across.
    let (offload, packet) = super_packet(v4(0), address("10.8.0.1"), &payload, 1400);
    far_whole.send_super(offload, &packet);
    assert_eq!(kernel.receive_super(), (offload, packet));
    let (offload, packet) = super_packet(v4(0), v4(2), &payload, 1400);
    far_whole.send_super(offload, &packet);
    let mut pieces = Vec::new();
    while pieces.len() < 43 {
        pieces.extend(plain.receive_packets());
    }
    in_pieces(&pieces);
}

#[test]
fn an_offload_header_that_does_not_fit_is_dropped_and_counted() {
    let (tun, kernel) = device(true);
    let (server, at) = serve(settings(1), Some(tun));
    let mut peer = raw_client(at, 0, SUPER);
    let (good, packet) = super_packet(v4(0), address("10.8.0.1"), &[7; 9000], 1400);
    let wrong = [
        Offload {
            gso_size: 0,
            ..good
        },
        Offload {
            gso_size: 1,
            ..good
        },
        Offload {
            gso_type: 4,
            ..good
        },
        Offload {
            gso_type: 77,
            ..good
        },
        Offload { flags: 0, ..good },
        Offload {
            flags: 0xff,
            ..good
        },
        Offload {
            csum_start: 0,
            ..good
        },
        Offload {
            csum_start: 0xffff,
            ..good
        },
        Offload {
            csum_offset: 0xffff,
            ..good
        },
    ];
    for offload in wrong {
        peer.send(
            RecordType::SuperPacket,
            &[&offload.to_wire()[..], &packet].concat(),
        );
    }
    peer.send(RecordType::SuperPacket, &good.to_wire());
    peer.send(
        RecordType::SuperPacket,
        &[&good.to_wire()[..], &packet[..100]].concat(),
    );
    let lying = Offload {
        hdr_len: 0xffff,
        ..good
    };
    peer.send(
        RecordType::SuperPacket,
        &[&lying.to_wire()[..], &packet].concat(),
    );
    assert_eq!(
        kernel.receive_super(),
        (good, packet),
        "its header was made anew, and nothing came before it"
    );
    assert_eq!(load(&server.clients()[0].traffic.dropped_malformed), 11);
}

// ---------------------------------------------------------------------- slow peers

#[test]
fn a_stalled_client_stalls_nobody() {
    let (tun, kernel) = device(false);
    let (server, at) = serve(settings(2), Some(tun));
    let (mut stalled, mut good) = (raw_client(at, 0, PLAIN), raw_client(at, 1, PLAIN));
    let (bulk, traffic) = (vec![0; 60_000], Arc::clone(&server.clients()[0].traffic));
    let mut rounds = 0u32;
    while load(&traffic.dropped_queue) < 100 || rounds < 300 {
        for _ in 0..4 {
            kernel.send(&packet(address("10.8.0.1"), v4(0), &bulk));
        }
        let small = packet(address("10.8.0.1"), v4(1), &rounds.to_be_bytes());
        kernel.send(&small);
        assert_eq!(
            good.receive_packets(),
            [small],
            "each one, in order, while the other one is stalled"
        );
        rounds += 1;
    }
    let others = Arc::clone(&server.clients()[1].traffic);
    assert_eq!(
        (load(&others.dropped_queue), load(&others.packets_out)),
        (0, rounds.into())
    );
    // The server closes while that one's queue is full: it still gets Close, after what was on its
    // way.
    thread::scope(|scope| {
        let closed = scope.spawn(move || stalled.closed_with());
        server.stop();
        assert_eq!(closed.join().unwrap(), Some(close::STOPPING));
    });
}

/// The sender to a peer without a server around it, the socket's far end, and the opener there.
fn sender_alone() -> (Arc<SessionSender>, TcpStream, Opener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (session, near) = (
        common::session(Suite::AES_256_GCM, None, 1),
        listener.accept().unwrap().0,
    );
    let sender = SessionSender::new(
        Arc::new(near),
        session.server.0,
        false,
        Arc::default(),
        Vec::new(),
    );
    (sender, far, session.client.1)
}

#[test]
fn who_answers_sends_the_answer_and_not_what_others_have_queued() {
    let (sender, mut socket, mut opener) = sender_alone();
    let mut receive = || {
        let body = read_frame(&mut socket)?;
        Some(common::open(&mut opener, &body).unwrap())
    };
    let queued = packet(address("10.8.0.1"), v4(0), b"of somebody");
    for round in 0..3 {
        sender.queue_packet(&queued);
        sender.send(RecordType::Pong, b"an answer");
        assert_eq!(
            Arc::strong_count(&sender),
            2,
            "round {round}: a flusher has the rest, and waits for more of it"
        );
        assert_eq!(receive(), Some((RecordType::Pong, b"an answer".to_vec())));
        assert_eq!(receive(), Some((RecordType::Packets, listed(&[&queued]))));
        eventually("nothing is left", || sender.send_next() == Sent::All);
    }
    sender.queue_packet(&queued);
    sender.close(close::LEAVING, "bye");
    assert_eq!(
        receive(),
        Some((RecordType::Close, b"\0bye".to_vec())),
        "which goes before all else, and is the last"
    );
    assert_eq!(receive(), None);
}

/// Every address is this peer's.
struct OnePeer(Arc<SessionSender>);

impl Router for OnePeer {
    fn sender_for(&self, _: IpAddr) -> Option<Arc<SessionSender>> {
        Some(Arc::clone(&self.0))
    }
}

#[test]
fn a_reader_takes_along_what_the_kernel_answers_and_then_reads_on() {
    let (sender, mut socket, mut opener) = sender_alone();
    let mut receive = || common::open(&mut opener, &read_frame(&mut socket).unwrap()).unwrap();
    let (tun, kernel) = device(false);
    let reader = device::LocalStack::new(Some(&tun), &sender);
    let (one, other) = (
        packet(address("10.8.0.1"), v4(0), b"one"),
        packet(address("10.8.0.1"), v4(0), b"another"),
    );
    let mut batch = Batch::default();
    let router = OnePeer(Arc::clone(&sender));
    kernel.send(&one);
    kernel.send(&other);
    let turn = tun.read_lock().lock();
    reader.poll_local_replies(&mut batch, &router);
    assert_eq!(
        Arc::strong_count(&sender),
        2,
        "while another thread reads, it does not"
    );
    drop(turn);
    reader.poll_local_replies(&mut batch, &router);
    batch.send_some();
    assert_eq!(receive(), (RecordType::Packets, listed(&[&one, &other])));
    assert_eq!(
        Arc::strong_count(&sender),
        2,
        "that was all, and nobody waits for more"
    );
    // Others queue up more than it sends between two looks at its socket.
    let pongs: Vec<_> = (0..100u8).map(|n| (RecordType::Pong, vec![n])).collect();
    for (kind, content) in &pongs {
        sender.queue_record(*kind, content);
    }
    kernel.send(&one);
    reader.poll_local_replies(&mut batch, &router);
    batch.send_some();
    assert_eq!(Arc::strong_count(&sender), 3, "a flusher has the rest");
    pongs
        .into_iter()
        .for_each(|pong| assert_eq!(receive(), pong));
    assert_eq!(receive(), (RecordType::Packets, listed(&[&one])));
}

#[test]
fn the_replaced_connection_gets_its_close_although_it_is_busy() {
    let (tun, kernel) = device(false);
    let (server, at) = serve(settings(1), Some(tun));
    let mut old = raw_client(at, 0, PLAIN);
    let traffic = Arc::clone(&server.clients()[0].traffic);
    while load(&traffic.dropped_queue) == 0 {
        kernel.send(&packet(address("10.8.0.1"), v4(0), &[0; 60_000]));
    }
    let mut new = raw_client(at, 0, PLAIN);
    new.says_hello();
    assert_eq!(old.closed_with(), Some(close::REPLACED));
}

#[test]
fn a_client_that_floods_and_never_reads_fills_no_memory() {
    let (tun, kernel) = device(false);
    let (server, at) = serve(settings(1), Some(tun));
    let mut peer = raw_client(at, 0, PLAIN);
    let traffic = Arc::clone(&server.clients()[0].traffic);
    while load(&traffic.dropped_queue) == 0 {
        kernel.send(&packet(address("10.8.0.1"), v4(0), &[0; 60_000]));
    }
    // Full of packets. Now empty Pings: each Pong has to wait, and none has a length.
    let before = load(&traffic.dropped_queue);
    let pings: Vec<u8> = (0..100_000)
        .flat_map(|_| peer.seal(RecordType::Ping, b""))
        .collect();
    peer.socket.write_all(&pings).unwrap();
    eventually("Pongs are dropped", || {
        load(&traffic.dropped_queue) > before + 80_000
    });
    // It reads after all. No Pong has swallowed anything, and in the end all is well.
    peer.send(RecordType::Ping, b"the last one");
    kernel.send(&packet(address("10.8.0.1"), v4(0), b"the last one"));
    loop {
        match peer.receive().unwrap() {
            (RecordType::Pong, content) => {
                assert!(content.is_empty() || content == b"the last one")
            }
            (RecordType::Packets, _) => {}
            other => panic!("{other:?}"),
        }
        if load(&traffic.packets_out) > 0 && peer.socket.peek_is_empty() {
            break;
        }
    }
    peer.says_hello();
}

trait PeekIsEmpty {
    fn peek_is_empty(&self) -> bool;
}

impl PeekIsEmpty for TcpStream {
    /// Nothing comes for a while.
    fn peek_is_empty(&self) -> bool {
        self.set_read_timeout(Some(QUIET)).unwrap();
        let nothing = self.peek(&mut [0]).is_err();
        self.set_read_timeout(Some(PATIENCE)).unwrap();
        nothing
    }
}

#[test]
fn nothing_joins_an_empty_record_that_has_queued_up() {
    let (tun, kernel) = device(false);
    let (server, at) = serve(settings(1), Some(tun));
    let mut peer = raw_client(at, 0, PLAIN);
    let traffic = Arc::clone(&server.clients()[0].traffic);
    while load(&traffic.dropped_queue) == 0 {
        kernel.send(&packet(address("10.8.0.1"), v4(0), &[0; 60_000]));
    }
    for n in 0..10u8 {
        peer.send(RecordType::Ping, b"");
        peer.send(RecordType::Ping, &[n]);
    }
    thread::sleep(QUIET);
    let mut pongs = Vec::new();
    while pongs.len() < 20 {
        if let (RecordType::Pong, content) = peer.receive().unwrap() {
            pongs.push(content);
        }
    }
    let expected: Vec<Vec<u8>> = (0..10).flat_map(|n| [vec![], vec![n]]).collect();
    assert_eq!(pongs, expected);
}

// ---------------------------------------------------------------------- connections of one client

#[test]
fn the_newest_connection_replaces_the_older_and_keeps_the_addresses() {
    let (tun, kernel) = device(false);
    let (server, at) = serve(settings(1), Some(tun));
    let (config, mut old) = RawHello::new(0, PLAIN).ask(at).finish().unwrap();
    let (same, mut new) = RawHello::new(0, PLAIN).ask(at).finish().unwrap();
    assert_eq!(config, same);
    assert_eq!(old.closed_with(), Some(close::REPLACED));
    assert_eq!(old.receive(), None);
    let down = packet(address("10.8.0.1"), v4(0), b"to the newer one");
    kernel.send(&down);
    assert_eq!(new.receive_packets(), [down]);
    // The end of the old one takes nothing away from the new one.
    drop(old);
    thread::sleep(QUIET);
    new.says_hello();
    assert!(server.clients()[0].connection().is_some());
}

#[test]
fn a_real_client_that_is_replaced_leaves_with_an_error() {
    let (_server, at) = serve(settings(1), None);
    let first = client(at, 0, Suite::AES_256_GCM, None);
    let second = client(at, 0, Suite::AES_256_GCM, None);
    let reason = first.end().unwrap_err();
    assert!(reason.contains("each client needs its own"), "{reason}");
    second.stop().unwrap();
}

#[test]
fn a_finished_that_was_held_back_replaces_nothing() {
    let (server, at) = serve(settings(1), None);
    let (older, newer) = (
        RawHello::new(0, PLAIN).ask(at),
        RawHello::new(0, PLAIN).ask(at),
    );
    let mut newer = newer.finish().unwrap().1;
    assert!(older.finish().is_none(), "no Config for the older one");
    newer.says_hello();
    assert!(server.clients()[0].connection().is_some());
    // In order, both finish, and the second stays.
    let (one, two) = (
        RawHello::new(0, PLAIN).ask(at),
        RawHello::new(0, PLAIN).ask(at),
    );
    let mut one = one.finish().unwrap().1;
    assert_eq!(newer.closed_with(), Some(close::REPLACED));
    let mut two = two.finish().unwrap().1;
    assert_eq!(one.closed_with(), Some(close::REPLACED));
    two.says_hello();
}

#[test]
fn of_many_handshakes_at_once_exactly_one_stays_and_works() {
    let (server, at) = serve(settings(1), None);
    for _ in 0..20 {
        let mut alive: Vec<_> = thread::scope(|scope| {
            let tries: Vec<_> = (0..8)
                .map(|_| scope.spawn(move || RawHello::new(0, PLAIN).ask(at).finish()))
                .collect();
            tries
                .into_iter()
                .filter_map(|one| one.join().unwrap())
                .map(|(_, raw)| raw)
                .collect()
        });
        // One that was just replaced may answer once more before its Close goes.
        eventually("one stays", || {
            alive.retain_mut(|raw| {
                let asked = raw.try_send(RecordType::Message, b"who is it?").is_ok();
                asked && matches!(raw.receive(), Some((RecordType::Message, _)))
            });
            alive.len() == 1
        });
        assert!(server.clients()[0].connection().is_some());
        alive[0].says_hello();
    }
}

#[test]
fn a_hello_is_answered_once() {
    let (_server, at) = serve(settings(1), None);
    let hello = RawHello::new(0, PLAIN);
    let recorded = hello.frame.clone();
    let replay = || {
        let mut socket = TcpStream::connect(at).unwrap();
        socket.write_all(&recorded).unwrap();
        socket
    };
    let pending = hello.ask(at);
    let before = replay();
    let mut session = pending.finish().unwrap().1;
    let after = replay();
    for mut socket in [before, after] {
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let error = socket.read(&mut [0]).unwrap_err();
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::WouldBlock,
            "neither a byte nor the end"
        );
    }
    session.says_hello();
}

// ---------------------------------------------------------------------- ends

#[test]
fn traffic_resumes_when_the_server_comes_back() {
    let (tun, kernel) = device(false);
    let (server, at) = serve(settings(1), Some(tun));
    let (tun, far) = device(false);
    let running = client(at, 0, Suite::AES_256_GCM, Some(tun));
    let up = packet(v4(0), address("10.8.0.1"), b"before");
    far.send(&up);
    assert_eq!(kernel.receive(), up);
    drop(server);
    far.send(&packet(v4(0), address("10.8.0.1"), b"lost"));
    let (tun, kernel) = device(false);
    let mut listener = TcpListener::bind(at);
    eventually("the port is free", || {
        listener = TcpListener::bind(at);
        listener.is_ok()
    });
    let _server = Server::start(settings(1), vec![listener.unwrap()], Some(tun)).unwrap();
    running.connected();
    let up = packet(v4(0), address("10.8.0.1"), b"after");
    eventually("packets cross again", || {
        far.send(&up);
        kernel
            .try_receive(QUIET)
            .is_some_and(|(_, packet)| packet == up)
    });
    let down = packet(address("10.8.0.1"), v4(0), b"after");
    kernel.send(&down);
    assert_eq!(far.receive(), down);
    running.stop().unwrap();
}

#[test]
fn close_is_sent_by_whoever_stops() {
    let (server, at) = serve(settings(1), None);
    let mut peer = raw_client(at, 0, PLAIN);
    server.stop();
    assert_eq!(peer.closed_with(), Some(close::STOPPING));
    assert_eq!(peer.receive(), None);

    let server = RawServer::new();
    let running = Running::start(client_settings(server.address, 0), None);
    let mut peer = server.accept(CONFIG);
    running.connected();
    let begun = Instant::now();
    thread::scope(|scope| {
        let closed = scope.spawn(move || peer.closed_with());
        running.stop().unwrap();
        assert_eq!(closed.join().unwrap(), Some(close::LEAVING));
    });
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "the peer need not be waited for"
    );
}

#[test]
fn a_server_stops_at_once_when_its_clients_go() {
    let (server, at) = serve(settings(20), None);
    let clients: Vec<_> = (0..20)
        .map(|n| client(at, n, Suite::AES_256_GCM, None))
        .collect();
    let begun = Instant::now();
    server.stop();
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    for client in clients {
        client.stop().unwrap();
    }
}

#[test]
fn an_end_without_close_is_a_truncation() {
    let server = RawServer::new();
    let settings = ClientSettings {
        once: true,
        ..client_settings(server.address, 0)
    };
    let running = Running::start(settings.clone(), None);
    let peer = server.accept(CONFIG);
    running.connected();
    drop(peer);
    let reason = running.end().unwrap_err();
    assert!(reason.contains("truncated"), "{reason}");

    let running = Running::start(settings, None);
    let mut peer = server.accept(CONFIG);
    running.connected();
    peer.send(RecordType::Close, b"\x01the server stops");
    let reason = running.end().unwrap_err();
    assert!(
        reason.contains("the peer closed: the server stops"),
        "{reason}"
    );
}

#[test]
fn a_peer_that_answers_no_ping_is_dead() {
    // The server finds it,
    let (server, at) = serve(
        ServerSettings {
            keepalive: 1,
            ..settings(1)
        },
        None,
    );
    let mut silent = raw_client(at, 0, PLAIN);
    let begun = Instant::now();
    assert_eq!(silent.receive().unwrap().0, RecordType::Ping);
    assert_eq!(silent.receive(), None, "no Close: there is nobody to tell");
    let took = begun.elapsed();
    assert!(
        (Duration::from_secs(5)..Duration::from_secs(15)).contains(&took),
        "{took:?}"
    );
    eventually("it is forgotten", || {
        server.clients()[0].connection().is_none()
    });
    // and so does the client, which then connects again.
    let server = RawServer::new();
    let running = Running::start(client_settings(server.address, 0), None);
    let mut silent = server.accept(CONFIG);
    assert_eq!(silent.receive().unwrap().0, RecordType::Ping);
    assert_eq!(silent.receive(), None);
    let mut next = server.accept(CONFIG);
    next.send(RecordType::Ping, b"x");
    assert_eq!(next.receive(), Some((RecordType::Pong, b"x".to_vec())));
    drop(running);
}

#[test]
fn pings_keep_an_idle_connection_and_a_busy_one() {
    let (tun, kernel) = device(false);
    let (server, at) = serve(
        ServerSettings {
            keepalive: 1,
            ..settings(2)
        },
        Some(tun),
    );
    let (tun, far) = device(false);
    let _idle = client(at, 0, Suite::FERNET, None);
    let _receiving = client(at, 1, Suite::AES_256_GCM, Some(tun));
    let from = |n: usize| server.clients()[n].connection().unwrap().from;
    let before = [from(0), from(1)];
    let end = Instant::now() + Duration::from_secs(8);
    while Instant::now() < end {
        let down = packet(address("10.8.0.1"), v4(1), &[1; 1000]);
        kernel.send(&down);
        assert_eq!(far.receive(), down);
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!([from(0), from(1)], before, "still the first connections");
}

// ---------------------------------------------------------------------- without devices

#[test]
fn without_devices_the_server_and_the_clients_answer_pings() {
    let (_server, at) = serve(
        ServerSettings {
            client_to_client: true,
            ..settings(2)
        },
        None,
    );
    let _answering = client(at, 1, Suite::FERNET, None);
    let mut peer = raw_client(at, 0, PLAIN);
    let targets = [
        (v4(0), address("10.8.0.1")),
        (v6(0), address("fd08::1")),
        (v4(0), v4(1)),
        (v6(0), v6(1)),
    ];
    for (sequence, (own, to)) in (1..).zip(targets) {
        peer.send_packet(&ping(own, to, sequence));
        let replies = peer.receive_packets();
        let echo = icmp::echo_reply(&replies[0]).unwrap();
        assert_eq!(
            (echo.source, echo.destination, echo.sequence),
            (to, own, sequence)
        );
    }
    // Several in one record come back in one record.
    let pings: Vec<_> = (1..=20)
        .map(|sequence| ping(v4(0), address("10.8.0.1"), sequence))
        .collect();
    peer.send(
        RecordType::Packets,
        &listed(&pings.iter().map(Vec::as_slice).collect::<Vec<_>>()),
    );
    assert_eq!(peer.receive_packets().len(), 20);
    let answer = peer.says_hello();
    assert!(
        answer.contains("client0") && answer.contains("Hello, World!"),
        "{answer}"
    );
    // The longest text there may be.
    peer.send(RecordType::Message, "\u{e9}".repeat(2048).as_bytes());
    let (kind, content) = peer.receive().unwrap();
    assert_eq!(kind, RecordType::Message);
    assert!(content.len() <= 4096 && str::from_utf8(&content).is_ok());
}

#[test]
fn a_client_does_what_it_is_told_and_leaves() {
    let (server, at) = serve(settings(1), None);
    let settings = ClientSettings {
        send: Some("Hello, World!".into()),
        pings: Some(2),
        once: true,
        ..client_settings(at, 0)
    };
    Running::start(settings.clone(), None).end().unwrap();
    eventually("it has left", || server.clients()[0].connection().is_none());
    // A server that answers nothing: an error, each time.
    let silent = RawServer::new();
    let settings = ClientSettings {
        server: silent.address.to_string(),
        ..settings
    };
    let running = Running::start(settings, None);
    let mut peer = silent.accept(CONFIG);
    let reading = thread::spawn(move || {
        while let Some((kind, content)) = peer.receive() {
            if kind == RecordType::Ping {
                peer.send(RecordType::Pong, &content);
            }
        }
    });
    assert!(running.end().unwrap_err().contains("not all replies came"));
    reading.join().unwrap();
}

#[test]
fn the_words_of_a_close_cannot_move_a_cursor() {
    let server = RawServer::new();
    let once = ClientSettings {
        once: true,
        ..client_settings(server.address, 0)
    };
    let running = Running::start(once, None);
    let mut peer = server.accept(CONFIG);
    peer.send(
        RecordType::Close,
        "\x01gone\x1b[2J\r\n\u{9b}31m\u{202e}away".as_bytes(),
    );
    let reason = running.end().unwrap_err();
    assert!(
        reason.contains("gone") && reason.contains("away"),
        "{reason:?}"
    );
    assert!(
        !reason.contains(|c: char| c.is_control() || c == '\u{202e}'),
        "{reason:?}"
    );
}

// ---------------------------------------------------------------------- records that should not be

#[test]
fn a_record_that_may_not_be_ends_the_connection_and_nothing_else() {
    let (server, at) = serve(settings(2), None);
    let mut other = raw_client(at, 1, PLAIN);
    let long = vec![b'x'; 4097];
    let ended: [(&str, RecordType, &[u8]); 13] = [
        ("no packet", RecordType::Packets, b""),
        ("half a length", RecordType::Packets, b"\0"),
        ("a byte left over", RecordType::Packets, b"\0\x01xy"),
        ("a length beyond the end", RecordType::Packets, b"\0\x09abc"),
        ("the largest length", RecordType::Packets, b"\xff\xffabc"),
        ("not agreed on", RecordType::SuperPacket, &[0; 50]),
        ("a long Ping", RecordType::Ping, &[0; 65]),
        ("a long Pong", RecordType::Pong, &[0; 65]),
        ("not UTF-8", RecordType::Message, b"\xff"),
        ("a long Message", RecordType::Message, &long),
        ("a Close without a code", RecordType::Close, b""),
        ("a long Close", RecordType::Close, &long),
        ("a Close that is not UTF-8", RecordType::Close, b"\0\xff"),
    ];
    for (what, kind, content) in ended {
        let mut peer = raw_client(at, 0, PLAIN);
        peer.send(kind, content);
        assert_eq!(peer.receive(), None, "{what}");
    }
    let mut peer = raw_client(at, 0, SUPER);
    peer.send(RecordType::SuperPacket, &[0; LENGTH - 1]);
    assert_eq!(peer.receive(), None, "half an offload header");
    // Bytes that are no record: changed, repeated, of another length, out of turn.
    let spoil: [fn(&mut Raw) -> Vec<u8>; 6] = [
        |peer| {
            let mut frame = peer.seal(RecordType::Ping, b"x");
            *frame.last_mut().unwrap() ^= 1;
            frame
        },
        |peer| peer.seal(RecordType::Ping, b"x").repeat(2),
        |peer| {
            peer.seal(RecordType::Ping, b"dropped");
            peer.seal(RecordType::Ping, b"x")
        },
        |_| vec![0; 4],
        |_| vec![0xff; 4],
        |_| 65_570u32.to_be_bytes().to_vec(),
    ];
    for spoil in spoil {
        let mut peer = raw_client(at, 0, PLAIN);
        let bytes = spoil(&mut peer);
        peer.socket.write_all(&bytes).unwrap();
        while let Some((kind, _)) = peer.receive() {
            assert_eq!(kind, RecordType::Pong, "at most the good one is answered");
        }
    }
    // Bad packets in a good record are dropped, counted, and end nothing.
    let mut peer = raw_client(at, 0, PLAIN);
    let before = load(&server.clients()[0].traffic.dropped_malformed);
    let good = ping(v4(0), address("10.8.0.1"), 1);
    peer.send(
        RecordType::Packets,
        &listed(&[b"", b"\x45", &[0xff; 1400], &good[..27], &good]),
    );
    assert_eq!(peer.receive_packets().len(), 1);
    assert_eq!(
        load(&server.clients()[0].traffic.dropped_malformed),
        before + 4
    );
    other.says_hello();
}

#[test]
fn the_largest_record_in_small_pieces_and_many_in_one() {
    for suite in Suite::ALL {
        let (tun, kernel) = device(false);
        let (server, at) = serve(settings(1), Some(tun));
        let mut peer = raw_client(
            at,
            0,
            Offers {
                suite,
                super_packets: true,
            },
        );
        let largest = packet(v4(0), address("10.8.0.1"), &vec![3; 65_515]);
        let frame = peer.seal(
            RecordType::SuperPacket,
            &[&[0; LENGTH][..], &largest].concat(),
        );
        for piece in frame.chunks(997) {
            peer.socket.write_all(piece).unwrap();
        }
        assert!(kernel.receive() == largest);
        // Frames of every offset in the buffer: a small one shifts the large one.
        let mut all = Vec::new();
        for n in 0..12usize {
            all.extend(peer.seal(RecordType::Ping, &vec![0; n % 5]));
            all.extend(peer.seal(
                RecordType::SuperPacket,
                &[&[0; LENGTH][..], &largest].concat(),
            ));
        }
        let writing = thread::spawn(move || peer.socket.write_all(&all).map(|()| peer).unwrap());
        // The datagram socket loses some of them; the server counts them all.
        eventually("all of them", || {
            let received = kernel.try_receive(Duration::from_millis(1));
            assert!(received.is_none_or(|(_, packet)| packet == largest));
            load(&server.clients()[0].traffic.packets_in) == 13
        });
        writing.join().unwrap().says_hello();
    }
}

#[test]
fn a_config_that_makes_no_sense_sets_nothing_up() {
    let server = RawServer::new();
    let running = Running::start(client_settings(server.address, 0), None);
    let text = String::from_utf8(CONFIG.to_vec()).unwrap();
    for garbage in [
        String::new(),
        "\0\u{ff}".into(),
        text.replace("mtu=1500\n", ""),
        text.replace("mtu=1500", "mtu=1"),
        text.replace("10.8.0.2/16", "10.8.0.2/33"),
        // Half the world as the tunnel's own network would be a route that no setting of the
        // client's refuses.
        text.replace("10.8.0.2/16", "10.8.0.2/1"),
        text.replace("keepalive=1", "keepalive=0"),
        format!("{text}mtu=1500\n"),
        text.replace(
            "routes=",
            &format!("routes={}", vec!["10.0.0.0/8"; 1001].join(",")),
        ),
    ] {
        let mut peer = server.accept(garbage.as_bytes());
        assert_eq!(peer.receive(), None, "{garbage:.40}");
    }
    assert!(
        !running.connects_within(Duration::ZERO),
        "the machine was never asked"
    );
    let mut peer = server.accept(CONFIG);
    running.connected();
    peer.send(RecordType::Ping, b"");
    assert_eq!(peer.receive(), Some((RecordType::Pong, vec![])));
}

#[test]
fn a_client_stops_in_every_phase() {
    // Nobody answers; the ServerHello is missing; between two attempts.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    for at in [silent.local_addr().unwrap(), nobody] {
        for milliseconds in [0, 1, 10, 300] {
            let running = Running::start(client_settings(at, 0), None);
            thread::sleep(Duration::from_millis(milliseconds));
            let begun = Instant::now();
            running.stop().unwrap();
            assert!(
                begun.elapsed() < Duration::from_secs(2),
                "{:?}",
                begun.elapsed()
            );
        }
    }
    // While it connects to a real one, at any moment.
    let (server, at) = serve(settings(1), None);
    for microseconds in (0..4000).step_by(200) {
        let running = Running::start(client_settings(at, 0), None);
        thread::sleep(Duration::from_micros(microseconds));
        running.stop().unwrap();
    }
    eventually("it has left", || server.clients()[0].connection().is_none());
}

#[test]
fn a_server_says_why_it_refuses_a_client_with_a_key() {
    let (_server, at) = serve(
        ServerSettings {
            max_clients: 1,
            ..settings(2)
        },
        None,
    );
    let _first = raw_client(at, 0, PLAIN);
    let once = ClientSettings {
        once: true,
        ..client_settings(at, 1)
    };
    let reason = Running::start(once, None).end().unwrap_err();
    assert!(reason.contains("the server is full"), "{reason}");
    // The one that is there may come again.
    raw_client(at, 0, PLAIN).says_hello();

    let only = ServerSettings {
        suites: vec![Suite::FERNET],
        ..settings(1)
    };
    let (_server, at) = serve(only, None);
    let once = ClientSettings {
        once: true,
        suites: vec![Suite::AES_256_GCM],
        ..client_settings(at, 0)
    };
    let reason = Running::start(once, None).end().unwrap_err();
    assert!(reason.contains("no common suite"), "{reason}");
}

#[test]
fn handshakes_at_the_same_time_do_not_share_the_last_place() {
    let (server, at) = serve(
        ServerSettings {
            max_clients: 2,
            ..settings(6)
        },
        None,
    );
    // All have asked, and have been answered, before the first finishes.
    let asked: Vec<_> = (0..6).map(|n| RawHello::new(n, PLAIN).ask(at)).collect();
    let mut inside: Vec<_> = thread::scope(|scope| {
        let finishing: Vec<_> = asked
            .into_iter()
            .map(|one| scope.spawn(|| one.finish()))
            .collect();
        finishing
            .into_iter()
            .filter_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(inside.len(), 2);
    for (_, raw) in &mut inside {
        raw.says_hello();
    }
    let connected = || {
        server
            .clients()
            .iter()
            .filter(|client| client.connection().is_some())
            .count()
    };
    assert_eq!(connected(), 2);
    // Their places are free again when they leave.
    drop(inside);
    eventually("both have left", || connected() == 0);
    eventually("there is room", || {
        let once = ClientSettings {
            once: true,
            pings: Some(1),
            ..client_settings(at, 5)
        };
        Running::start(once, None).end().is_ok()
    });
}

/// A directory reads as no device does: with an error.
fn broken_device() -> Tun {
    Tun::from_fd(std::fs::File::open("/").unwrap().into(), "broken", false).unwrap()
}

#[test]
fn a_client_without_its_device_does_not_go_on_half_alive() {
    let (_server, at) = serve(settings(1), None);
    let reason = Running::start(client_settings(at, 0), Some(broken_device()))
        .end()
        .unwrap_err();
    assert!(
        reason.starts_with("cannot read from the device broken"),
        "{reason}"
    );
}

#[test]
fn more_than_a_config_holds_is_refused_at_the_start() {
    let routes = (0..1001)
        .map(|n| format!("10.{}.{}.0/24", n / 256, n % 256).parse().unwrap())
        .collect();
    let settings = ServerSettings {
        push_routes: routes,
        ..settings(1)
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = Server::start(settings, vec![listener], None).err().unwrap();
    assert!(error.contains("at most 1000"), "{error}");
}

#[test]
fn a_half_closed_connection_and_a_reset_one_are_forgotten() {
    let (server, at) = serve(settings(1), None);
    let connected = || server.clients()[0].connection().is_some();
    let peer = raw_client(at, 0, PLAIN);
    peer.socket.shutdown(Shutdown::Write).unwrap();
    eventually("half closed", || !connected());
    let mut peer = raw_client(at, 0, PLAIN);
    peer.send(RecordType::Close, b"\0bye");
    assert_eq!(peer.receive(), None);
    eventually("closed", || !connected());
    let mut peer = raw_client(at, 0, PLAIN);
    peer.send(
        RecordType::Message,
        b"an answer that nobody reads makes a reset",
    );
    peer.socket.peek(&mut [0]).unwrap();
    drop(peer);
    eventually("reset", || !connected());
}
