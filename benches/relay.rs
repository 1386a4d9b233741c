//! A relay of fernvpn's structure without its work: TUN to TCP and back, whole super-packets, one
//! frame each, one blocking thread per direction. No key, no cipher, no checks. The measuring rod
//! of `make bench-tunnel`, nothing to use: `relay server|client ADDRESS:PORT DEVICE`.
//!
//! ```text
//! | length u32, big-endian | offload header, 10 bytes | packet |
//! ```
#![allow(missing_docs, clippy::unwrap_used)]

use fernvpn::os::tun::Tun;
use fernvpn::os::wake::Wake;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

const LARGEST: usize = 10 + 65_535;

fn main() {
    let [role, address, device] = std::env::args()
        .skip(1)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let tun = Arc::new(Tun::create(&device, true).unwrap());
    let socket = match role.as_str() {
        "server" => TcpListener::bind(address).unwrap().accept().unwrap().0,
        _ => TcpStream::connect(address).unwrap(),
    };
    socket.set_nodelay(true).unwrap();
    let (out, outside) = (Arc::clone(&tun), socket.try_clone().unwrap());
    thread::spawn(move || send(&out, outside));
    receive(&tun, socket);
}

fn send(tun: &Tun, mut socket: TcpStream) {
    let wake = Wake::new().unwrap();
    let mut frame = vec![0; 4 + LARGEST];
    loop {
        match tun.read_now(&mut frame[4..]) {
            Ok(length) => {
                let header = u32::try_from(length).unwrap().to_be_bytes();
                frame[..4].copy_from_slice(&header);
                socket.write_all(&frame[..4 + length]).unwrap();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tun.wait(&wake, None, None).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn receive(tun: &Tun, mut socket: TcpStream) {
    let mut buffer = vec![0; 256 * 1024];
    let (mut start, mut end) = (0, 0);
    while let Ok(length @ 1..) = socket.read(&mut buffer[end..]) {
        end += length;
        while let Some((header, rest)) = buffer[start..end].split_first_chunk() {
            let length = usize::try_from(u32::from_be_bytes(*header)).unwrap();
            assert!(length <= LARGEST);
            let Some(packet) = rest.get(..length) else {
                break;
            };
            let _ = tun.write(&[IoSlice::new(packet)]);
            start += 4 + length;
        }
        buffer.copy_within(start..end, 0);
        (start, end) = (0, end - start);
    }
}
