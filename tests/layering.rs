//! Is the tree built as `src/lib.rs` says? The claims about its shape, each as a test that reads
//! the sources.
//!
//! Code here is what remains of a file without its inline tests (`#[cfg(test)] mod`), comments and
//! blank lines. The readers below know Rust only as far as `cargo fmt` writes it, and fail on forms
//! that they could misread.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms a room may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("fernet", &[]),
    ("protocol", &["fernet"]),
    ("packet", &[]),
    ("os", &["packet"]),
    ("config", &["fernet", "protocol", "packet", "os"]),
    ("tunnel", &["protocol", "fernet", "packet", "os", "config"]),
    ("audit", &["protocol", "fernet", "packet", "os"]),
    (
        "commands",
        &[
            "fernet", "protocol", "packet", "os", "config", "tunnel", "audit",
        ],
    ),
    ("main", &["commands", "config", "os"]),
];

/// What an auditor has to trust: the trusted core.
const CORE: &[&str] = &["fernet", "protocol"];
/// Lines of code in rustfmt's default format, so that the core can be read in an afternoon.
const CORE_BUDGET: usize = 1_700;
/// Tenths of a token in an average line of the core: packing more into a line gains nothing.
const CORE_TOKENS_A_LINE: usize = 95;
/// The same for the whole of `src/`.
const TOKENS_A_LINE: usize = 98;
/// Each room's lines of code when its ceiling was last set, and the ceiling: 15 % more. A commit
/// that needs more raises it, and its message says what for.
const CEILINGS: &[(&str, usize, usize)] = &[
    ("packet", 806, 926),
    ("os", 5214, 5996),
    ("config", 2120, 2438),
    ("tunnel", 4026, 4629),
    ("audit", 3879, 4460),
    ("commands", 1816, 2088),
    ("main", 80, 92),
    ("lib", 18, 20),
];

/// The one file with `unsafe` in it.
const UNSAFE: &str = "os/sys.rs";

/// The four crates of the program.
const CRATES: [&str; 4] = ["aes-gcm", "hmac", "rand", "sha2"];

/// All that the core may use of the standard library: nothing that reaches a clock, a file, a
/// socket, a thread or randomness. A caller has to hand those in.
const CORE_MAY_USE: &[&str] = &[
    "array", "cmp", "error", "fmt", "hint", "mem", "ops", "slice", "str",
];
/// Other words for the same things.
const NOT_IN_CORE: &[&str] = &[
    "core",
    "alloc",
    "rand",
    "print!",
    "println!",
    "thread_local!",
    "eprint!",
    "eprintln!",
    "env!",
    "option_env!",
    "include!",
    "include_str!",
    "include_bytes!",
];

#[test]
fn rooms_use_only_the_rooms_they_may() {
    let mut wrong = Vec::new();
    for source in sources() {
        let room = source.room();
        let may = MAY_USE.iter().find(|(name, _)| *name == room);
        let Some((_, may)) = may else {
            assert_eq!(
                room, "lib",
                "{}: a room that tests/layering.rs does not know",
                source.path
            );
            continue;
        };
        let prefix = if room == "main" {
            "fernvpn::"
        } else {
            "crate::"
        };
        for (number, line) in source.code() {
            for (at, _) in line
                .match_indices(prefix)
                .filter(|(at, _)| starts_word(&line, *at))
            {
                let used = word(&line[at + prefix.len()..]);
                if used != room && !may.contains(&used) {
                    wrong.push(format!(
                        "{}:{number}: {room} may not use '{used}'",
                        source.path
                    ));
                }
            }
            // Other ways into another room, which the search above would not see.
            let hidden = line.contains("super::super::")
                || line.contains(&format!("{prefix}*"))
                || line.contains("crate as ")
                || line.contains("path = \"")
                || (source.path.ends_with("/mod.rs") && line.contains("super::"));
            if hidden {
                wrong.push(format!(
                    "{}:{number}: name the room by {prefix}",
                    source.path
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_map_in_lib_names_every_room() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    for (room, _) in MAY_USE.iter().filter(|(room, _)| *room != "main") {
        assert!(
            lib.contains(&format!("| [`{room}`] |")),
            "src/lib.rs: no row for {room}"
        );
        assert!(
            lib.contains(&format!("pub mod {room};")),
            "src/lib.rs: no module {room}"
        );
    }
}

#[test]
fn the_core_asks_for_everything() {
    for source in sources()
        .iter()
        .filter(|source| CORE.contains(&source.room()))
    {
        for (number, line) in source.code() {
            assert_eq!(
                beyond_the_core(&line),
                None,
                "src/{}:{number}: {line}",
                source.path
            );
        }
    }
    for wrong in [
        "use std::time;",
        "::std::time::f()",
        "use std as s;",
        "use std::{fs, fmt};",
        "x(core::y)",
        "println!()",
    ] {
        assert!(beyond_the_core(wrong).is_some(), "{wrong}");
    }
    for right in [
        "use std::fmt;",
        "std::slice::from_ref(key)",
        "blueprint!(standing)",
    ] {
        assert_eq!(beyond_the_core(right), None);
    }
}

/// What follows in a line from the first thing that the core may not use.
fn beyond_the_core(line: &str) -> Option<&str> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let find = |name: &str| -> Vec<&str> {
        let ends = line
            .match_indices(name)
            .filter(|(at, _)| !line[..*at].ends_with(part));
        ends.map(|(at, _)| &line[at + name.len()..])
            .filter(|rest| !rest.starts_with(part))
            .collect()
    };
    let allowed = |rest: &str| {
        rest.strip_prefix("::")
            .is_some_and(|rest| CORE_MAY_USE.contains(&word(rest)))
    };
    let named = NOT_IN_CORE
        .iter()
        .find_map(|name| find(name).first().copied());
    named.or(find("std").into_iter().find(|rest| !allowed(rest)))
}

#[test]
fn unsafe_has_one_address() {
    for source in sources() {
        for (number, line) in source.without_comments() {
            let found = has_word(&line, "unsafe") || has_word(&line, "extern");
            let allows = line.contains("allow(unsafe_code");
            assert!(
                !(found || allows) || source.path == UNSAFE,
                "src/{}:{number}, outside src/{UNSAFE}: {line}",
                source.path
            );
        }
    }
    for (room, _) in MAY_USE.iter().filter(|(room, _)| *room != "os") {
        let file = if *room == "main" {
            "src/main.rs".to_owned()
        } else {
            format!("src/{room}/mod.rs")
        };
        let text = fs::read_to_string(root().join(&file)).unwrap();
        assert!(
            text.lines().any(|line| line == "#![forbid(unsafe_code)]"),
            "{file} does not forbid unsafe code"
        );
    }
}

#[test]
fn nothing_is_unwrapped() {
    for source in sources() {
        for (number, line) in source.code() {
            for form in [
                ".unwrap()",
                ".unwrap_err()",
                "todo!(",
                "unimplemented!(",
                "dbg!(",
            ] {
                assert!(!line.contains(form), "src/{}:{number}: {line}", source.path);
            }
        }
    }
}

#[test]
fn four_crates_and_no_more() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut section = "";
    let mut crates = BTreeSet::new();
    for line in manifest
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
    {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_matches(['[', ']']);
            let kind = section.rsplit('.').next().unwrap();
            assert!(
                kind != "build-dependencies" && !section.starts_with("target"),
                "Cargo.toml: [{section}]"
            );
            // [dependencies.name] would hide a crate from the lines below.
            assert!(
                !section.starts_with("dependencies."),
                "Cargo.toml: [{section}]"
            );
        } else if section == "dependencies" && !line.is_empty() {
            crates.insert(word(line));
        } else if section == "package" {
            assert!(!line.starts_with("build"), "Cargo.toml: a build script");
        }
    }
    assert_eq!(crates, CRATES.into_iter().collect());
    assert!(!root().join("build.rs").exists());
}

#[test]
fn the_budgets_are_kept() {
    let core = Size::of(|room| CORE.contains(&room));
    println!("the trusted core: {core}; the most is {CORE_BUDGET}");
    assert!(core.lines <= CORE_BUDGET, "the trusted core has {core}");
    assert!(
        core.tokens * 10 <= core.lines * CORE_TOKENS_A_LINE,
        "the trusted core is packed: {core}"
    );
    let all = Size::of(|_| true);
    println!("src: {all}");
    assert!(
        all.tokens * 10 <= all.lines * TOKENS_A_LINE,
        "src is packed: {all}"
    );
    for (room, before, ceiling) in CEILINGS {
        let size = Size::of(|name| name == *room);
        println!("{room}: {size}; {before} before, the ceiling is {ceiling}");
        assert!(
            size.lines <= *ceiling,
            "{room} has {size}; its ceiling is {ceiling}"
        );
    }
    let with_ceiling = |room: &str| CEILINGS.iter().any(|(name, ..)| *name == room);
    for (room, _) in MAY_USE {
        assert!(
            CORE.contains(room) || with_ceiling(room),
            "{room} has no ceiling"
        );
    }
}

/// How much code there is.
struct Size {
    lines: usize,
    /// Words and single signs.
    tokens: usize,
}

impl Size {
    fn of(rooms: impl Fn(&str) -> bool) -> Self {
        let sources = sources();
        let code: Vec<_> = sources
            .iter()
            .filter(|source| rooms(source.room()))
            .flat_map(Source::code)
            .collect();
        Self {
            lines: code.len(),
            tokens: code.iter().map(|(_, line)| tokens(line)).sum(),
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let tenths = (self.tokens * 10).div_ceil(self.lines.max(1));
        write!(
            f,
            "{} lines of code, {}.{} tokens a line",
            self.lines,
            tenths / 10,
            tenths % 10
        )
    }
}

/// Words, numbers and single signs in a line.
fn tokens(line: &str) -> usize {
    let mut count = 0;
    let mut in_word = false;
    for c in line.chars() {
        let part = c.is_alphanumeric() || c == '_';
        count += usize::from(!(c.is_whitespace() || part && in_word));
        in_word = part;
    }
    count
}

#[test]
fn code_is_told_from_tests_and_comments() {
    let text = "//! Head.\nuse a::b; // crate::os\n\nfn f() {\n    // Why.\n    g(\"http://x\"); }\n#[cfg(test)]\n\
                #[allow(x)]\nmod tests {\n    fn t() {\n    }\n}\n#[cfg(test)]\npub(crate) mod sample;\nfn last() {}\n";
    let source = Source {
        path: "x/y.rs".into(),
        text: text.into(),
    };
    let expected = [
        (2, "use a::b;"),
        (4, "fn f() {"),
        (6, "    g(\"http://x\"); }"),
        (15, "fn last() {}"),
    ];
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(number, line)| (number, line.to_owned()))
        .collect();
    assert_eq!(source.code(), expected);
    assert_eq!(source.test_files(), [PathBuf::from("x/sample.rs")]);
    assert!(has_word("unsafe {", "unsafe") && !has_word("forbid(unsafe_code)", "unsafe"));
}

/// A file below `src/`.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The first part of its path.
    fn room(&self) -> &str {
        self.path.split('/').next().unwrap().trim_end_matches(".rs")
    }

    /// Numbered lines without comments and blank ones.
    fn without_comments(&self) -> Vec<(usize, String)> {
        let mut lines = Vec::new();
        for (number, line) in (1..).zip(self.text.lines()) {
            assert!(
                !line.trim_start().starts_with("/*"),
                "src/{}:{number}: comments begin with //",
                self.path
            );
            if !line.trim_start().starts_with("//") && !line.trim().is_empty() {
                // An address in a string has no blank before its slashes.
                lines.push((
                    number,
                    line.split(" // ").next().unwrap().trim_end().to_owned(),
                ));
            }
        }
        lines
    }

    /// The same without inline tests.
    fn code(&self) -> Vec<(usize, String)> {
        let lines = self.without_comments();
        let mut code = Vec::new();
        let mut rest = lines.as_slice();
        while let [(number, line), after @ ..] = rest {
            match test_module(rest) {
                Some(length) => rest = &rest[length..],
                None => {
                    code.push((*number, line.clone()));
                    rest = after;
                }
            }
        }
        code
    }

    /// Files that belong to tests: `#[cfg(test)] mod name;`.
    fn test_files(&self) -> Vec<PathBuf> {
        let lines = self.without_comments();
        let folder = Path::new(&self.path).parent().unwrap();
        let modules = (0..lines.len())
            .filter_map(|at| test_module(&lines[at..]).map(|length| &lines[at + length - 1].1));
        let files = modules.filter_map(|line| line.strip_suffix(';')?.rsplit(' ').next());
        files
            .map(|name| folder.join(format!("{name}.rs")))
            .collect()
    }
}

/// The number of lines, if a test module begins here.
fn test_module(lines: &[(usize, String)]) -> Option<usize> {
    let first = &lines.first()?.1;
    let attribute = first.trim_start();
    if !(attribute.starts_with("#[cfg(test)") || attribute.starts_with("#[cfg(all(test,")) {
        return None;
    }
    // Further attributes, possibly of several lines, then the module.
    let is_module =
        |line: &str| line.contains("mod ") && (line.ends_with('{') || line.ends_with(';'));
    let head = lines
        .iter()
        .take(12)
        .position(|(_, line)| is_module(line))?;
    if lines[head].1.ends_with(';') {
        return Some(head + 1);
    }
    let indent = &first[..first.len() - attribute.len()];
    let end = lines
        .iter()
        .skip(head)
        .position(|(_, line)| *line == format!("{indent}}}"))?;
    Some(head + end + 1)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All of `src` but the files that belong to tests.
fn sources() -> Vec<Source> {
    let src = root().join("src");
    let (mut folders, mut sources) = (vec![src.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path
                    .strip_prefix(&src)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                sources.push(Source { path, text });
            }
        }
    }
    let tests: BTreeSet<PathBuf> = sources.iter().flat_map(Source::test_files).collect();
    sources.retain(|source| !tests.contains(Path::new(&source.path)));
    assert!(sources.len() > 20, "where are the sources?");
    sources
}

/// The identifier, or crate name, that `text` begins with; what else it begins with, if it is none.
fn word(text: &str) -> &str {
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let end = text.find(|c| !part(c)).unwrap_or(text.len());
    if end == 0 { text } else { &text[..end] }
}

/// Whether no identifier or path goes on from before `at`.
fn starts_word(line: &str, at: usize) -> bool {
    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        starts_word(line, at)
            && !line[at + word.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
    })
}
