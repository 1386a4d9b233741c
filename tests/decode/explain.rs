//! Does the lesson say the truth, and all of it? Every byte is in one field, and the frames are
//! those of the vectors. The page is the kept one, its Python lines run, and it works in a browser.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::needs;
use fernvpn::audit::explain::text::{Paint, draw};
use fernvpn::audit::explain::{Lesson, hex, html, lesson};
use fernvpn::protocol::record::Suite;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn of(seed: Option<&str>) -> Lesson {
    lesson(&Suite::ALL, seed, "truncated").unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn fernvpn(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fernvpn"))
        .arg("explain")
        .args(arguments)
        .output()
        .unwrap()
}

/// A file that is gone when the test is.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        Scratch(std::env::temp_dir().join(format!("fernvpn-{}-{name}", std::process::id())))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

// ---------------------------------------------------------------- what it says

#[test]
fn every_byte_belongs_to_one_field() {
    let specification = std::fs::read_to_string(root().join("docs/PROTOCOL.md")).unwrap();
    let specified = |section: &str| {
        let number = section.starts_with(|c: char| c.is_ascii_digit());
        let heading = |line: &str| {
            line.trim_start_matches('#')
                .trim_start()
                .starts_with(&format!("{section} "))
        };
        let chapter = |line: &str| line.starts_with(&format!("## {section}. "));
        !number
            || specification
                .lines()
                .any(|line| line.starts_with("##") && (heading(line) || chapter(line)))
    };
    for seed in [None, Some("alice"), Some("")] {
        for chapter in of(seed).chapters {
            assert!(!chapter.about.is_empty(), "{}", chapter.id);
            for (n, step) in chapter.steps.into_iter().enumerate() {
                let place = format!("{}, {}", chapter.id, step.name);
                assert!(
                    !step.about.is_empty() && specified(step.section),
                    "{place}: {}",
                    step.section
                );
                let refused = chapter.id.starts_with("refused") && n > 0;
                assert_eq!(step.refusal.is_some(), refused, "{place}");
                // Its lines say what was sent that passes, and have the same check refuse what was
                // received.
                assert_eq!(
                    step.python.contains("\nassert ") && step.python.contains(" and refused("),
                    refused,
                    "{place}"
                );
                for layer in step.layers {
                    let total: usize = layer.fields.iter().map(|field| field.length).sum();
                    assert_eq!(
                        total,
                        layer.bytes.len(),
                        "{place}: the {} is not covered",
                        layer.name
                    );
                    for field in layer.fields {
                        assert!(
                            field.length > 0 && !field.meaning.is_empty(),
                            "{place}: {field:?}"
                        );
                        assert!(
                            !["left over", "unknown", "packet"].contains(&&*field.name),
                            "{place}: {field:?}"
                        );
                        assert!(specified(field.section), "{place}: {field:?}");
                        assert!(
                            !field.value.contains(char::is_control),
                            "{place}: {field:?}"
                        );
                    }
                }
                assert!(
                    step.values.iter().all(|value| !value.meaning.is_empty()),
                    "{place}"
                );
                for known in step.known.iter().flatten() {
                    assert!(
                        specification.contains(&format!("| {known} |")),
                        "{place}: {known}"
                    );
                }
            }
        }
    }
}

#[test]
fn all_that_is_said_in_a_session_is_there() {
    for chapter in of(None)
        .chapters
        .iter()
        .filter(|chapter| !chapter.id.starts_with("refused"))
    {
        let names: BTreeSet<&str> = chapter.steps.iter().map(|step| step.name).collect();
        for name in [
            "The key",
            "ClientHello",
            "ServerHello",
            "The session's keys",
            "Finished",
            "Config",
            "Ping",
            "Pong",
        ] {
            assert!(names.contains(name), "{}: {name}", chapter.id);
        }
        for name in [
            "Message",
            "Packets",
            "SuperPacket",
            "Rekey",
            "The next traffic secret",
            "Close",
        ] {
            assert!(names.contains(name), "{}: {name}", chapter.id);
        }
        assert_eq!(
            names.contains("The next key"),
            chapter.id.ends_with("ratcheted")
        );
        for step in chapter.steps.iter().filter(|step| !step.layers.is_empty()) {
            let layers: Vec<_> = step.layers.iter().map(|layer| layer.name).collect();
            let token = chapter.id.starts_with("fernet") || step.name.ends_with("Hello");
            let expected = if token {
                &["frame", "token", "message"][..]
            } else {
                &["frame", "message"]
            };
            assert_eq!(layers, expected, "{}: {}", chapter.id, step.name);
            assert!(step.known.is_some());
        }
    }
}

/// The vectors were made by other means, and other software has recomputed them.
#[test]
fn the_sessions_are_those_of_the_vectors() {
    for chapter in of(None)
        .chapters
        .iter()
        .filter(|chapter| !chapter.id.starts_with("refused"))
    {
        let file = root().join(format!("tests/vectors/session-{}.json", chapter.id));
        if chapter.id.ends_with("-static") && !file.exists() {
            continue; // a suite that was added later has its vectors with a ratcheted key alone
        }
        let session: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let objects = ["hellos", "records"]
            .map(|name| session[name].as_array().unwrap().clone())
            .concat();
        let expected: Vec<_> = objects
            .iter()
            .map(|object| object["frame"].as_str().unwrap().to_owned())
            .collect();
        let frames = chapter.steps.iter().filter_map(|step| step.layers.first());
        assert_eq!(
            frames.map(|layer| hex(&layer.bytes)).collect::<Vec<_>>(),
            expected,
            "{}",
            chapter.id
        );
        // Every value that both have under the same name.
        let values: Vec<_> = chapter.steps.iter().flat_map(|step| &step.values).collect();
        let mut same = 0;
        for (name, value) in session["derived"].as_object().unwrap() {
            let name = if name == "next" { "next_K" } else { name };
            let ours = values
                .iter()
                .find(|value| value.python == name)
                .unwrap_or_else(|| panic!("no {name}"));
            assert_eq!(
                hex(&ours.bytes),
                value.as_str().unwrap(),
                "{}: {name}",
                chapter.id
            );
            same += 1;
        }
        assert!(same >= 5);
        for object in session["keys"].as_array().unwrap() {
            let which = if object["rekeys"] == 1 { "2" } else { "" };
            for (field, ending) in [("secret", ""), ("key", "_key"), ("iv", "_iv")] {
                let Some(expected) = object[field].as_str() else {
                    continue;
                };
                let name = format!("{}{which}{ending}", object["from"].as_str().unwrap());
                let ours = values
                    .iter()
                    .find(|value| value.python == name)
                    .unwrap_or_else(|| panic!("no {name}"));
                assert_eq!(hex(&ours.bytes), expected, "{}: {name}", chapter.id);
            }
        }
    }
}

#[test]
fn what_is_wrong_is_refused_in_the_words_of_the_code() {
    let lesson = of(None);
    let refusals = |chapter: &str| -> Vec<(&str, String)> {
        let chapter = lesson
            .chapters
            .iter()
            .find(|known| known.id == chapter)
            .unwrap();
        chapter
            .steps
            .iter()
            .skip(1)
            .map(|step| (step.name, step.refusal.clone().unwrap()))
            .collect()
    };
    let hmac = "the hello's token is invalid: the HMAC does not verify";
    let expected = [
        ("Wrong key", "the hello names another key"),
        ("Forged hello", hmac),
        ("Flipped bit in a hello", hmac),
        (
            "Expired hello",
            "the hello's token is invalid: older than its time-to-live",
        ),
        (
            "Future hello",
            "the hello's token is invalid: from more than 60 seconds in the future",
        ),
        (
            "Reflected hello",
            "the hello is from a client: reflected, or two of a kind",
        ),
        (
            "Answer to another hello",
            "the answer belongs to another hello",
        ),
        (
            "Replayed hello, and its Finished",
            "the record is not the next one under this key: its tag is wrong",
        ),
        (
            "Ratchet disagrees",
            "the server refused: not the same step of the ratcheted key",
        ),
        (
            "Oversized frame",
            "a frame of 1025 bytes where 1 to 1024 are allowed",
        ),
        (
            "Empty frame",
            "a frame of 0 bytes where 1 to 1024 are allowed",
        ),
    ];
    assert_eq!(
        refusals("refused-hellos"),
        expected.map(|(name, words)| (name, words.to_owned()))
    );
    let names = [
        "Flipped bit in a record",
        "Flipped bit in a length",
        "Dropped or reordered record",
        "Repeated record",
        "Reflected record",
        "Shortened record",
        "Record after its Rekey",
        "Truncated record",
    ];
    let tag = "the record is not the next one under this key: its tag is wrong".to_owned();
    let found = refusals("refused-records-aes-256-gcm");
    assert_eq!(found.len(), names.len());
    for (n, (name, refusal)) in found.into_iter().enumerate() {
        assert_eq!(
            (name, refusal),
            (
                names[n],
                if n < 7 {
                    tag.clone()
                } else {
                    "truncated".to_owned()
                }
            )
        );
    }
    let token = |reason: &str| format!("the record is not a valid token: {reason}");
    let words = [
        token("the HMAC does not verify"),
        token("no base64url text has this length"),
        "record 2 came where record 1 is due".to_owned(),
        "record 1 came where record 2 is due".to_owned(),
        token("the HMAC does not verify"),
        token("87 bytes, where a token has 57 and one or more blocks of 16"),
        token("the HMAC does not verify"),
        "truncated".to_owned(),
    ];
    let expected: Vec<_> = names.into_iter().zip(words).collect();
    assert_eq!(refusals("refused-records-fernet"), expected);
}

/// In a frame with one bit flipped, the byte that is marked is the one that differs.
#[test]
fn the_marked_byte_is_the_changed_one() {
    let lesson = of(None);
    let frame_of = |chapter: &str, step: &str| {
        let chapter = lesson
            .chapters
            .iter()
            .find(|known| known.id == chapter)
            .unwrap();
        &chapter
            .steps
            .iter()
            .find(|known| known.name == step)
            .unwrap()
            .layers[0]
    };
    let good = frame_of("aes-256-gcm-static", "ClientHello");
    let flipped = frame_of("refused-hellos", "Flipped bit in a hello");
    let differ: Vec<_> = (0..good.bytes.len())
        .filter(|at| good.bytes[*at] != flipped.bytes[*at])
        .collect();
    assert_eq!(differ, [flipped.changed.unwrap()]);
    for suite in Suite::ALL {
        let good = &frame_of(&format!("refused-records-{suite}"), "Repeated record").bytes;
        let flipped = frame_of(
            &format!("refused-records-{suite}"),
            "Flipped bit in a record",
        );
        let differ: Vec<_> = (0..good.len())
            .filter(|at| good[*at] != flipped.bytes[*at])
            .collect();
        assert_eq!(differ, [flipped.changed.unwrap()]);
    }
}

#[test]
fn every_student_has_other_bytes_and_always_the_same() {
    let bytes = |seed| -> Vec<Vec<u8>> {
        let chapters = of(seed).chapters.into_iter();
        chapters
            .flat_map(|chapter| chapter.steps)
            .flat_map(|step| step.layers)
            .map(|layer| layer.bytes)
            .collect()
    };
    let (alice, bob, nobody) = (bytes(Some("alice")), bytes(Some("bob")), bytes(None));
    assert_eq!(alice, bytes(Some("alice")));
    // All frames of sessions are encrypted, so all differ; a header announced alone is the same.
    let same = |a: &[Vec<u8>], b: &[Vec<u8>]| {
        a.iter()
            .zip(b)
            .filter(|(a, b)| a == b && a.len() > 32)
            .count()
    };
    let plain = same(&alice, &bob);
    assert!(
        plain > 0 && plain < alice.len() / 3,
        "{plain} of {}: the messages inside",
        alice.len()
    );
    assert_eq!(same(&alice, &nobody), plain);
    let key = |seed| of(seed).chapters[0].steps[0].values[0].bytes.clone();
    assert!(key(Some("alice")) != key(Some("bob")) && key(None) == (0..32).collect::<Vec<u8>>());
}

// ---------------------------------------------------------------- how it says it

#[test]
fn colours_are_for_terminals() {
    let lesson = of(None);
    let (plain, coloured) = (draw(&lesson, Paint(false)), draw(&lesson, Paint(true)));
    assert!(!plain.contains('\x1b') && coloured.contains("\x1b[36m"));
    let mut parts = coloured.split('\x1b');
    let first = parts.next().unwrap();
    let bare = first.to_owned()
        + &parts
            .map(|part| part.split_once('m').unwrap().1)
            .collect::<String>();
    for (bare, plain) in bare.lines().zip(plain.lines()) {
        assert_eq!(bare.trim_end(), plain.trim_end());
    }
    assert_eq!(bare.lines().count(), plain.lines().count());
    assert!(!fernvpn(&[]).stdout.contains(&0x1b), "piped");
    // On a terminal that `script` provides.
    if !needs::there("script (of util-linux)", "script", &["--version"]) {
        return;
    }
    for (no_colour, expected) in [("", true), ("1", false)] {
        let words = format!("{} explain --suite fernet", env!("CARGO_BIN_EXE_fernvpn"));
        let mut script = Command::new("script");
        script
            .args(["-q", "-e", "-c", &words, "/dev/null"])
            .env("NO_COLOR", no_colour)
            .stdin(Stdio::null());
        let done = script.output().unwrap();
        assert!(done.stdout.len() > 10_000);
        assert_eq!(
            done.stdout.contains(&0x1b),
            expected,
            "NO_COLOR={no_colour}"
        );
    }
}

#[test]
fn the_command_line() {
    let done = fernvpn(&["--suite", "fernet", "--seed", "alice"]);
    assert!(done.status.success());
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(
        text.contains("A SESSION: FERNET, RATCHETED KEY") && !text.contains("AES-256-GCM, STATIC")
    );
    assert!(
        text.contains("REFUSED: truncated: the connection ended without a Close"),
        "the tunnel's own words"
    );
    let done = fernvpn(&["--suite", "rot13"]);
    assert_eq!(done.status.code(), Some(2));
    assert!(
        String::from_utf8(done.stderr)
            .unwrap()
            .contains("there is no suite 'rot13'")
    );
    let done = fernvpn(&["--html", "/nowhere/at/all.html"]);
    assert_eq!((done.status.code(), done.stdout.len()), (Some(1), 0));
    assert!(
        String::from_utf8(done.stderr)
            .unwrap()
            .contains("cannot write /nowhere/at/all.html: ")
    );
}

fn kept() -> PathBuf {
    root().join("docs/lesson/index.html")
}

#[test]
fn the_page_is_the_one_that_is_kept() {
    let scratch = Scratch::new("lesson.html");
    assert!(fernvpn(&["--html", scratch.path()]).status.success());
    let (made, kept) = (
        std::fs::read_to_string(&scratch.0).unwrap(),
        std::fs::read_to_string(kept()).unwrap(),
    );
    for (n, (made, kept)) in made.lines().zip(kept.lines()).enumerate() {
        assert_eq!(
            made,
            kept,
            "docs/lesson/index.html line {}: make lesson",
            n + 1
        );
    }
    assert_eq!(made.len(), kept.len(), "make lesson");
    assert!(made.len() < 1_000_000, "{} bytes", made.len());
    assert!(
        !made.contains("/*s") && !made.contains("<!--"),
        "a mark that nothing has replaced"
    );
}

#[test]
fn a_name_cannot_become_a_part_of_the_page() {
    let page = html::page(&of(Some("<script>alert(1)</script>\"&")));
    assert!(page.contains("“&lt;script&gt;alert(1)&lt;/script&gt;&quot;&amp;”"));
    assert_eq!(page.matches("<script>").count(), 1);
}

fn script(name: &str, page: &Path) -> (bool, String) {
    let done = Command::new("python3")
        .arg("-B")
        .arg(root().join("tests").join(name))
        .arg(page)
        .output()
        .unwrap();
    let said = [done.stdout, done.stderr].concat();
    (
        done.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn its_python_lines_compute_every_value() {
    if !needs::python() {
        return;
    }
    let scratch = Scratch::new("alice.html");
    assert!(
        fernvpn(&["--html", scratch.path(), "--seed", "alice"])
            .status
            .success()
    );
    for page in [&kept(), &scratch.0] {
        let (agree, said) = script("lesson_python.py", page);
        assert!(
            agree && said.contains("values of 7 chapters recomputed"),
            "{said}"
        );
    }
    // A checker that never objects proves nothing: one digit of a frame, of a value and of a line.
    let text = std::fs::read_to_string(&scratch.0).unwrap();
    for mark in [
        "data-python=\"record3\"><a ",
        "data-python=\"client_key\">",
        "<code>K = base64.urlsafe_b64decode(&quot;",
    ] {
        let at = text.rfind(mark).unwrap() + mark.len();
        let at = if mark.ends_with(' ') {
            at + text[at..].find('>').unwrap() + 1
        } else {
            at
        };
        let digit = if &text[at..=at] == "1" { "2" } else { "1" };
        std::fs::write(&scratch.0, [&text[..at], digit, &text[at + 1..]].concat()).unwrap();
        let (agree, said) = script("lesson_python.py", &scratch.0);
        assert!(
            !agree && said.contains("and the page has"),
            "{mark}: {said}"
        );
    }
}

#[test]
fn it_reads_well_in_a_browser() {
    if needs::there("chromium", "chromium", &["--version"]) {
        let (passed, said) = script("lesson_browser.py", &kept());
        assert!(
            passed && said.contains("checks in Chromium passed"),
            "{said}"
        );
    }
}
