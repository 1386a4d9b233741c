//! Does a private network exist, is it private, and does it vanish with its owner? This asks a real
//! kernel, as the user who runs the tests.
//!
//! ```text
//! this test ── plays the far end: reads packets from the device's descriptor, answers pings
//!     │ SCM_RIGHTS
//! fernvpn --namespace-holder ── own network namespace: lo, fernt0 10.99.0.1/24, fd99::1/64
//!                                 └─ ping 10.99.0.2, entered by setns
//! ```
#![cfg(all(target_os = "linux", not(fernvpn_portable)))]
#![allow(clippy::unwrap_used)]

mod needs;

use std::io::IoSlice;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use fernvpn::os::namespace::Namespace;
use fernvpn::os::network::{Network, Place};
use fernvpn::os::tun::{Tun, Woken};
use fernvpn::os::wake::Wake;
use fernvpn::packet::subnet::Subnet;

/// The namespace, or nothing where this machine does not allow one: then the test says so, loudly,
/// and is over.
fn private(device: &str, offload: bool) -> Option<(Namespace, Tun)> {
    let program = std::env::var("FERNVPN_PROGRAM").unwrap_or(env!("CARGO_BIN_EXE_fernvpn").into());
    match Namespace::create(&program, device, offload, None) {
        Ok(made) => Some(made),
        Err(error) => {
            needs::skipped(format_args!("private networks: {error}"));
            None
        }
    }
}

fn prefix(address: &str, prefix: u8) -> Subnet {
    Subnet {
        address: address.parse().unwrap(),
        prefix,
    }
}

#[test]
fn the_device_is_inside_and_nowhere_else() {
    let Some((namespace, tun)) = private("fernt1", true) else {
        return;
    };
    assert_eq!((tun.name(), tun.offload()), ("fernt1", true));
    namespace
        .run(&["ip", "link", "show", "dev", "fernt1"])
        .unwrap();
    for outside in std::fs::read_dir("/sys/class/net")
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
    {
        if outside != "lo" && outside != "bonding_masters" {
            let error = namespace
                .run(&["ip", "link", "show", "dev", outside.to_str().unwrap()])
                .unwrap_err();
            assert!(error.to_string().contains("does not exist"), "{error}");
        }
    }
    assert!(!Path::new("/sys/class/net/fernt1").exists());
    let error = fernvpn::os::command::run(&["ip", "link", "show", "dev", "fernt1"]).unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
    assert!(
        namespace
            .enter_command()
            .contains(&namespace.pid().to_string())
    );
}

#[test]
fn dropping_it_ends_the_holder() {
    let Some((namespace, _tun)) = private("fernt2", false) else {
        return;
    };
    let holder = format!("/proc/{}", namespace.pid());
    assert!(Path::new(&holder).exists());
    drop(namespace);
    assert!(!Path::new(&holder).exists());
}

#[test]
fn the_device_goes_with_our_descriptor() {
    let Some((namespace, tun)) = private("fernt4", false) else {
        return;
    };
    namespace
        .run(&["ip", "link", "show", "dev", "fernt4"])
        .unwrap();
    drop(tun);
    let error = namespace
        .run(&["ip", "link", "show", "dev", "fernt4"])
        .unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
}

/// The owner is this test in a process of its own: it makes a namespace, says which, and is killed.
#[test]
fn killing_the_owner_ends_the_holder() {
    let named = "killing_the_owner_ends_the_holder";
    if let Some(path) = std::env::var_os("FERNVPN_TEST_OWNER") {
        let Some((namespace, _tun)) = private("fernt3", false) else {
            return std::fs::write(&path, "skipped").unwrap();
        };
        std::fs::write(&path, namespace.pid().to_string()).unwrap();
        return std::thread::sleep(Duration::from_secs(60));
    }
    let path = std::env::temp_dir().join(format!("fernvpn-owner-{}", std::process::id()));
    let mut owner = Command::new(std::env::current_exe().unwrap());
    let mut owner = owner
        .args(["--exact", named, "--nocapture"])
        .env("FERNVPN_TEST_OWNER", &path)
        .spawn()
        .unwrap();
    let holder = loop {
        match std::fs::read_to_string(&path) {
            Ok(text) if text == "skipped" => {
                owner.wait().unwrap();
                return std::fs::remove_file(&path).unwrap();
            }
            Ok(text) if !text.is_empty() => break format!("/proc/{text}"),
            _ if owner.try_wait().unwrap().is_some() => {
                panic!("the owner has ended, and said nothing")
            }
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let _ = std::fs::remove_file(&path);
    assert!(Path::new(&holder).exists());
    owner.kill().unwrap();
    owner.wait().unwrap();
    let begin = Instant::now();
    // The process is gone, or dead and waits for its new parent.
    let lives = || {
        std::fs::read_to_string(format!("{holder}/status"))
            .is_ok_and(|text| !text.contains("State:\tZ"))
    };
    while lives() {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "{holder} goes on without its owner"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_command_enters_in_its_folder_and_with_its_signals() {
    let Some((namespace, _tun)) = private("fernt5", false) else {
        return;
    };
    fernvpn::os::signal::block().unwrap(); // in this thread, as `main` does for all
    let mut command = Command::new("sh");
    namespace
        .enter(command.args(["-c", "pwd -P; id -u; grep SigBlk /proc/self/status"]))
        .unwrap();
    let output = command.output().unwrap();
    let folder = std::env::current_dir().unwrap().canonicalize().unwrap();
    let expected = format!("{}\n0\nSigBlk:\t0000000000000000\n", folder.display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn packets_go_through_addresses_and_routes() {
    let Some((namespace, tun)) = private("fernt0", false) else {
        return;
    };
    let mut command = Command::new("ping");
    namespace
        .enter(command.args(["-c", "2", "-i", "0.2", "-W", "5", "192.0.2.7"]))
        .unwrap();
    let mut network = Network::new(Place::Private(namespace), tun.name());
    let (own, all) = (prefix("10.99.0.1", 24), prefix("0.0.0.0", 0));
    if let Err(error) = network.set_up(1400, &[prefix("fd99::1", 64)], &[]) {
        assert!(error.to_string().contains("disable_ipv6"), "{error}");
    }
    network.set_up(1400, &[own], &[all]).unwrap();
    let error = network
        .set_up(1400, &[own], &[all, prefix("10.99.0.0", 24)])
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has a route to the same addresses"),
        "{error}"
    );

    let wake = Wake::new().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| answer_pings(&tun, &wake));
        let output = command.output();
        wake.ring();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{said} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(said.contains("2 received"), "{said}");
    });

    let mut route = Command::new("ip");
    network
        .private()
        .unwrap()
        .enter(route.args(["route", "del", "default"]))
        .unwrap();
    assert!(route.status().unwrap().success());
    network.set_up(1400, &[own], &[]).unwrap(); // the route is gone already
}

/// Swaps the addresses of each ICMP echo request and makes it a reply. The IP checksum stays right
/// by itself; the ICMP checksum grows by the 8 that the type has lost (RFC 1624).
fn answer_pings(tun: &Tun, wake: &Wake) {
    let mut packet = [0; 2000];
    while tun.wait(wake, None, None).unwrap() != Woken::ByWake {
        let length = tun.read_now(&mut packet).unwrap();
        if packet[0] != 0x45 || packet[9] != 1 || packet[20] != 8 {
            continue;
        }
        let (source, target) = packet[12..20].split_at_mut(4);
        source.swap_with_slice(target);
        packet[20] = 0;
        let (sum, carry) = u16::from_be_bytes([packet[22], packet[23]]).overflowing_add(0x0800);
        packet[22..24].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
        let (header, payload) = packet[..length].split_at(20);
        assert_eq!(
            tun.write(&[IoSlice::new(header), IoSlice::new(payload)])
                .unwrap(),
            length
        );
    }
}
