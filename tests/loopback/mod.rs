//! The tests of the tunnel share this. A server and clients are threads of the test, which plays
//! the kernel. Peers made of the protocol alone can misbehave.
//!
//! ```text
//!  Kernel ── pair ── Tun ─ Server ══ TCP on loopback ══ Client ─ Tun ── pair ── Kernel
//!                                 ══ RawClient                 RawServer ══ Client
//! ```
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::missing_panics_doc,
    reason = "tests"
)]

use fernvpn::config::settings::{ClientSettings, Device, Peer, ServerSettings};
use fernvpn::fernet::Key;
use fernvpn::os::tun::Tun;
use fernvpn::packet::offload::{GSO_TCPV4, LENGTH, NEEDS_CSUM, Offload};
use fernvpn::packet::{checksum, icmp};
use fernvpn::protocol::frame;
use fernvpn::protocol::handshake::{
    AwaitServerHello, Capabilities, ClientHello, Offer, client_hello,
};
use fernvpn::protocol::key_schedule::Root;
use fernvpn::protocol::limits::MAX_HELLO;
use fernvpn::protocol::record::{Opener, RecordType, Sealer, Suite};
use fernvpn::tunnel::client::{Client, Machine};
use fernvpn::tunnel::server::Server;
use fernvpn::tunnel::wire::network_config::NetworkConfig;
use fernvpn::tunnel::{fresh, fresh_hello};
use std::convert::Infallible;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Long enough for a busy machine; nothing waits this long unless it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until something is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The key of client number `n`.
pub fn key(n: usize) -> Key {
    let mut bytes = [0x5a; 32];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    Key::from_bytes(&bytes)
}

/// A server without a device for `clients` clients: number n has [`key`] n, the address
/// 10.8.0.(2+n) and fd08::(2+n).
pub fn settings(clients: usize) -> ServerSettings {
    ServerSettings {
        device: Device::None,
        suites: Suite::ALL.to_vec(),
        addresses: vec![
            "10.8.0.1/16".parse().unwrap(),
            "fd08::1/64".parse().unwrap(),
        ],
        peers: (0..clients).map(peer).collect(),
        ..ServerSettings::default()
    }
}

fn peer(n: usize) -> Peer {
    let addresses = vec![v4(n), v6(n)];
    Peer {
        name: format!("client{n}"),
        keys: vec![key(n)],
        addresses,
        routes: Vec::new(),
        allow: None,
        ratchet: None,
    }
}

pub fn v4(n: usize) -> IpAddr {
    IpAddr::from([10, 8, ((n + 2) >> 8) as u8, (n + 2) as u8])
}

pub fn v6(n: usize) -> IpAddr {
    IpAddr::from([0xfd08, 0, 0, 0, 0, 0, 0, (n + 2) as u16])
}

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Starts a server on a port of its own.
pub fn serve(settings: ServerSettings, device: Option<Tun>) -> (Server, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (
        Server::start(settings, vec![listener], device).unwrap(),
        address,
    )
}

// ---------------------------------------------------------------------- devices

/// The far end of a device.
pub struct Kernel {
    socket: UnixDatagram,
    offload: bool,
}

/// A device, and the kernel behind it.
#[cfg(all(target_os = "linux", not(fernvpn_portable)))]
pub fn device(offload: bool) -> (Tun, Kernel) {
    let (near, far) = UnixDatagram::pair().unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    (
        Tun::from_fd(near.into(), "test", offload).unwrap(),
        Kernel {
            socket: far,
            offload,
        },
    )
}

impl Kernel {
    /// Routes a packet into the tunnel. Waits until the device has room.
    pub fn send(&self, packet: &[u8]) {
        self.send_super(Offload::default(), packet);
    }

    pub fn send_super(&self, offload: Offload, packet: &[u8]) {
        let header = offload.to_device();
        let header = if self.offload { &header[..] } else { &[] };
        self.socket.send(&[header, packet].concat()).unwrap();
    }

    /// The next packet that came out of the tunnel.
    pub fn receive(&self) -> Vec<u8> {
        self.receive_super().1
    }

    pub fn receive_super(&self) -> (Offload, Vec<u8>) {
        self.try_receive(PATIENCE).expect("a packet")
    }

    pub fn try_receive(&self, time: Duration) -> Option<(Offload, Vec<u8>)> {
        let mut buffer = vec![0; 70_000];
        self.socket.set_read_timeout(Some(time)).unwrap();
        let length = self.socket.recv(&mut buffer).ok()?;
        buffer.truncate(length);
        if !self.offload {
            return Some((Offload::default(), buffer));
        }
        let packet = buffer.split_off(LENGTH);
        Some((Offload::from_device(buffer[..].try_into().unwrap()), packet))
    }
}

// ---------------------------------------------------------------------- packets

/// A packet with this payload, of a transport protocol that nobody looks into.
pub fn packet(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Vec<u8> {
    const EXPERIMENTAL: u8 = 253;
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let length = (20 + payload.len() as u16).to_be_bytes();
            let mut packet = vec![
                0x45,
                0,
                length[0],
                length[1],
                0,
                0,
                0,
                0,
                64,
                EXPERIMENTAL,
                0,
                0,
            ];
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let sum = !checksum::sum(&packet, 0);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet.extend(payload);
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = (payload.len() as u16).to_be_bytes();
            let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], EXPERIMENTAL, 64];
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(payload);
            packet
        }
        _ => panic!("one family"),
    }
}

pub fn ping(source: IpAddr, destination: IpAddr, sequence: u16) -> Vec<u8> {
    ping_with(source, destination, sequence, b"is it there?")
}

pub fn ping_with(source: IpAddr, destination: IpAddr, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    icmp::echo_request(source, destination, 7, sequence, payload, &mut packet).unwrap();
    packet
}

/// A TCP super-packet in IPv4 with segments of `size` bytes, as a kernel hands it to a device.
pub fn super_packet(
    source: IpAddr,
    destination: IpAddr,
    payload: &[u8],
    size: u16,
) -> (Offload, Vec<u8>) {
    let tcp = [&[0; 12][..], &[0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0], payload].concat();
    let mut packet = packet(source, destination, &tcp);
    packet[9] = 6;
    packet[10..12].fill(0);
    let sum = !checksum::sum(&packet[..20], 0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let pseudo = checksum::pseudo_header(source, destination, 6, tcp.len());
    packet[36..38].copy_from_slice(&pseudo.to_be_bytes());
    let offload = Offload {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: 40,
        gso_size: size,
        csum_start: 20,
        csum_offset: 16,
    };
    (offload, packet)
}

/// The content of a Packets record.
pub fn listed(packets: &[&[u8]]) -> Vec<u8> {
    packets
        .iter()
        .flat_map(|packet| [&(packet.len() as u16).to_be_bytes(), *packet].concat())
        .collect()
}

/// The packets of a Packets record.
pub fn taken_apart(mut content: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    while let Some((length, rest)) = content.split_first_chunk::<2>() {
        let (packet, rest) = rest.split_at(u16::from_be_bytes(*length).into());
        packets.push(packet.to_vec());
        content = rest;
    }
    packets
}

// ---------------------------------------------------------------------- the real client

/// A client as threads of this test.
pub struct Running {
    pub client: Arc<Client>,
    thread: Option<JoinHandle<Result<(), String>>>,
    configs: Receiver<NetworkConfig>,
}

struct FakeMachine {
    device: Option<Arc<Tun>>,
    configs: Sender<NetworkConfig>,
}

impl Machine for FakeMachine {
    fn set_up(
        &mut self,
        config: &NetworkConfig,
        _: SocketAddr,
    ) -> Result<Option<Arc<Tun>>, String> {
        let _ = self.configs.send(config.clone());
        Ok(self.device.clone())
    }
}

impl Running {
    pub fn start(settings: ClientSettings, device: Option<Tun>) -> Running {
        let client = Client::new(settings).unwrap();
        let (sender, configs) = mpsc::channel();
        let mut machine = FakeMachine {
            device: device.map(Arc::new),
            configs: sender,
        };
        let running = Arc::clone(&client);
        let thread = Some(thread::spawn(move || running.run(&mut machine)));
        Running {
            client,
            thread,
            configs,
        }
    }

    /// Waits until it has (again) connected.
    pub fn connected(&self) -> NetworkConfig {
        self.configs.recv_timeout(PATIENCE).expect("a connection")
    }

    pub fn connects_within(&self, time: Duration) -> bool {
        self.configs.recv_timeout(time).is_ok()
    }

    pub fn stop(mut self) -> Result<(), String> {
        self.client.stop();
        self.thread.take().unwrap().join().unwrap()
    }

    /// Waits until it ends by itself.
    pub fn end(mut self) -> Result<(), String> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.client.stop();
    }
}

pub fn client_settings(server: SocketAddr, n: usize) -> ClientSettings {
    ClientSettings {
        device: Device::None,
        ..ClientSettings::new(&server.to_string(), key(n))
    }
}

/// Client number `n`, connected.
pub fn client(server: SocketAddr, n: usize, suite: Suite, device: Option<Tun>) -> Running {
    let settings = ClientSettings {
        suites: vec![suite],
        ..client_settings(server, n)
    };
    let running = Running::start(settings, device);
    running.connected();
    running
}

// ---------------------------------------------------------------------- peers that can misbehave

/// One end of a session, driven by the test.
pub struct Raw {
    pub socket: TcpStream,
    pub sealer: Sealer,
    pub opener: Opener,
}

impl Raw {
    pub fn try_send(&mut self, kind: RecordType, content: &[u8]) -> io::Result<()> {
        let sealed = self.seal(kind, content);
        self.socket.write_all(&sealed)
    }

    pub fn send(&mut self, kind: RecordType, content: &[u8]) {
        self.try_send(kind, content).unwrap();
    }

    pub fn seal(&mut self, kind: RecordType, content: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; 5];
        buffer.extend(content);
        buffer.resize(Suite::FERNET.frame_len(content.len()), 0);
        let length = self
            .sealer
            .seal(kind, &mut buffer, content.len(), &mut fresh)
            .unwrap();
        buffer.truncate(length);
        buffer
    }

    pub fn send_packet(&mut self, packet: &[u8]) {
        self.send(RecordType::Packets, &listed(&[packet]));
    }

    /// The next record, or `None` at the end of the connection. Rekeys are followed.
    pub fn receive(&mut self) -> Option<(RecordType, Vec<u8>)> {
        loop {
            let mut body = read_frame(&mut self.socket)?;
            let (kind, content) = self.opener.open(&mut body).expect("a record");
            if kind != RecordType::Rekey {
                return Some((kind, content.to_vec()));
            }
        }
    }

    /// The next packet, on its own or in a super-packet; other records are skipped.
    pub fn receive_packets(&mut self) -> Vec<Vec<u8>> {
        loop {
            match self.receive().expect("packets, not the end") {
                (RecordType::Packets, content) => return taken_apart(&content),
                (RecordType::SuperPacket, content) => return vec![content[LENGTH..].to_vec()],
                _ => {}
            }
        }
    }

    /// The code of the Close with which the other side ends; other records are skipped. `None` is a
    /// truncation.
    pub fn closed_with(&mut self) -> Option<u8> {
        loop {
            if let (RecordType::Close, content) = self.receive()? {
                return Some(content[0]);
            }
        }
    }

    /// Sends a Message and receives the answer: the connection works.
    pub fn says_hello(&mut self) -> String {
        self.send(RecordType::Message, b"Hello, World!");
        loop {
            if let (RecordType::Message, content) = self.receive().expect("an answer, not the end")
            {
                return String::from_utf8(content).unwrap();
            }
        }
    }
}

/// A whole frame's body, or `None` at the end. Nothing at all for a long time is not the end.
pub fn read_frame(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut read = |buffer: &mut [u8]| match socket.read_exact(buffer) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            panic!("it hangs")
        }
        done => done.ok(),
    };
    let mut header = [0; 4];
    read(&mut header)?;
    let mut body = vec![0; frame::length(header, 100_000).unwrap()];
    read(&mut body)?;
    Some(body)
}

/// What a raw client offers.
#[derive(Clone, Copy)]
pub struct Offers {
    pub suite: Suite,
    pub super_packets: bool,
}

pub const PLAIN: Offers = Offers {
    suite: Suite::AES_256_GCM,
    super_packets: false,
};
pub const SUPER: Offers = Offers {
    suite: Suite::AES_256_GCM,
    super_packets: true,
};

/// A ClientHello that was sent, or may be.
pub struct RawHello {
    pub frame: Vec<u8>,
    next: AwaitServerHello,
}

impl RawHello {
    pub fn new(n: usize, offers: Offers) -> RawHello {
        let offer = Offer {
            suites: vec![offers.suite],
            capabilities: Capabilities {
                super_packets: offers.super_packets,
            },
            software: "test".into(),
        };
        let (frame, next) = client_hello(&Root::new(key(n)), None, offer, fresh_hello());
        RawHello { frame, next }
    }

    /// Sends it and verifies the answer. What remains is to send Finished, which is returned.
    pub fn ask(self, server: SocketAddr) -> Unfinished {
        // In a flood the kernel may drop the first packet, and would itself try again after
        // seconds.
        let connect = |_| TcpStream::connect_timeout(&server, Duration::from_millis(250)).ok();
        let mut socket = (0..80).find_map(connect).expect("a connection");
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(&self.frame).unwrap();
        let body = read_frame(&mut socket).expect("an answer");
        let agreed = self.next.receive(&body).unwrap();
        let Ok((finished, next)) = agreed.finish(|_| Ok::<(), Infallible>(()), &mut fresh);
        Unfinished {
            socket,
            finished,
            next,
        }
    }
}

/// A handshake before Finished.
pub struct Unfinished {
    pub socket: TcpStream,
    pub finished: Vec<u8>,
    next: fernvpn::protocol::handshake::AwaitConfig,
}

impl Unfinished {
    /// Sends Finished. `None` if the server ends the connection instead of sending Config.
    pub fn finish(mut self) -> Option<(NetworkConfig, Raw)> {
        self.socket.write_all(&self.finished).ok()?;
        let mut body = read_frame(&mut self.socket)?;
        let (config, sealer, opener) = self.next.receive(&mut body).unwrap();
        Some((
            NetworkConfig::decode(&config).unwrap(),
            Raw {
                socket: self.socket,
                sealer,
                opener,
            },
        ))
    }
}

/// Client number `n`, connected.
pub fn raw_client(server: SocketAddr, n: usize, offers: Offers) -> Raw {
    RawHello::new(n, offers)
        .ask(server)
        .finish()
        .expect("a Config")
        .1
}

/// A server that does what the test says.
pub struct RawServer {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl RawServer {
    pub fn new() -> RawServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        RawServer { listener, address }
    }

    /// Accepts client number 0, up to Finished, and sends `config`.
    pub fn accept(&self, config: &[u8]) -> Raw {
        let mut socket = self.listener.accept().unwrap().0;
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = read_frame(&mut socket).unwrap();
        assert!(body.len() <= MAX_HELLO);
        let root = Root::new(key(0));
        let hello = ClientHello::receive(&root, &body, None).unwrap();
        let offer = Offer {
            suites: Suite::ALL.to_vec(),
            capabilities: Capabilities {
                super_packets: true,
            },
            software: "test".into(),
        };
        let (frame, next) = hello.answer(&offer, None, fresh_hello());
        socket.write_all(&frame).unwrap();
        let mut body = read_frame(&mut socket).unwrap();
        let (frame, sealer, opener) = next
            .unwrap()
            .receive(&mut body)
            .unwrap()
            .configure(config, &mut fresh)
            .unwrap();
        socket.write_all(&frame).unwrap();
        Raw {
            socket,
            sealer,
            opener,
        }
    }
}

/// A Config as a server sends it, with a keepalive of 1 s.
pub const CONFIG: &[u8] =
    b"addresses=10.8.0.2/16\nserver=10.8.0.1\nmtu=1500\nroutes=\ndns=\nkeepalive=1\n";

// ---------------------------------------------------------------------- processes

/// A server without a device, in a process of its own.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
}

impl Process {
    /// With these keys, as in a key file, and further arguments.
    pub fn serve(keys: &str, arguments: &[&str]) -> Process {
        Process::serve_with(20_000, keys, arguments)
    }

    /// With at most so many open files.
    pub fn serve_with(files: usize, keys: &str, arguments: &[&str]) -> Process {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file =
            std::env::temp_dir().join(format!("fernvpn-{}-{number}.keys", std::process::id()));
        std::fs::write(&file, keys).unwrap();
        let mut child = Command::new("sh")
            .args([
                "-c",
                "chmod 600 \"$0\"; ulimit -n \"$1\"; shift; exec \"$@\"",
            ])
            .args([
                file.to_str().unwrap(),
                &files.to_string(),
                env!("CARGO_BIN_EXE_fernvpn"),
            ])
            .args([
                "server",
                "--no-tun",
                "--listen",
                "0.0.0.0:0",
                "-k",
                file.to_str().unwrap(),
            ])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        std::fs::remove_file(&file).unwrap();
        let port = line
            .trim()
            .strip_prefix("listening on 0.0.0.0:")
            .expect("a server that listens");
        Process {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap())),
        }
    }

    pub fn resident_kib_and_threads(&self) -> (usize, usize) {
        resident_kib_and_threads(&self.child.id().to_string())
    }

    /// Root alone may look at them, since the process holds keys.
    pub fn descriptors_and_mappings(&self) -> Option<(usize, usize)> {
        let process = std::path::PathBuf::from(format!("/proc/{}", self.child.id()));
        let mappings = std::fs::read_to_string(process.join("maps"))
            .ok()?
            .lines()
            .count();
        Some((
            std::fs::read_dir(process.join("fd")).ok()?.count(),
            mappings,
        ))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Resident memory of this process, in KiB.
pub fn own_resident_kib() -> usize {
    resident_kib_and_threads("self").0
}

fn resident_kib_and_threads(process: &str) -> (usize, usize) {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let number = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (number("VmRSS:"), number("Threads:"))
}
