//! Is every mistake in a configuration found and understood, and does a change of the clients
//! change nothing else? Runs the real program.

use crate::program;
use program::*;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;

const A: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
const B: &str = "dw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
const C: &str = "ew_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";

/// A configuration whose lines each have what `check` is to say of them, after `!`, or are right.
#[track_caller]
fn check(folder: &Folder, lines: &str) {
    let (mut text, mut expected) = (String::new(), Vec::new());
    for (number, line) in (1..).zip(lines.lines()) {
        let (line, says) = line
            .split_once('!')
            .map_or((line, None), |(line, says)| (line, Some(says)));
        text += line.trim();
        text += "\n";
        expected.extend(says.map(|says| (number, says.trim())));
    }
    let file = folder.file(
        "checked.conf",
        text.replace("KEY_A", A)
            .replace("KEY_B", B)
            .replace("KEY_C", C),
    );
    let (status, stdout, stderr) = run(&["check", "-c", &file], "");
    let found: Vec<&str> = stderr
        .lines()
        .filter(|line| !line.contains("warning"))
        .collect();
    for (at, (number, says)) in expected.iter().enumerate() {
        let line = found
            .get(at)
            .unwrap_or_else(|| panic!("line {number} is not found: {stderr}"));
        let line = line.trim_start_matches("fernvpn: ");
        assert!(
            line.starts_with(&format!("{file}:{number}: ")),
            "line {number} ({says}) is not found:\n{stderr}"
        );
        assert!(
            line.contains(says),
            "line {number} should say {says:?}:\n{stderr}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{stderr}");
    assert_eq!(
        (status, stdout.is_empty()),
        if expected.is_empty() {
            (0, false)
        } else {
            (1, true)
        },
        "{stderr}"
    );
    assert!(
        !stderr.contains(&A[3..20]),
        "a key is never shown: {stderr}"
    );
}

#[test]
fn twenty_mistakes_give_twenty_errors() {
    check(
        &Folder::new("twenty"),
        "listen = 0.0.0.0:443                  ! before any section; begin with [server] or [client]
         [server]
         listen = 0.0.0.0                       ! is not ADDRESS:PORT, such as 0.0.0.0:12345
         lisen = [::]:443                       ! did you mean listen?
         interface = fern/0                     ! 1 to 15 letters
         address = 10.8.0.1/24
         address = 10.8.0.9/16                  ! in the same network as another one, in line 6
         mtu = 100                              ! whole number from 576 to 65535
         push-routes = 10.9.0.7/16              ! is an address in the network 10.9.0.0/16
         push-dns = resolver                    ! not an address such as 10.8.0.2
         client-to-client = maybe               ! neither yes nor no
         suites = aes-256-gcm, rot13            ! the suites are aes-256-gcm, fernet
         keepalive = 15
         keepalive = 20                         ! twice in this section, first in line 13
         max-clients                            ! neither [section] nor name = value
         key = KEY_A                            ! it belongs into [peer]
         [pear]                         ! there are [server] with any number of [peer], and [client]
         [peer]
         name = alice
         key = KEY_A
         address = 10.8.0.2
         [peer]
         name = alice                           ! two peers are called alice, in line 19
         key = KEY_A                 ! alice has the same key; each client needs its own, in line 20
         address = 10.8.0.2                     ! taken already, by alice, in line 21
         [peer]                                 ! has no key
         name = bob
         address = 10.10.0.2               ! not in the tunnel's networks (10.8.0.1/24, 10.8.0.9/16)
         [peer]
         name = carol
         key = KEY_B
         ratchet = on                           ! neither yes nor no",
    );
}

#[test]
fn forty_more_and_the_same_for_clients() {
    let folder = Folder::new("more");
    let key = folder.file("a.key", A);
    folder.file("two.key", format!("{B}\n{C}\n"));
    folder.file("none.key", "# nothing\n");
    folder.file("bad.key", format!("\n{}\n", &A[1..]));
    folder.file("damaged.key", format!("key={A}\nstep=x\n"));
    check(
        &folder,
        "[Server]                               ! unknown section [Server]
         [server]
         = 5                                    ! neither
         listen = 0.0.0.0:1, 0.0.0.0:2
         listen = 0.0.0.0:1                     ! stands twice, in line 4
         listen = 0.0.0.0:70000                 ! is not ADDRESS:PORT
         name = ../x                            ! 1 to 32 letters
         address = 10.8.0.0/24                  ! own address in it, such as 10.8.0.1/24
         address = 10.9.0.1                     ! prefix, such as 10.9.0.1/24
         address = 9.0.0.1/7                    ! at least 8 bits
         address = 10.10.0.1/24, fd0f::1/64
         mtu = 1000                             ! IPv6 needs an mtu of at least 1280
         nat = fern0                            ! fern0 is the tunnel itself
         push-routes = 0.0.0.0/33               ! must be 0 to 32
         push-dns =                             ! has no value
         push-dns = 9.9.9.9, 0.0.0.0            ! push-dns: '0.0.0.0' is not an address such as
         keepalive = 0                          ! 1 to 3600
         max-clients = -5                       ! max-clients: '-5' is not a whole number from 1 to
         hello-max-age = soon                   ! whole number
         congestion = Bbr                       ! auto nor system
         routes = 10.0.0.0/8                    ! it belongs into [peer]
         kill-switch = yes                      ! it belongs into [client]
         frobnicate = yes                       ! there are listen, proxy
         Push_Routes = ::/0                     ! did you mean push-routes?
         ; a comment of another kind            ! nor # a comment
         [server]                               ! line 2 began one
         [peer]                                 ! this [peer] has no name
         key = KEY_A, KEY_B
         key = KEY_A                       ! has the same key; each client needs its own, in line 28
         [peer]
         name = a b                             ! 1 to 32 letters
         key = short                            ! what fernvpn genkey prints, 44 characters
         [peer]
         name = server-own
         key-file = a.key                       ! has the same key
         address = 10.10.0.1                    ! by the server, in line 11
         address = 10.10.0.255                  ! as a whole
         address = 10.10.0.300                  ! is not an address such as
         [peer]
         name = bob
         key-file = missing.key                 ! there is no such file
         routes = 10.10.0.0/28                  ! the tunnel's own network
         routes = 192.168.0.0/16
         [peer]
         name = carol
         key-file = none.key                    ! it holds no key
         routes = 192.168.0.0/16                ! is behind bob already, in line 43
         [peer]
         name = dora
         key-file = bad.key                     ! line 2: not a key
         [peer]
         name = eve
         ratchet = yes
         key = KEY_C                            ! in a key-file of its own
         [peer]                                 ! has no key
         name = frank
         ratchet = yes
         [peer]
         name = grace
         ratchet = yes
         key-file = two.key                     ! alone in its file
         [peer]
         name = heidi
         ratchet = yes
         key-file = damaged.key                 ! both sides need a new key
         [peer]
         name = ivan
         ratchet = yes
         key-file = a.key                       ! has the same key",
    );
    check(
        &folder,
        "[client]
         server = vpn.example.org               ! is not HOST:PORT, such as
         key = KEY_A
         key = KEY_B                            ! key stands twice in this section, first in line 3
         interface = 0123456789abcdef           ! 1 to 15 letters
         routes = most                          ! (or 'pushed', or 'none')
         dns = 10.8.0.1.1                       ! (or 'pushed', or 'none')
         kill-switch = true                     ! neither yes nor no
         listen = 0.0.0.0:1                     ! it belongs into [server]
         [peer]                                 ! its server stands in [client]",
    );
    for (value, right) in [
        ("a:1", true),
        ("[::1]:1", true),
        ("a:0", false),
        ("a:+1", false),
        ("::1:1", false),
    ] {
        let says = if right { "" } else { "! is not HOST:PORT" };
        check(
            &folder,
            &format!("[client]\nserver = {value} {says}\nkey-file = {key}"),
        );
    }
    check(&folder, "[client] ! has no key\nserver = a:1");
    check(
        &folder,
        "[client] ! has no server\nkey = KEY_A\nkey-file = a.key ! a client has one key",
    );
}

/// What people write who come from other programs, or from a text that was made pretty.
#[test]
fn habits_of_newcomers_get_advice() {
    let folder = Folder::new("newcomers");
    check(
        &folder,
        "[server]
         listen = 443                           ! the address is missing: 0.0.0.0:443
         listen = 0.0.0.0                       ! the port is missing: 0.0.0.0:12345
         listen = ::1                           ! in brackets, followed by the port: [::1]:12345
         listen = fe80::1:99999                 ! stands in brackets
         listen = [::1]                         ! the port is missing: [::1]:12345
         listen = [::1:12345                    ! the bracket is not closed
         listen = 0.0.0.0:99999                 ! a port is a number from 1 to 65535
         nat = yes                              ! write auto, or the name of the device
         address = 10.8.0.1/255.255.255.0       ! in place of the netmask: 10.8.0.1/24
         push-routes = 10.1.0.0/16 10.2.0.0/16  ! separated by commas: 10.1.0.0/16, 10.2.0.0/16
         push-routes = 10.1.0.0/16; 10.2.0.0/16 ! separated by commas: 10.1.0.0/16, 10.2.0.0/16
         push-routes = 10.1.0.0/16,             ! a comma without an item
         push-routes = 10.1.0.0/33              ! must be 0 to 32
         push-dns = 9.9.9.9/32                  ! leave out the prefix: 9.9.9.9
         client-to-client = on                  ! write yes
         keepalive = 15s                        ! leave out the unit: 15
         mtu: 1400                              ! write mtu = ...
         max-clients 5                          ! write max-clients = ...
         --mtu = 1400                           ! leave out the dashes: mtu = ...
         push\u{2013}dns = 9.9.9.9             ! write push-dns with a plain '-'
         // a comment of another kind           ! a comment begins with #
         keylog = ~/keys                        ! '~' means a home folder only in a shell
         interface = \"fern1\"                ! leave out the quotes
         ListenPort = 51820                     ! 'listen = 0.0.0.0:PORT' in [server]
         PrivateKey = KEY_A                     ! one secret key for each client
         [Interface]                            ! this is wg-quick's
         Address = 10.8.0.2/24
         [peer                                  ! the closing ] is missing
         [Peer]                                 ! write [peer]
         [peer]
         name = alice
         key = \"KEY_A\"                      ! leave out the quotes
         AllowedIPs = 10.8.0.2/32               ! fernvpn has 'push-routes'
         PublicKey = KEY_B                      ! share one secret 'key'
         Endpoint = vpn.example.org:51820       ! 'server = HOST:PORT' in [client]
         [peer]
         name = bob
         key = cw/0x689RpI+jtRR7oE8h/eQsKImvJapLeSbXpwF4e4= ! standard base64
         [peer]
         name = carol
         key = 730ff4c7af3d46923e8ed451ee813c87f7904ac2a26bc969a92de49b5e9c05e1 ! hexadecimal
         [peer]
         name = dora
         key-file = ~/dora.key                  ! '~' means a home folder only in a shell"
            .replace("\\u{2013}", "\u{2013}")
            .replace("\\\"", "\"")
            .as_str(),
    );
    for (value, says) in [
        ("none", "write no in place of 'none'"),
        ("off", "write no in place of 'off'"),
        ("True", "write auto, or the name of the device"),
        ("on", "write auto, or the name of the device"),
    ] {
        check(&folder, &format!("[server]\nnat = {value} ! {says}"));
    }
    for (value, says) in [
        (
            "https://vpn.example.org/",
            "leave out what stands before ://",
        ),
        ("2001:db8::1", "[2001:db8::1]:12345"),
        (
            "vpn.example.org",
            "the port is missing: vpn.example.org:12345",
        ),
        (
            "vpn.example.org:https",
            "a port is a number from 1 to 65535",
        ),
    ] {
        check(
            &folder,
            &format!("[client]\nserver = {value} ! {says}\nkey = KEY_A"),
        );
    }
    check(
        &folder,
        "[client]\nserver = [fe80::1%eth0]:12345\nkey = KEY_A",
    );
}

/// The wrong file, or the right one in the wrong place.
#[test]
fn a_file_in_the_wrong_place_gets_the_command_that_is_right() {
    let folder = Folder::new("exchanged");
    let server = folder.file("s.conf", format!("[server]\n[peer]\nname = a\nkey = {A}\n"));
    let client = folder.file("c.conf", format!("[client]\nserver = a:1\nkey = {A}\n"));
    let key = folder.file("a.key", A);
    let a_server = format!("configures a server. Try: fernvpn server -c {server}");
    let a_client = format!("configures a client. Try: fernvpn client -c {client}");
    for (words, says) in [
        (&["client", "-c", &server][..], &*a_server),
        (&["server", "-c", &client], &a_client),
        (&["add-client", "b", "-c", &client], &a_client),
        (&["server", "-c", &key], "a key file is given by -k"),
        (
            &["server", "-k", &server],
            "this is a configuration, which is given by -c FILE",
        ),
        (&["server", &server], "a configuration is given by -c"),
        (&["server", &key], "a key file is given by -k"),
        (
            &["server", "\u{2013}listen"],
            "write --listen with plain '-' signs",
        ),
        (&["server", "-listen"], "did you mean --listen?"),
    ] {
        let (_, stdout, stderr) = run(words, "");
        assert_eq!(stdout, "", "{words:?}");
        assert!(stderr.contains(says), "{words:?}: {stderr}");
        assert!(
            !stderr.contains(&A[3..20]),
            "a key is never shown: {stderr}"
        );
    }
}

#[test]
fn what_clients_may_reach_is_said() {
    let folder = Folder::new("allow");
    for (server, peer, said) in [
        (
            "",
            "",
            "clients may reach every address that this machine reaches\n",
        ),
        ("allow = none", "", "clients may reach nothing\n"),
        (
            "allow = 192.168.7.0/24, fd07::/64",
            "allow = any",
            "clients may reach only 192.168.7.0/24, fd07::/64 (allow), \
             but for 1 with an own list\n",
        ),
    ] {
        let text = format!("[server]\n{server}\n[peer]\nname = a\nkey = {A}\n{peer}\n");
        let file = folder.file("allow.conf", &text);
        let (status, stdout, stderr) = run(&["check", "-c", &file], "");
        assert_eq!((status, stderr.as_str()), (0, ""));
        assert!(stdout.ends_with(said), "{stdout}");
    }
}

#[test]
fn files_that_are_read_and_files_that_are_not() {
    let folder = Folder::new("forms");
    let right = format!("[server]\nlisten = 127.0.0.1:1\n[peer]\nname = a\nkey = {A}\n");
    let with_mark = format!("\u{feff}{}", right.replace('\n', "\r\n"));
    for text in [&right, &with_mark, right.trim_end()] {
        let (status, stdout, stderr) = run(&["check", "-c", &folder.file("f.conf", text)], "");
        assert!(
            (status, stderr.as_str()) == (0, "") && stdout.contains("no mistakes"),
            "{text:?}: {stderr}"
        );
    }
    let full = format!(
        "[server]\naddress = 10.8.0.1/30\n[peer]\nname = a\nkey = {A}\n[peer]\nname = b\n\
         key = {B}\n"
    );
    for (bytes, says) in [
        (
            b"[server]\n# \xff\n".as_slice(),
            "f.conf:2: this is not UTF-8",
        ),
        (b"\xff\xfe[\0s\0", "f.conf:1: this is not UTF-8"),
        (b"", "f.conf: no section [server] or [client]"),
        (
            full.as_bytes(),
            "f.conf:2: address 10.8.0.1/30 leaves room for 1 clients, and there are 2",
        ),
    ] {
        let (status, stdout, stderr) = run(&["check", "-c", &folder.file("f.conf", bytes)], "");
        assert_eq!((status, stdout.as_str()), (1, ""));
        assert!(stderr.contains(says), "{stderr}");
    }
    let (_, _, stderr) = run(&["check", "-c", "/none/f.conf"], "");
    assert!(
        stderr.contains("/none/f.conf: there is no such file"),
        "{stderr}"
    );
}

#[cfg(unix)]
#[test]
fn warnings_stand_in_nobodys_way() {
    let folder = Folder::new("warnings");
    let key = folder.file("a.key", A);
    mode(Path::new(&key), 0o644);
    let text = "[server]\nnat = none-such\n[peer]\nname = a\nkey-file = a.key\n";
    let (status, stdout, stderr) = run(&["check", "-c", &folder.file("f.conf", text)], "");
    assert!(status == 0 && stdout.contains("1 client"), "{stderr}");
    assert!(
        stderr.contains("others can read the secret in") && stderr.contains("Try: chmod 600"),
        "{stderr}"
    );
    assert!(
        !cfg!(all(target_os = "linux", not(fernvpn_portable)))
            || stderr.contains("f.conf:2: nat: this machine has no device none-such"),
        "{stderr}"
    );
}

/// The user who checks a configuration is often not the one who runs it.
#[cfg(all(target_os = "linux", not(fernvpn_portable)))]
#[test]
fn check_asks_for_the_user_who_will_run_it() {
    use std::os::unix::fs::chown;
    let folder = Folder::new("users");
    mode(&folder.0, 0o755);
    let file = folder.file(
        "f.conf",
        "[server]\n[peer]\nname = a\nkey-file = a.key\n\
         [peer]\nname = b\nkey-file = b.key\nratchet = yes\n",
    );
    let key = folder.file("a.key", A);
    let state = folder.file("b.key", B);
    let check = || run(&["check", "-c", &file, "--user", "nobody"], "");
    let (status, stdout, stderr) = run(&["check", "-c", &file, "--user", "no-such-user"], "");
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(
        stderr.contains("this machine has no user 'no-such-user'"),
        "{stderr}"
    );
    // All of it belongs to who made it, with mode 0600.
    let (status, stdout, stderr) = check();
    assert_eq!((status, stdout.as_str()), (1, ""), "{stderr}");
    for says in [
        format!("{file}: the user nobody, who will run fernvpn, cannot read it. Try: chown nobody"),
        format!("{key}: the user nobody, who will run fernvpn, cannot read it. Try: chown nobody"),
        format!("{state}: the user nobody, who will run fernvpn, cannot write it"),
    ] {
        assert!(stderr.contains(&says), "{says}: {stderr}");
    }
    if [&file, &key, &state]
        .iter()
        .any(|file| chown(file, Some(65534), None).is_err())
    {
        return; // that takes root
    }
    let (status, _, stderr) = check();
    assert!(
        status == 1 && stderr.contains("cannot write to the folder"),
        "{stderr}"
    );
    chown(&folder.0, Some(65534), None).expect("root may");
    let (status, stdout, stderr) = check();
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert!(stdout.contains("no mistakes"), "{stdout}");
}

/// What a file is: its text and all that belongs to it.
#[cfg(unix)]
fn kept(file: &str) -> (String, u32, u32, u32) {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(file).expect("it is there");
    (
        fs::read_to_string(file).expect("text"),
        metadata.mode() & 0o7777,
        metadata.uid(),
        metadata.gid(),
    )
}

#[cfg(unix)]
#[test]
fn a_client_comes_and_goes_and_all_else_stays() {
    use std::os::unix::fs::{chown, symlink};
    let folder = Folder::new("add");
    let text = format!(
        "# ours\r\n[server]\r\nlisten = 0.0.0.0:443\r\n\r\n# boss\r\n[peer]\r\nname = a\r\n\
         key = {A}\r\n"
    );
    let file = folder.file("s.conf", &text);
    mode(Path::new(&file), 0o640);
    let _ = chown(&file, Some(1234), Some(5678)); // where that is allowed, it stays so
    let link = folder.0.join("link.conf").to_string_lossy().into_owned();
    symlink("s.conf", &link).expect("a link");
    let before = kept(&file);

    let address = ["--address", "10.8.0.9", "--address", "fd0f:e12e::9"];
    let arguments = [
        &[
            "add-client",
            "bob",
            "-c",
            &link,
            "--server",
            "vpn.example.org:443",
        ],
        &address[..],
    ]
    .concat();
    let (status, client, stderr) = run(&arguments, "");
    assert_eq!(status, 0, "{stderr}");
    assert!(
        stderr.contains("added bob to") && stderr.contains("fernvpn reload server"),
        "{stderr}"
    );
    assert!(
        client.contains("# bob, 10.8.0.9/24, fd0f:e12e::9/64.")
            && client.contains("server = vpn.example.org:443\n")
    );
    assert_eq!(
        run(&["check", "-c", &folder.file("c.conf", &client)], "").0,
        0,
        "{client}"
    );
    let added = kept(&file);
    assert!(fs::symlink_metadata(&link).expect("the link").is_symlink());
    assert_eq!(
        (added.1, added.2, added.3),
        (before.1, before.2, before.3),
        "mode and owner"
    );
    let key = client
        .lines()
        .find(|line| line.starts_with("key = "))
        .expect("a key");
    let section =
        format!("\r\n[peer]\r\nname = bob\r\n{key}\r\naddress = 10.8.0.9, fd0f:e12e::9\r\n");
    assert_eq!(added.0, text + &section);

    assert_eq!(run(&["remove-client", "bob", "-c", &file], "").0, 0);
    assert_eq!(kept(&file), before);
    let names = |of: &Path| fs::read_dir(of).expect("the folder").count();
    assert_eq!(names(&folder.0), 3, "nothing is left lying about");
}

#[test]
fn what_cannot_be_added_changes_nothing() {
    let folder = Folder::new("refused");
    let text = format!(
        "[server]\n[peer]\nname = a\nkey = {A}\naddress = 10.8.0.2\n[peer]\nname = b\nkey = {B}\n"
    );
    let file = folder.file("s.conf", &text);
    let leased = run(&["add-client", "c", "-c", &file, "--ratchet"], "").1;
    let leased = leased
        .split([' ', '/'])
        .nth(2)
        .expect("an address")
        .to_owned();
    folder.file("s-d.key", "another's");
    let before = fs::read_to_string(&file).expect("text");
    for (name, more, status, says) in [
        ("a", &[][..], 1, "two peers are called a, in line 3"),
        (
            "x",
            &["--address", "10.8.0.2"],
            1,
            "10.8.0.2 is taken already, by a",
        ),
        (
            "x",
            &["--address", "10.8.0.1"],
            1,
            "10.8.0.1 is taken already, by the server",
        ),
        (
            "x",
            &["--address", "10.9.0.2"],
            1,
            "not in the tunnel's networks",
        ),
        ("x", &["--address", &leased], 1, "is leased to c now"),
        (
            "x",
            &["--address", "10.9.0"],
            2,
            "--address: '10.9.0' is not an address",
        ),
        (
            "x",
            &["--server", "vpn"],
            2,
            "--server: 'vpn' is not HOST:PORT",
        ),
        (
            "d",
            &["--ratchet"],
            1,
            "s-d.key exists already and stays as it is",
        ),
        ("a", &["--ratchet"], 1, "two peers are called a"),
        ("a\n[peer]", &[], 2, "is not a name"),
        ("", &[], 2, "is not a name"),
    ] {
        let (found, stdout, stderr) = run(&[&["add-client", name, "-c", &file], more].concat(), "");
        assert_eq!(
            (found, stdout.as_str()),
            (status, ""),
            "{name} {more:?}: {stderr}"
        );
        assert!(stderr.contains(says), "{name} {more:?}: {stderr}");
        assert_eq!(fs::read_to_string(&file).expect("text"), before);
    }
    assert!(!folder.0.join("s-a.key").exists() && folder.0.join("s-c.key").exists());
    let (status, _, stderr) = run(&["remove-client", "nobody", "-c", &file], "");
    assert!(
        status == 1 && stderr.contains("has no peer nobody"),
        "{stderr}"
    );
    let (_, _, stderr) = run(&["remove-client", "c", "-c", &file], "");
    assert!(
        stderr.contains("rm ") && stderr.contains("s-c.key"),
        "{stderr}"
    );
    let wrong = folder.file("wrong.conf", text.replace("[server]", "[server]\nmtu = 1"));
    let (status, _, stderr) = run(&["add-client", "x", "-c", &wrong], "");
    assert!(
        status == 1 && stderr.contains("wrong.conf:2: mtu: '1' is not a whole number"),
        "{stderr}"
    );
}

#[test]
fn several_at_once_lose_nobody() {
    let folder = Folder::new("at-once");
    let file = folder.file("s.conf", "[server]\n");
    let names: Vec<String> = (0..12).map(|n| format!("client{n}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| assert_eq!(run(&["add-client", name, "-c", &file], "").0, 0));
        }
    });
    let text = fs::read_to_string(&file).expect("text");
    assert!(
        names
            .iter()
            .all(|name| text.contains(&format!("name = {name}\n"))),
        "{text}"
    );
    assert!(run(&["check", "-c", &file], "").1.contains("12 clients"));
}

/// What is printed is what a client needs, with a static key and with one that moves.
#[test]
fn the_printed_configuration_connects() {
    let folder = Folder::new("connects");
    let file = folder.file("s.conf", "[server]\n");
    let mut server: Option<(Running, String)>;
    for (name, ratchet) in [("alice", &[][..]), ("bob", &["--ratchet"])] {
        let (_, printed, _) = run(&[&["add-client", name, "-c", &file], ratchet].concat(), "");
        assert!(printed.contains("# replace this"), "{printed}");
        let client = folder.file(&format!("{name}.conf"), &printed);
        // As the comment says.
        if let Some(key) = printed
            .lines()
            .find(|line| line.starts_with('#') && line.len() == A.len() + 1)
        {
            folder.file(&format!("{name}.key"), &key[1..]);
        }
        server = None; // the one before ends, and with it its hold on the state
        let (_, address) = server.insert(serve(&file));
        let to = [
            "--connect",
            address,
            "--no-tun",
            "--once",
            "--send",
            "it works",
        ];
        let (status, stdout, stderr) = run(&[&["client", "-c", &client], &to[..]].concat(), "");
        assert!(
            status == 0 && stdout.contains(&format!("Hello, {name}!")),
            "{stdout}{stderr}"
        );
        let key = folder.0.join("bob.key").to_string_lossy().into_owned();
        if !ratchet.is_empty() {
            let (status, stdout, stderr) = run(
                &[&["client", "-k", &key, "--ratchet"], &to[..]].concat(),
                "",
            );
            assert!(
                status == 0 && stdout.contains("Hello, bob!"),
                "the same by options alone: {stdout}{stderr}"
            );
        }
    }
}

/// A ratcheted client that fell out of step gets a new key while the server runs.
#[cfg(unix)]
#[test]
fn a_reset_takes_effect_by_a_reload() {
    let folder = Folder::new("reset");
    let name = format!("reset-{}", std::process::id());
    let file = folder.file("s.conf", format!("[server]\nname = {name}\n"));
    let (_, printed, _) = run(&["add-client", "bob", "-c", &file, "--ratchet"], "");
    let is_key = |line: &&str| line.starts_with('#') && line.len() == A.len() + 1;
    let first = printed.lines().find(is_key).expect("a key")[1..].to_owned();
    let (_server, address) = serve(&file);
    let key = folder.file("bob.key", &first);
    let once = |key: &str| {
        let to = [
            "--connect",
            &address,
            "--no-tun",
            "--once",
            "--send",
            "it works",
        ];
        run(&[&["client", "-k", key, "--ratchet"], &to[..]].concat(), "")
    };
    assert_eq!(once(&key).0, 0, "in step");
    let stolen = folder.file("stolen.key", folder.text("bob.key"));
    let words = [
        "client",
        "-k",
        &stolen,
        "--ratchet",
        "--no-tun",
        "--connect",
        &address,
    ];
    let log_of_stolen = folder.file("stolen.log", "");
    let open = fs::File::create(&log_of_stolen).expect("a log");
    let _stolen = Running::start(&words, "connected: ", open);

    let (status, new, stderr) = run(&["reset-client", "bob", "-c", &file], "");
    assert_eq!(status, 0, "{stderr}");
    let advice = format!("To apply the new key: fernvpn reload {name}");
    assert!(stderr.contains(&advice), "{stderr}");
    let key = folder.file("bob.key", &new);
    assert_ne!(once(&key).0, 0, "not before the reload");
    let (status, stdout, stderr) = run(&["reload", &name], "");
    assert!(
        status == 0 && stdout.contains("key is gone: 1"),
        "{stdout}{stderr}"
    );
    assert_eq!(once(&key).0, 0, "{}", folder.text("s.conf.log"));
    assert_ne!(once(&stolen).0, 0, "the old key is of no use");
    let leftover = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().contains(".reset");
    let entries = fs::read_dir(&folder.0)
        .expect("the folder")
        .map(|entry| entry.expect("one"));
    assert_eq!(
        entries.filter(leftover).count(),
        0,
        "the new key is in the state alone"
    );
}

/// A server with this configuration, and where it listens.
fn serve(file: &str) -> (Running, String) {
    Running::start(
        &["server", "-c", file, "--no-tun", "--listen", "127.0.0.1:0"],
        "listening on ",
        log(file),
    )
}

fn log(of: &str) -> fs::File {
    fs::File::create(format!("{of}.log")).expect("a log")
}

/// `check --connect` tells the way, the server and the key apart, and disturbs nobody.
#[test]
fn the_server_is_asked_and_nothing_else_happens() {
    let folder = Folder::new("ask");
    folder.file("a.key", A);
    folder.file("moves.key", C);
    folder.file("theirs.key", C);
    let of_server = format!(
        "[server]\n[peer]\nname = a\nkey = {A}\n[peer]\nname = c\nkey-file = theirs.key\n\
         ratchet = yes\n"
    );
    let file = folder.file("s.conf", of_server);
    let (_server, address) = serve(&file);
    let ask = |server: &str, key: &str| {
        let file = folder.file("c.conf", format!("[client]\nserver = {server}\n{key}\n"));
        run(&["check", "-c", &file, "--connect"], "")
    };

    // All is well, beside the same client connected, whose connection stays.
    let arguments = [
        "client",
        "-k",
        &folder.file("a.key", A),
        "--connect",
        &address,
        "--no-tun",
    ];
    let _connected = Running::start(&arguments, "connected: ", log(&folder.file("a.conf", "")));
    for key in ["key-file = a.key", "key-file = moves.key\nratchet = yes"] {
        let state = [folder.text("moves.key"), folder.text("theirs.key")];
        let (status, stdout, stderr) = ask(&address, key);
        assert!(
            status == 0 && stdout.contains(&format!("is there ({address}, fernvpn/")),
            "{stdout}{stderr}"
        );
        assert!(
            stdout.contains("knows this key: suite aes-256-gcm"),
            "{stdout}"
        );
        assert_eq!(
            [folder.text("moves.key"), folder.text("theirs.key")],
            state,
            "no ratchet has moved"
        );
    }
    assert_eq!(
        folder
            .text("s.conf.log")
            .matches("client connected")
            .count(),
        1,
        "no session has begun"
    );

    // And what goes wrong.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let web = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = |listener: &TcpListener| listener.local_addr().expect("an address").to_string();
    let (free, web_at) = (
        TcpListener::bind("127.0.0.1:0")
            .map(|port| at(&port))
            .expect("a port"),
        at(&web),
    );
    std::thread::spawn(move || {
        let (mut socket, _) = web.accept().expect("a connection");
        socket
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .expect("written");
    });
    std::thread::scope(|scope| {
        for (server, key, says) in [
            (&*free, A, "the server cannot be reached: cannot connect"),
            (&*free, A, "nothing listens there"),
            (
                "no-such-name.invalid:1",
                A,
                "cannot find no-such-name.invalid:1",
            ),
            (&*address, B, "the server can be reached, but"),
            (
                &*address,
                B,
                "a server does not answer a key that it does not know",
            ),
            (&*at(&silent), A, "connected, but no answer for 5 s"),
            (&*web_at, A, "this is not a fernvpn server"),
        ] {
            let name = format!(
                "{}.conf",
                says.replace(|c: char| !c.is_ascii_alphanumeric(), "")
            );
            let file = folder.file(&name, format!("[client]\nserver = {server}\nkey = {key}\n"));
            scope.spawn(move || {
                let (status, stdout, stderr) = run(&["check", "-c", &file, "--connect"], "");
                assert_eq!((status, stdout.as_str()), (1, ""), "{stderr}");
                assert!(stderr.contains(says), "{says}: {stderr}");
            });
        }
    });
    let (status, _, stderr) = run(&["check", "-c", &file, "--connect"], "");
    assert!(
        status == 2 && stderr.contains("--connect is for a client's"),
        "{stderr}"
    );
}
