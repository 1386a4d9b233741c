//! Is the tree built as `src/lib.rs` says? The claims about its shape, each as a test that reads
//! the sources.
//!
//! Code here is what remains of a file without its inline tests (`#[cfg(test)] mod`), comments and
//! blank lines. The readers below know Rust only as far as `cargo fmt` writes it, and fail on forms
//! that they could misread.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The top-level modules that each of them may use.
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
/// Each module's lines of code when its ceiling was last set, and the ceiling: 15 % more. A commit
/// that needs more raises it, and its message says what for.
const CEILINGS: &[(&str, usize, usize)] = &[
    ("packet", 943, 1085),
    ("os", 5214, 6250),
    ("config", 2120, 2438),
    ("tunnel", 4781, 5498),
    ("audit", 3879, 4460),
    ("commands", 1816, 2130),
    ("main", 80, 92),
    ("lib", 18, 20),
];

/// The one file with `unsafe` in it.
const UNSAFE: &str = "os/sys.rs";

/// The one file that asks for which system it is compiled.
const CHOOSES_SYSTEM: &str = "os/mod.rs";

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
fn modules_use_only_the_modules_they_may() {
    let mut wrong = Vec::new();
    for source in sources() {
        let module = source.module();
        let may = MAY_USE.iter().find(|(name, _)| *name == module);
        let Some((_, may)) = may else {
            assert_eq!(
                module, "lib",
                "{}: a module that tests/layering.rs does not know",
                source.path
            );
            continue;
        };
        let prefix = if module == "main" {
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
                if used != module && !may.contains(&used) {
                    wrong.push(format!(
                        "{}:{number}: {module} may not use '{used}'",
                        source.path
                    ));
                }
            }
            // Other ways into another module, which the search above would not see.
            let hidden = line.contains("super::super::")
                || line.contains(&format!("{prefix}*"))
                || line.contains("crate as ")
                || line.contains("path = \"")
                || (source.path.ends_with("/mod.rs") && line.contains("super::"));
            if hidden {
                wrong.push(format!(
                    "{}:{number}: name the module by {prefix}",
                    source.path
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_map_in_lib_names_every_module() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    for (module, _) in MAY_USE.iter().filter(|(module, _)| *module != "main") {
        assert!(
            lib.contains(&format!("| [`{module}`] |")),
            "src/lib.rs: no row for {module}"
        );
        assert!(
            lib.contains(&format!("pub mod {module};")),
            "src/lib.rs: no module {module}"
        );
    }
}

#[test]
fn the_core_asks_for_everything() {
    for source in sources()
        .iter()
        .filter(|source| CORE.contains(&source.module()))
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

/// Files that may still use each other, in circles that are to be broken.
const KNOWN_CIRCLES: &[&[&str]] = &[
    &["audit/capture/layer.rs", "audit/capture/link.rs"],
    &[
        "config/arguments.rs",
        "config/mistakes.rs",
        "config/options.rs",
    ],
    &["os/network.rs", "os/resolver.rs"],
];

/// No file uses a file that uses it, on whatever way: each can be read after those that it uses.
///
/// A `mod name;` is no use. What a file takes from the `mod.rs` of a module around it is none
/// either: there stands what its neighbours share. In the tunnel it counts as well.
#[test]
fn files_use_each_other_in_no_circle() {
    let circles = circles(&uses(&sources()));
    let unknown: Vec<_> = circles
        .iter()
        .filter(|circle| !KNOWN_CIRCLES.iter().any(|known| circle == known))
        .map(|circle| circle.join(" -> "))
        .collect();
    assert!(unknown.is_empty(), "in a circle: {}", unknown.join("; "));
}

#[test]
fn circles_are_found() {
    let tree = |files: &[(&str, &str)]| -> Vec<Vec<String>> {
        let source = |(path, text): &(&str, &str)| Source {
            path: (*path).into(),
            text: (*text).into(),
        };
        circles(&uses(&files.iter().map(source).collect::<Vec<_>>()))
    };
    let shared = ("a/mod.rs", "pub mod b;\nuse b::B;\nconst X: u8 = 1;");
    assert_eq!(tree(&[shared, ("a/b.rs", "use super::X;")]).len(), 0);
    let strict = ("tunnel/mod.rs", "mod b;\nuse b::B;\nconst X: u8 = 1;");
    let both = ["tunnel/b.rs", "tunnel/mod.rs"];
    assert_eq!(tree(&[strict, ("tunnel/b.rs", "use super::X;")]), [both]);
    // By braces, by a path in the code, across modules, and over three files.
    let circle = [
        ("a/b.rs", "use crate::c::{self, d::{D, E}};"),
        ("c/d.rs", "fn f() {\n    super::e::g();\n}"),
        ("c/e.rs", "use crate::{\n    a::b::B,\n};"),
        ("c/mod.rs", "//! use crate::a;\npub mod d;\npub mod e;"),
    ];
    assert_eq!(tree(&circle), [["a/b.rs", "c/d.rs", "c/e.rs"]]);
    assert_eq!(tree(&circle[..2]).len(), 0, "without its last third");
}

/// Which files each file uses.
fn uses(sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let files: BTreeMap<Vec<String>, &str> = sources
        .iter()
        .map(|source| (source.names(), source.path.as_str()))
        .collect();
    let mut uses = BTreeMap::new();
    for source in sources {
        let here = source.names();
        let used: BTreeSet<String> = source
            .paths(&here, &files)
            .into_iter()
            .filter_map(|path| (1..=path.len()).rev().find_map(|n| files.get(&path[..n])))
            .filter(|file| **file != source.path)
            .filter(|file| source.module() == "tunnel" || !source.is_below(file))
            .map(|file| (*file).to_owned())
            .collect();
        uses.insert(source.path.clone(), used);
    }
    uses
}

/// Sets of files of which each reaches each other one.
fn circles(uses: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reached = |from: &str| {
        let mut reached = BTreeSet::new();
        let mut next = vec![from];
        while let Some(file) = next.pop() {
            for used in uses.get(file).into_iter().flatten() {
                if reached.insert(used.as_str()) {
                    next.push(used);
                }
            }
        }
        reached
    };
    let all: BTreeMap<&str, _> = uses.keys().map(|f| (f.as_str(), reached(f))).collect();
    let mut circles = BTreeSet::new();
    for (file, reached) in &all {
        if reached.contains(file) {
            let circle = reached.iter().filter(|other| all[*other].contains(file));
            circles.insert(circle.map(|other| (*other).to_owned()).collect::<Vec<_>>());
        }
    }
    circles.into_iter().collect()
}

/// A row of `docs/ARCHITECTURE.md` whose first cell is a step's number.
struct Step {
    number: String,
    file: String,
    function: String,
    called_by: Vec<String>,
}

fn rows_of_the_architecture() -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|row| {
            row.split(" | ")
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .collect()
}

fn steps_of_the_architecture() -> Vec<Step> {
    let rows = rows_of_the_architecture();
    let steps = rows.iter().filter(|row| row[0].parse::<u32>().is_ok());
    steps
        .map(|row| {
            let (file, function) = row[1].trim_matches('`').rsplit_once(':').unwrap();
            Step {
                number: row[0].clone(),
                file: file.to_owned(),
                function: function.to_owned(),
                called_by: row[2]
                    .split(", ")
                    .filter(|number| *number != "-")
                    .map(str::to_owned)
                    .collect(),
            }
        })
        .collect()
}

/// All functions of this name in a file, without its tests: those of several types, maybe.
fn bodies(file: &str, function: &str) -> String {
    let text = fs::read_to_string(root().join(file)).unwrap();
    let source = Source {
        path: file.to_owned(),
        text,
    };
    let mut bodies = String::new();
    let mut end = None;
    for (_, line) in source.code() {
        let indent = &line[..line.len() - line.trim_start().len()];
        let begins = ["(", "<"].map(|next| line.contains(&format!("fn {function}{next}")));
        if end.is_none() && begins.contains(&true) {
            end = Some(format!("{indent}}}"));
        }
        if end.is_some() {
            bodies.push_str(&line);
        }
        if end.as_ref() == Some(&line) {
            end = None;
        }
    }
    assert!(!bodies.is_empty(), "{file} has no function {function}");
    bodies
}

#[test]
fn a_packets_way_is_as_the_architecture_says() {
    let steps = steps_of_the_architecture();
    assert!(steps.len() > 30, "where are the steps?");
    for step in &steps {
        bodies(&step.file, &step.function);
        for number in &step.called_by {
            let caller = steps.iter().find(|other| other.number == *number).unwrap();
            let body = bodies(&caller.file, &caller.function);
            let call = format!("{}(", step.function);
            assert!(
                body.match_indices(&call)
                    .any(|(at, _)| body[..at].ends_with(['.', ':', ' ', '('])),
                "step {number}, {}, does not call step {}, {}",
                caller.function,
                step.number,
                step.function
            );
        }
    }
}

#[test]
fn the_architecture_has_every_lock_in_its_order() {
    let source = fs::read_to_string(root().join("src/os/lock.rs")).unwrap();
    let ranks = source.split_once("pub enum Rank {").unwrap().1;
    let ranks = ranks.split_once("\n}").unwrap().0.lines();
    let ranks: Vec<&str> = ranks
        .map(str::trim)
        .filter(|line| !line.starts_with("///"))
        .filter_map(|line| line.strip_suffix(','))
        .collect();
    let rows = rows_of_the_architecture();
    let known = |row: &&Vec<String>| row.len() == 4 && ranks.contains(&row[0].trim_matches('`'));
    let locks: Vec<&Vec<String>> = rows.iter().filter(known).collect();
    let names: Vec<&str> = locks.iter().map(|row| row[0].trim_matches('`')).collect();
    assert_eq!(names, ranks, "the table of locks in docs/ARCHITECTURE.md");
    // Each is made in the files that the table names, and may wait if the source says so.
    let may_wait = source.split_once("fn may_wait").unwrap().1;
    let may_wait = may_wait.split_once("_ => false").unwrap().0;
    for row in locks {
        let rank = format!("Rank::{}", row[0].trim_matches('`'));
        for file in row[1].split(", ").map(|file| file.trim_matches('`')) {
            let text = fs::read_to_string(root().join(file)).unwrap();
            assert!(has_path(&text, &rank), "{file} makes no lock of {rank}");
        }
        assert_eq!(
            row[3].starts_with("yes"),
            has_path(may_wait, &rank),
            "{rank}: whether it may wait"
        );
    }
}

/// Whether a text has this path, and not only a longer one.
fn has_path(text: &str, path: &str) -> bool {
    text.match_indices(path)
        .any(|(at, _)| !text[at + path.len()..].starts_with(char::is_alphanumeric))
}

/// So another system is a folder and a few lines, and nobody has to search for the rest.
#[test]
fn one_file_chooses_the_system() {
    for source in sources() {
        for (number, line) in source.without_comments() {
            assert!(
                !has_word(&line, "target_os") || source.path == CHOOSES_SYSTEM,
                "src/{}:{number}, outside src/{CHOOSES_SYSTEM}: {line}",
                source.path
            );
        }
    }
}

/// So debug builds check the order of all.
#[test]
fn every_lock_has_a_rank() {
    let sources = sources();
    for source in sources.iter().filter(|one| one.path != "os/lock.rs") {
        for (number, line) in source.code() {
            let found = has_word(&line, "Mutex") || has_word(&line, "RwLock");
            let path = &source.path;
            assert!(!found, "src/{path}:{number}: take os::lock: {line}");
        }
    }
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
    for (module, _) in MAY_USE.iter().filter(|(module, _)| *module != "os") {
        let file = if *module == "main" {
            "src/main.rs".to_owned()
        } else {
            format!("src/{module}/mod.rs")
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
    let core = Size::of(|module| CORE.contains(&module));
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
    for (module, before, ceiling) in CEILINGS {
        let size = Size::of(|name| name == *module);
        println!("{module}: {size}; {before} before, the ceiling is {ceiling}");
        assert!(
            size.lines <= *ceiling,
            "{module} has {size}; its ceiling is {ceiling}"
        );
    }
    let with_ceiling = |module: &str| CEILINGS.iter().any(|(name, ..)| *name == module);
    for (module, _) in MAY_USE {
        assert!(
            CORE.contains(module) || with_ceiling(module),
            "{module} has no ceiling"
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
    fn of(modules: impl Fn(&str) -> bool) -> Self {
        let sources = sources();
        let code: Vec<_> = sources
            .iter()
            .filter(|source| modules(source.module()))
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
    let text = "//! Head.\nuse a::b; // crate::os\n\nfn f() {\n    // Why.\n\
                \x20   g(\"http://x\"); }\n\
                #[cfg(test)]\n\
                #[allow(x)]\nmod tests {\n    fn t() {\n    }\n}\n#[cfg(test)]\n\
                pub(crate) mod sample;\nfn last() {}\n";
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
    /// The top-level module: the first part of its path.
    fn module(&self) -> &str {
        self.path.split('/').next().unwrap().trim_end_matches(".rs")
    }

    /// The names that lead to it: `a/b.rs` and `a/b/mod.rs` are `a`, `b`.
    fn names(&self) -> Vec<String> {
        let path = self.path.trim_end_matches(".rs");
        let path = path.strip_suffix("/mod").unwrap_or(path);
        path.split('/').map(str::to_owned).collect()
    }

    /// Whether it stands in the folder of which `file` is the `mod.rs`.
    fn is_below(&self, file: &str) -> bool {
        file.strip_suffix("mod.rs")
            .is_some_and(|folder| self.path.starts_with(folder))
    }

    /// Every path in its code that begins in this crate, with all names from the root on.
    fn paths(&self, here: &[String], files: &BTreeMap<Vec<String>, &str>) -> Vec<Vec<String>> {
        let code: Vec<String> = self.code().into_iter().map(|(_, line)| line).collect();
        let code = code.join(" ");
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let mut paths = Vec::new();
        for (at, _) in code.match_indices("::") {
            let head = &code[..at];
            let start = head.rfind(|c| !is_part(c)).map_or(0, |before| before + 1);
            if head[..start].ends_with("::") {
                continue;
            }
            let first = &head[start..];
            let mut base = match first {
                "crate" | "fernvpn" => Vec::new(),
                "self" => here.to_vec(),
                "super" => here[..here.len() - 1].to_vec(),
                // In a mod.rs, a file below it by its name alone.
                name if self.path.ends_with("/mod.rs") => [here, &[name.to_owned()]].concat(),
                _ => continue,
            };
            if files.keys().any(|module| module.starts_with(&base)) {
                expand(&mut base, &code[at + 2..], &mut paths);
            }
        }
        paths
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

/// Adds what `text` names below `base`: `a::B`, or each of `{a::B, c::{D, E}}`. Returns how much of
/// the text that was.
fn expand(base: &mut Vec<String>, text: &str, paths: &mut Vec<Vec<String>>) -> usize {
    let Some(inner) = text.strip_prefix('{') else {
        let name = word(text);
        let depth = base.len();
        match name {
            "super" => drop(base.pop()),
            "self" => {}
            name => base.push(name.to_owned()),
        }
        let mut length = name.len();
        match text[length..].strip_prefix("::") {
            Some(rest) => length += 2 + expand(base, rest, paths),
            None => paths.push(base.clone()),
        }
        base.truncate(depth);
        return length;
    };
    let mut at = 0;
    while let Some(next) = inner[at..].find(|c: char| c != ' ' && c != ',') {
        at += next;
        if inner[at..].starts_with('}') {
            break;
        }
        at += expand(&mut base.clone(), &inner[at..], paths).max(1);
    }
    at + 2
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
