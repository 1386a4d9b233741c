//! Do the token commands keep the promises of the command line? Runs the real program.

use crate::program;
use program::*;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const SPEC_KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
/// `hello`, made at 499162800 with that key.
const SPEC_TOKEN: &str = "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPg\
    JobwOz7JcbmrR64jVmpU4IwqDA==";
const OTHER_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn done(stdout: &str) -> (i32, String, String) {
    (0, stdout.into(), String::new())
}

fn refused() -> (i32, String, String) {
    (1, String::new(), "invalid token\n".into())
}

#[track_caller]
fn usage(arguments: &[&str], says: &str) {
    let (status, stdout, stderr) = run(arguments, SPEC_TOKEN);
    assert_eq!(
        (status, stdout.as_str()),
        (2, ""),
        "{arguments:?}: {stderr}"
    );
    assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    assert!(stderr.contains("usage: fernvpn"), "{arguments:?}: {stderr}");
}

#[track_caller]
fn fails(arguments: &[&str], says: &str) {
    let (status, stdout, stderr) = run(arguments, SPEC_TOKEN);
    assert_eq!(
        (status, stdout.as_str()),
        (1, ""),
        "{arguments:?}: {stderr}"
    );
    assert!(stderr.contains(says), "{arguments:?}: {stderr}");
}

#[test]
fn help_and_version() {
    let (status, all, stderr) = run(&["help"], "");
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_eq!(run(&["--help"], ""), done(&all));
    for command in ["genkey", "encrypt", "decrypt", "rotate", "inspect"] {
        assert!(all.contains(&format!("  {command} ")));
        let (status, help, _) = run(&["help", command], "");
        assert!(status == 0 && help.contains(&format!("usage: fernvpn {command}")));
        assert_eq!(run(&[command, "-k", "x", "--help"], ""), done(&help));
    }
    assert_eq!(
        run(&["--version"], ""),
        done(concat!("fernvpn ", env!("CARGO_PKG_VERSION"), "\n"))
    );
    usage(&[], "which command?");
    usage(
        &["decript"],
        "unknown command 'decript'; did you mean decrypt?",
    );
    usage(&["help", "nothing"], "unknown command 'nothing'");
}

#[test]
fn genkey_prints_keys() {
    let mut seen = std::collections::HashSet::new();
    for _ in 0..20 {
        let (status, key, stderr) = run(&["genkey"], "");
        assert_eq!((status, key.len(), stderr.as_str()), (0, 45, ""));
        assert!(fernvpn::fernet::Key::parse(key.trim_end()).is_ok());
        assert!(seen.insert(key));
    }
    usage(
        &["genkey", "--salt", "x"],
        "--salt belongs to --passphrase-file",
    );
    usage(&["genkey", "extra"], "unexpected argument 'extra'");
}

/// Expected values made with Python's `cryptography` (the recipe in its documentation).
#[test]
fn genkey_from_a_passphrase() {
    let folder = Folder::new("passphrase");
    let key = "mENorIXq3umxFVOyg1k2ygYEROW7ogMZei8H8iEmNTg=\n";
    for content in [
        "correct horse",
        "correct horse\n",
        "correct horse\r\n",
        "correct horse\nsecond line\n",
    ] {
        let file = folder.file("passphrase", content);
        let (status, stdout, stderr) = run(
            &[
                "genkey",
                "--passphrase-file",
                &file,
                "--salt",
                "s\u{e4}lz",
                "--iterations",
                "1000",
            ],
            "",
        );
        assert_eq!((status, stdout.as_str()), (0, key), "{content:?}");
        assert!(stderr.contains("anybody can try passphrases") && !stderr.contains("horse"));
    }
    let file = folder.file("passphrase", "correct horse");
    usage(&["genkey", "--passphrase-file", &file], "needs --salt");
    usage(
        &["genkey", "--passphrase-file", &file, "--salt", ""],
        "needs --salt",
    );
    for iterations in ["0", "-1", "many", "4294967296"] {
        let arguments = [
            "genkey",
            "--passphrase-file",
            &file,
            "--salt",
            "x",
            "--iterations",
            iterations,
        ];
        usage(&arguments, "--iterations");
    }
    let empty = folder.file("empty", "\ncorrect horse");
    fails(
        &["genkey", "--passphrase-file", &empty, "--salt", "x"],
        "is empty",
    );
    fails(
        &[
            "genkey",
            "--passphrase-file",
            "/nowhere/at/all",
            "--salt",
            "x",
        ],
        "no such file",
    );
}

#[test]
fn encrypt_and_decrypt() {
    let folder = Folder::new("encrypt");
    let key = folder.file("key", SPEC_KEY);
    for message in [&b""[..], b"hello", b"two\nlines\n", &[0xff; 16], &[0; 1000]] {
        let token = fernvpn(&["encrypt", "-k", &key], message);
        assert!(token.status.success() && token.stderr.is_empty());
        assert!(token.stdout.starts_with(b"gAAAAA") && token.stdout.ends_with(b"\n"));
        let opened = fernvpn(&["decrypt", "-k", &key, "--ttl", "60"], &token.stdout);
        assert!(opened.status.success() && opened.stderr.is_empty());
        assert_eq!(opened.stdout, message, "no newline is added");
        let again = fernvpn(&["encrypt", "-k", &key], message);
        assert_ne!(again.stdout, token.stdout, "another IV");
    }
    let (_, token, _) = run(
        &["encrypt", "-k", &key, "--time", "18446744073709551615"],
        "end of time",
    );
    assert_eq!(run(&["decrypt", "-k", &key], &token), done("end of time"));
    assert_eq!(
        run(&["decrypt", "-k", &key, "--ttl", "1"], &token),
        refused()
    );
}

#[test]
fn one_final_newline_is_allowed() {
    let folder = Folder::new("newline");
    let key = folder.file("key", SPEC_KEY);
    for command in ["decrypt", "rotate", "inspect"] {
        for (end, good) in [
            ("", true),
            ("\n", true),
            ("\r\n", true),
            ("\n\n", false),
            ("\r", false),
            (" \n", false),
            ("\r\r\n", false),
        ] {
            let (status, _, stderr) = run(&[command, "-k", &key], format!("{SPEC_TOKEN}{end}"));
            assert_eq!(status == 0, good, "{command} {end:?}: {stderr}");
        }
        assert_eq!(run(&[command, "-k", &key], format!("\n{SPEC_TOKEN}")).0, 1);
    }
}

#[test]
fn every_refusal_reads_the_same() {
    let folder = Folder::new("refusals");
    let key = folder.file("key", SPEC_KEY);
    let vectors: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("../vectors/fernet/invalid.json")).expect("a list");
    for vector in vectors {
        let token = vector["token"].as_str().expect("a text");
        let minute_31 = vector["now"] == "1985-10-26T01:21:31-07:00";
        let now = if minute_31 { "499162891" } else { "499162801" };
        let arguments = ["decrypt", "-k", &key, "--ttl", "60", "--now", now];
        assert_eq!(run(&arguments, token), refused(), "{}", vector["desc"]);
    }
    let almost = SPEC_TOKEN.replace("_eEw", "_eEx");
    for token in [
        "",
        "\n",
        "\0",
        "A",
        "AA",
        "gAAA",
        "\u{e9}",
        &almost,
        &SPEC_TOKEN[1..],
        SPEC_KEY,
    ] {
        for command in ["decrypt", "rotate"] {
            assert_eq!(
                run(&[command, "-k", &key], token),
                refused(),
                "{command} {token:?}"
            );
        }
    }
}

#[test]
fn ttl_and_now() {
    let folder = Folder::new("ttl");
    let key = folder.file("key", SPEC_KEY);
    let at = |ttl: &str, now: &str| {
        run(
            &["decrypt", "-k", &key, "--ttl", ttl, "--now", now],
            SPEC_TOKEN,
        )
    };
    assert_eq!(at("60", "499162800"), done("hello"));
    assert_eq!(at("60", "499162860"), done("hello"));
    assert_eq!(at("60", "499162861"), refused());
    assert_eq!(at("0", "499162800"), done("hello"));
    assert_eq!(at("0", "499162801"), refused());
    assert_eq!(at("60", "499162740"), done("hello"));
    assert_eq!(at("60", "499162739"), refused());
    assert_eq!(
        at("18446744073709551615", "18446744073709551615"),
        done("hello")
    );
    assert_eq!(
        run(&["decrypt", "-k", &key, "--ttl=60"], SPEC_TOKEN),
        refused(),
        "the clock's now"
    );
    usage(
        &["decrypt", "-k", &key, "--now", "1"],
        "--now changes nothing without --ttl",
    );
}

#[test]
fn a_negative_ttl_is_a_usage_error() {
    let folder = Folder::new("negative");
    let key = folder.file("key", SPEC_KEY);
    for bad in [
        "-1",
        "1.5",
        "",
        "1e3",
        "0x10",
        "+1",
        " 1",
        "18446744073709551616",
    ] {
        usage(
            &["decrypt", "-k", &key, "--ttl", bad],
            "--ttl takes a whole number",
        );
        usage(
            &["decrypt", "-k", &key, "--ttl", "1", "--now", bad],
            "--now takes a whole number",
        );
        usage(
            &["encrypt", "-k", &key, "--time", bad],
            "--time takes a whole number",
        );
    }
}

#[test]
fn wrong_command_lines() {
    let folder = Folder::new("wrong");
    let key = folder.file("key", SPEC_KEY);
    for command in ["encrypt", "decrypt", "rotate"] {
        usage(&[command], "no key file is given. Try: -k FILE");
        usage(&[command, "-k"], "-k needs a value");
        usage(
            &[command, "-k", &key, "token"],
            "unexpected argument 'token'",
        );
    }
    usage(
        &["decrypt", "-k", &key, "--tll", "5"],
        "unknown option --tll; did you mean --ttl?",
    );
    usage(&["encrypt", "-k", &key, "-k", &key], "-k is given twice");
    // A key is not repeated, wherever it was typed.
    for arguments in [&["decrypt", SPEC_KEY][..], &["decrypt", "-k", SPEC_KEY]] {
        let (status, _, stderr) = run(arguments, SPEC_TOKEN);
        assert!(
            status > 0 && !stderr.contains("cw_0") && stderr.contains("make a new one"),
            "{stderr}"
        );
    }
}

#[test]
fn keys_in_order() {
    let folder = Folder::new("keys");
    let (spec, other) = (
        folder.file("spec", SPEC_KEY),
        folder.file("other", OTHER_KEY),
    );
    let both = folder.file(
        "both",
        format!("# first\r\n\r\n  {OTHER_KEY} # zeros\r\n{SPEC_KEY}"),
    );
    assert_eq!(run(&["decrypt", "-k", &other], SPEC_TOKEN), refused());
    assert_eq!(
        run(&["decrypt", "-k", &other, "-k", &spec], SPEC_TOKEN),
        done("hello")
    );
    assert_eq!(
        run(&["decrypt", "-k", &spec, "-k", &other], SPEC_TOKEN),
        done("hello")
    );
    assert_eq!(run(&["decrypt", "-k", &both], SPEC_TOKEN), done("hello"));
    // The first of several encrypts.
    let (_, token, _) = run(&["encrypt", "-k", &both], "m");
    assert_eq!(run(&["decrypt", "-k", &other], &token), done("m"));
    assert_eq!(run(&["decrypt", "-k", &spec], &token), refused());
}

#[test]
fn rotate_keeps_the_timestamp() {
    let folder = Folder::new("rotate");
    let (spec, other) = (
        folder.file("spec", SPEC_KEY),
        folder.file("other", OTHER_KEY),
    );
    let (status, token, stderr) = run(
        &["rotate", "-k", &other, "-k", &spec],
        format!("{SPEC_TOKEN}\n"),
    );
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_eq!(token[..12], SPEC_TOKEN[..12], "version and timestamp");
    assert_ne!(token[12..33], SPEC_TOKEN[12..33], "the IV");
    assert_eq!(
        run(
            &["decrypt", "-k", &other, "--ttl", "0", "--now", "499162800"],
            &token
        ),
        done("hello")
    );
    assert_eq!(run(&["decrypt", "-k", &spec], &token), refused());
    assert_eq!(run(&["rotate", "-k", &other], SPEC_TOKEN), refused());
}

#[test]
fn key_files_that_are_none() {
    let folder = Folder::new("files");
    let broken = folder.file("broken", format!("{OTHER_KEY}\n\n{}\n", &SPEC_KEY[2..]));
    let (status, stdout, stderr) = run(&["decrypt", "-k", &broken], SPEC_TOKEN);
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(
        stderr.contains(&format!("{broken}, line 3: not a key")),
        "{stderr}"
    );
    assert!(!stderr.contains(&SPEC_KEY[4..10]), "{stderr}");
    fails(
        &["decrypt", "-k", &folder.file("empty", "# nothing\n")],
        "no key",
    );
    fails(&["decrypt", "-k", "/nowhere/at/all"], "no such file");
    fails(
        &["decrypt", "-k", folder.0.to_str().expect("UTF-8")],
        "cannot read key file",
    );
}

#[cfg(unix)]
#[test]
fn an_open_key_file_gets_a_warning() {
    let folder = Folder::new("mode");
    let key = folder.file("key", SPEC_KEY);
    for (bits, warned) in [(0o600, false), (0o400, false), (0o604, true), (0o644, true)] {
        mode(Path::new(&key), bits);
        let (status, stdout, stderr) = run(&["decrypt", "-k", &key], SPEC_TOKEN);
        assert_eq!(
            (status, stdout.as_str()),
            (0, "hello"),
            "a warning, no more"
        );
        assert_eq!(
            stderr.starts_with("warning: others can read"),
            warned,
            "{bits:o}: {stderr}"
        );
        assert_eq!(stderr.contains("chmod 600"), warned);
    }
}

#[test]
fn eight_mebibytes() {
    let folder = Folder::new("big");
    let key = folder.file("key", SPEC_KEY);
    let message: Vec<u8> = (0..8u32 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0])
        .collect();
    let token = fernvpn(&["encrypt", "-k", &key], &message);
    assert!(token.status.success());
    let opened = fernvpn(&["decrypt", "-k", &key], &token.stdout);
    assert!(opened.status.success() && opened.stdout == message);
    let mut broken = token.stdout;
    broken[11_000_000] ^= 1;
    let opened = fernvpn(&["decrypt", "-k", &key], &broken);
    assert_eq!(
        (opened.status.code(), opened.stdout.len()),
        (Some(1), 0),
        "not one byte of it"
    );
}

#[cfg(all(target_os = "linux", not(fernvpn_portable)))]
#[test]
fn a_full_disk_is_an_error_with_a_reason() {
    let folder = Folder::new("full");
    let key = folder.file("key", SPEC_KEY);
    for arguments in [&["genkey"][..], &["encrypt", "-k", &key]] {
        let full = fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("/dev/full");
        let done = Command::new(env!("CARGO_BIN_EXE_fernvpn"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(full)
            .output();
        let done = done.expect("the program");
        assert_eq!(done.status.code(), Some(1));
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert!(
            stderr.starts_with("fernvpn: cannot write to stdout: "),
            "{stderr}"
        );
    }
}

#[test]
fn a_reader_that_left_is_an_error_with_a_reason() {
    let folder = Folder::new("pipe");
    let key = folder.file("key", SPEC_KEY);
    let mut child = Command::new(env!("CARGO_BIN_EXE_fernvpn"))
        .args(["encrypt", "-k", &key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    drop(child.stdout.take());
    child
        .stdin
        .take()
        .expect("stdin")
        .write_all(&[0; 100_000])
        .expect("it reads");
    let done = child.wait_with_output().expect("its output");
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&done.stderr).starts_with("fernvpn: cannot write to stdout: "));
}

#[test]
fn inspect_takes_a_token_apart() {
    let folder = Folder::new("inspect");
    let (spec, other) = (
        folder.file("spec", format!("{SPEC_KEY} # alice")),
        folder.file("other", OTHER_KEY),
    );
    let (status, without, stderr) = run(
        &["inspect", "--now", "499162801"],
        format!("{SPEC_TOKEN}\n"),
    );
    assert_eq!((status, stderr.as_str()), (0, ""));
    for says in [
        "100 characters of base64url, 2 of them padding, 73 bytes",
        "499162800: 1985-10-26T08:20:00Z, 1 second before now",
        "00 00 00 00 1d c0 9e b0",
        "1 block: a message of 0 to 15 bytes",
        "3  recompute the HMAC and compare     needs a key",
    ] {
        assert!(without.contains(says), "{says} in:\n{without}");
    }
    let (status, with, stderr) = run(
        &["inspect", "-k", &other, "-k", &spec, "--now", "499162801"],
        SPEC_TOKEN,
    );
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert!(
        with.contains(&format!("ok: made with the key 'alice' in {spec}, line 1")),
        "{with}"
    );
    assert!(
        with.contains("ok: 11 of value 0x0b; the message has 5 bytes"),
        "{with}"
    );
    assert!(
        !with.contains("hello") && !with.contains(&SPEC_KEY[..8]),
        "no message, no key"
    );
}

#[test]
fn inspect_says_what_is_broken_and_where() {
    let folder = Folder::new("broken");
    let (spec, other) = (
        folder.file("spec", SPEC_KEY),
        folder.file("other", OTHER_KEY),
    );
    let aged = ["-k", &spec, "--ttl", "60", "--now"];
    let old = [&aged[..], &["499162861"]].concat();
    let early = [&aged[..], &["499162739"]].concat();
    let keyed = ["-k", &spec[..]];
    let respelled = SPEC_TOKEN.replace("DA==", "DB==");
    let padding = "gAAAAAAdwJ6xAAECAwQFBgcICQoLDA0ODz4LEpdELGQAad7aNEHbf-JkLPIpuiYRLQ3RtXatOYREu2F\
        Wke6CnJNYIbkuKNqOhw==";
    let wrapped = format!("{}\n{}", &SPEC_TOKEN[..64], &SPEC_TOKEN[64..]);
    let plain = SPEC_TOKEN.replace('_', "/");
    let versioned = format!("gQ{}", &SPEC_TOKEN[2..]);
    for (token, arguments, step, says) in [
        (
            &wrapped[..],
            &[][..],
            1,
            "character 64 is not base64url: a line end",
        ),
        (&plain, &[], 1, "'/' belongs to plain base64"),
        (
            &SPEC_TOKEN[..99],
            &[],
            1,
            "character 98 is not base64url: '='",
        ),
        (&SPEC_TOKEN[..97], &[], 1, "one character is left"),
        (&respelled, &[], 1, "(character 97)"),
        (&versioned, &[], 2, "WRONG: 0x80 is the only known version"),
        ("", &[], 2, "version     MISSING"),
        (&SPEC_TOKEN[..8], &[], 2, "CUT: 5 of 8 bytes"),
        (&SPEC_TOKEN[..28], &[], 2, "CUT: 12 of 16 bytes"),
        (&SPEC_TOKEN[..44], &[], 2, "CUT: 8 of 32 bytes"),
        (
            &SPEC_TOKEN[..76],
            &[],
            2,
            "MISSING: even an empty message has one block",
        ),
        (
            &SPEC_TOKEN[..96],
            &[],
            2,
            "WRONG: 0 whole blocks of 16 and 15 bytes over",
        ),
        (
            SPEC_TOKEN,
            &["-k", &other],
            3,
            "REFUSED: the HMAC does not verify: no given key has made it",
        ),
        (SPEC_TOKEN, &old, 4, "REFUSED: older than its time-to-live"),
        (
            SPEC_TOKEN,
            &early,
            4,
            "REFUSED: from more than 60 seconds in the future",
        ),
        (
            padding,
            &keyed,
            6,
            "REFUSED: the padding is wrong: the last byte ",
        ),
    ] {
        let (status, stdout, stderr) = run(&[&["inspect"], arguments].concat(), token);
        assert_eq!(status, 1, "{token}");
        assert!(stdout.contains(says), "{says} in:\n{stdout}");
        assert!(
            stderr.starts_with(&format!("fernvpn: refused in step {step}: ")),
            "{stderr}"
        );
        assert_eq!(
            stdout.contains("1985-10-26"),
            token.len() > 12,
            "what can be read is shown:\n{stdout}"
        );
    }
}

/// What people have instead of a token, or around it.
#[test]
fn inspect_knows_what_is_no_token() {
    for (text, says) in [
        (String::new(), "nothing came in"),
        (format!("\"{SPEC_TOKEN}\""), "quotation marks"),
        (format!("b'{SPEC_TOKEN}'"), "quotation marks"),
        (
            SPEC_TOKEN.replace('=', "%3D"),
            "%3D is how a URL writes '='",
        ),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln".into(), "a JWT"),
        ("800000000065".repeat(13), "hexadecimal digits"),
        (
            "Z0FBQUFBQWR3SjZ3QUFFQ0F3UUZCZ2NJQ1FvTERBME9EeTAyMWNwR1ZXS1o=".into(),
            "encoded twice",
        ),
        (
            SPEC_TOKEN.repeat(2),
            "something follows the token's padding",
        ),
        (SPEC_TOKEN[..50].into(), "it was cut"),
    ] {
        let (status, stdout, _) = run(&["inspect"], &text);
        assert_eq!(status, 1, "{text}");
        assert!(
            stdout.contains("\nhint: ") && stdout.contains(says),
            "{text}:\n{stdout}"
        );
    }
    for good in [SPEC_TOKEN, SPEC_TOKEN.trim_end_matches('=')] {
        assert!(!run(&["inspect"], good).1.contains("hint"));
    }
    // A key was given by mistake. Not a byte of it is shown.
    let (status, stdout, stderr) = run(&["inspect"], SPEC_KEY);
    assert!(
        status == 1 && stdout.contains("a Fernet key and no token"),
        "{stdout}"
    );
    assert!(
        !stdout.contains("73") && !stderr.contains("73") && !stdout.contains("cw_0"),
        "{stdout}{stderr}"
    );
}

/// Where a padding is wrong. The tokens' HMACs are right; made with Python's `cryptography`.
#[test]
fn inspect_says_where_a_padding_is_wrong() {
    let folder = Folder::new("padding");
    let spec = folder.file("spec", SPEC_KEY);
    for (token, says) in [
        (
            "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0OD0ifQNhlmWwECZ8rxW0yIB-SGyUW1cOV-_vsPnJ2rMGPxNWljJUsB\
             J_HUZQOagJiGw==",
            "the last byte is 0x00",
        ),
        (
            "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODwh7kmpzFr4MDIdsruPvzPCm9bfYx0BiT2_k_DU91S5kvkBB5SyWY\
             VVdMNvkTV6lKg==",
            "the last byte is 0x11",
        ),
        (
            "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODz_9XzSUPBH3gGOvdUpUjKnxBg7Flgci32JmnvkPQc9V4sngTuQrz\
             oFBXXM7I4gNDQ==",
            "3 bytes of 0x03, but decrypted byte 13 has another value",
        ),
    ] {
        let (status, stdout, stderr) = run(&["inspect", "-k", &spec], token);
        assert_eq!(
            (status, stderr.as_str()),
            (1, "fernvpn: refused in step 6: the padding is wrong\n")
        );
        assert!(stdout.contains(says), "{says} in:\n{stdout}");
    }
}

#[test]
fn inspect_reads_a_hello_with_the_key_of_its_client() {
    let folder = Folder::new("hello");
    let vectors = format!(
        "{}/tests/vectors/session-fernet-ratcheted.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let session: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(vectors).expect("there")).expect("JSON");
    let key = folder.file(
        "key",
        format!("{} # alice", session["key"].as_str().expect("text")),
    );
    let frame = |n: usize, skip: usize| -> Vec<u8> {
        let digits = session["hellos"][n]["frame"]
            .as_str()
            .expect("text")
            .as_bytes();
        let byte = |pair: &[u8]| {
            u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex")
        };
        digits.chunks(2).skip(skip).map(byte).collect()
    };
    for (hello, line) in [
        (frame(0, 12), "  role=client "),
        (frame(1, 4), "  suite=fernet "),
    ] {
        let (status, stdout, stderr) = run(&["inspect", "-k", &key], hello);
        assert_eq!((status, stderr.as_str()), (0, ""));
        assert!(
            stdout.contains(&format!(
                "made with the hello key of the key 'alice' in {key}, line 1"
            )),
            "{stdout}"
        );
        assert!(
            stdout.contains(line) && stdout.contains("  step=41 "),
            "{stdout}"
        );
        let secret = session["ratchet"]["secret"].as_str().expect("text");
        assert!(!stdout.contains(secret), "the ratchet secret stays one");
        assert_eq!(
            stdout.contains("ratchet=(32 secret bytes)"),
            line.contains("suite"),
            "{stdout}"
        );
    }
}
