//! What does the command line say?
//!
//! ```text
//!  --name value   --name=value   -k value   --flag   operand   -- the rest
//! ```
//!
//! Each command has a [`Syntax`], read from its help text. Anything else is an error, which names
//! the unknown word and the most similar known one. Options and operands may be mixed. The words
//! after `--` are operands, or the command line of another program if the command runs one. Values
//! stay as the system gave them, because the name of a file need not be text. The accessors give
//! them types.

use super::mistakes::with_plain_dashes;
use crate::fernet::Key;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

/// The options and operands of a command.
#[derive(Debug, Default)]
pub struct Syntax {
    /// Its options.
    pub options: Vec<Known>,
    /// The names of its operands in the usage, in order, such as `NAME`, and whether they may be
    /// left out.
    pub operands: Vec<(&'static str, bool)>,
    /// Whether `--` begins the command line of another program.
    pub command: bool,
    /// Whether it also takes options of the configuration: `[OPTION ...]` in the usage.
    pub configured: bool,
}

/// One option that a command knows.
#[derive(Debug)]
pub struct Known {
    /// The option as it is written, dashes included: `--ttl`, `-k`.
    pub name: &'static str,
    /// The name of its value in the usage, such as `SECS`, if it has one.
    pub value: Option<&'static str>,
    /// Whether it may be given more than once.
    pub repeats: bool,
    /// What it does, in a few words.
    pub about: String,
}

impl Syntax {
    /// Reads the usage and the table of options of a help text. In the usage, an operand that may
    /// be left out stands in brackets. An option that may be given again is followed by `...`.
    pub fn read(usage: &'static str, options: &'static str) -> Syntax {
        let mut syntax = Syntax::default();
        for line in options.lines() {
            let (written, about) = line.trim_start().split_once("  ").unwrap_or((line, ""));
            let (name, value) = match written.split_once(' ') {
                Some((name, value)) => (name, Some(value)),
                None => (written, None),
            };
            syntax.options.push(Known {
                name,
                value,
                repeats: false,
                about: about.trim_start().to_owned(),
            });
        }
        let mut words = usage.split_whitespace().peekable();
        while let Some(word) = words.next() {
            let name = word.trim_matches(['[', ']']);
            let is_more = |next: &&str| next.starts_with("...");
            let known = syntax.options.iter_mut().find(|known| known.name == name);
            match (name, known) {
                ("--", _) => {
                    syntax.command = true;
                    break;
                }
                ("OPTION", _) => {
                    syntax.configured = true;
                    words.next_if(is_more);
                }
                (_, Some(known)) => {
                    if known.value.is_some() {
                        words.next();
                    }
                    known.repeats |= words.next_if(is_more).is_some();
                }
                ("|", None) => {}
                (name, None) => syntax.operands.push((name, word.starts_with('['))),
            }
        }
        syntax
    }
}

/// An error in the command line, and what would be right.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// A command line that fits its syntax.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    options: Vec<(&'static str, OsString)>,
    operands: Vec<OsString>,
    command: Option<Vec<OsString>>,
}

impl Arguments {
    /// Reads `words`, the command line after the name of the command.
    ///
    /// # Errors
    /// [`UsageError`] at the first word that does not fit `syntax`.
    pub fn read(
        syntax: &Syntax,
        words: impl IntoIterator<Item = OsString>,
    ) -> Result<Arguments, UsageError> {
        let mut read = Arguments::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.to_str() {
                Some("--") if syntax.command => read.command = Some(words.by_ref().collect()),
                Some("--") => read.operands.extend(words.by_ref()),
                Some(text) if text.len() > 1 && text.starts_with('-') => {
                    let (name, value) = match text.split_once('=') {
                        Some((name, value)) if name.starts_with("--") => (name, Some(value)),
                        _ => (text, None),
                    };
                    let known = syntax.option(name)?;
                    if !known.repeats && read.has(known.name) {
                        return Err(UsageError(format!("{name} is given twice")));
                    }
                    let value = match (known.value, value.map(OsString::from)) {
                        (Some(what), None) => words.next().ok_or_else(|| {
                            UsageError(format!("{name} needs a value: {name} {what}"))
                        })?,
                        (Some(_), Some(value)) => value,
                        (None, None) => "yes".into(),
                        (None, Some(_)) => {
                            return Err(UsageError(format!("{name} takes no value")));
                        }
                    };
                    read.options.push((known.name, value));
                }
                // The value of a long option need not be text: --config=/a/b\xff.
                None if word.as_encoded_bytes().starts_with(b"-") => {
                    let shown = word.to_string_lossy();
                    let (name, _) = shown.split_once('=').unwrap_or((&shown, ""));
                    let known = syntax.option(name)?.name;
                    return Err(UsageError(format!(
                        "{known}: this value is not UTF-8; give it as a word of its own"
                    )));
                }
                _ => read.operands.push(word),
            }
        }
        if let Some(extra) = read.operands.get(syntax.operands.len()) {
            return Err(unexpected(syntax, extra));
        }
        match syntax.operands.get(read.operands.len()) {
            Some((missing, false)) => Err(UsageError(format!("{missing} is missing"))),
            _ => Ok(read),
        }
    }

    /// Whether the option was given.
    pub fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(known, _)| *known == name)
    }

    /// The values of an option, in the order in which they were given.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a OsStr> {
        self.options
            .iter()
            .filter(move |(known, _)| *known == name)
            .map(|(_, value)| value.as_os_str())
    }

    /// The files an option names, in order.
    pub fn paths(&self, name: &str) -> Vec<PathBuf> {
        self.values(name).map(PathBuf::from).collect()
    }

    /// The file an option names.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.values(name).next().map(PathBuf::from)
    }

    /// The values of an option as texts.
    ///
    /// # Errors
    /// [`UsageError`] if one is not UTF-8.
    pub fn texts(&self, name: &str) -> Result<Vec<&str>, UsageError> {
        let given = self.options.iter().filter(|(known, _)| *known == name);
        let texts = given
            .map(|(_, value)| value.to_str())
            .collect::<Option<Vec<&str>>>();
        texts.ok_or_else(|| UsageError(format!("{name}: the value is not UTF-8")))
    }

    /// The value of an option as text.
    ///
    /// # Errors
    /// As [`Arguments::texts`].
    pub fn text(&self, name: &str) -> Result<Option<&str>, UsageError> {
        Ok(self.texts(name)?.first().copied())
    }

    /// The value of an option as a whole number from 0 to `max`, in decimal digits only.
    ///
    /// # Errors
    /// [`UsageError`] if it is not such a number.
    pub fn number(&self, name: &str, max: u64) -> Result<Option<u64>, UsageError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        let number = if digits {
            text.parse().ok().filter(|n| *n <= max)
        } else {
            None
        };
        number.map(Some).ok_or_else(|| {
            UsageError(format!(
                "{name} takes a whole number from 0 to {max}, not '{text}'"
            ))
        })
    }

    /// The operands: at least those that the syntax requires, at most those that it knows.
    pub fn operands(&self) -> &[OsString] {
        &self.operands
    }

    /// The command line after `--`, for a syntax with `command`.
    pub fn command(&self) -> Option<&[OsString]> {
        self.command.as_deref()
    }
}

impl Syntax {
    fn option(&self, name: &str) -> Result<&Known, UsageError> {
        if let Some(known) = self.options.iter().find(|known| known.name == name) {
            return Ok(known);
        }
        let hint = did_you_mean(name, self.options.iter().map(|known| known.name));
        Err(UsageError(format!("unknown option {name}{hint}")))
    }
}

/// The error about an unexpected word. It shows the word, unless that is a key.
fn unexpected(syntax: &Syntax, word: &OsStr) -> UsageError {
    if is_key(word) {
        return UsageError(key_on_the_command_line().into());
    }
    let word = word.to_string_lossy();
    let plain = with_plain_dashes(&word);
    let has = |name: &str| syntax.options.iter().any(|known| known.name == name);
    let advice = if plain != word && plain.starts_with('-') {
        let name = plain.trim_start_matches('-');
        format!("; write --{name} with plain '-' signs")
    } else if word.ends_with(".conf") && has("-c") {
        format!("; a configuration is given by -c {word}")
    } else if word.ends_with(".key") && has("-k") {
        format!("; a key file is given by -k {word}")
    } else {
        String::new()
    };
    UsageError(format!("unexpected argument '{word}'{advice}"))
}

/// Whether a word is a key, given where a word or the name of a file belongs. Such a word must not
/// be shown again.
pub fn is_key(word: &OsStr) -> bool {
    word.to_str().is_some_and(|text| Key::parse(text).is_ok())
}

/// The advice for a user who did that.
pub fn key_on_the_command_line() -> &'static str {
    "this is a key, not a file. Every user of this machine can read a command line, \
     so the key may be known now. \
     Try: make a new one, and keep it in a file (-k FILE)"
}

/// A question about the word that was probably meant, if there is one.
pub fn did_you_mean(word: &str, known: impl Iterator<Item = &'static str>) -> String {
    nearest(word, known).map_or(String::new(), |known| format!("; did you mean {known}?"))
}

/// The known word that was probably meant. It begins like `word`, or differs from it by few
/// letters.
fn nearest(word: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let far = |other: &str| {
        let begins = word.len() >= 4 && other.starts_with(word)
            || other.len() == 2 && word.starts_with(other);
        if begins { 0 } else { distance(word, other) }
    };
    let (far, nearest) = known.map(|other| (far(other), other)).min()?;
    if far <= usize::max(1, word.len() / 3) {
        Some(nearest)
    } else {
        None
    }
}

/// The number of characters to insert, remove or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &str =
        "  -k FILE    a file\n  --ttl SECS  how old\n  --passphrase-file F  one\n  --verbose  more";

    fn read_by(usage: &'static str, line: &str) -> Result<Arguments, UsageError> {
        Arguments::read(
            &Syntax::read(usage, OPTIONS),
            line.split_whitespace().map(OsString::from),
        )
    }

    fn read(line: &str) -> Result<Arguments, UsageError> {
        read_by(
            "[-k FILE ...] NAME [--ttl SECS | --passphrase-file F] [MORE] [--verbose]",
            line,
        )
    }

    #[test]
    fn the_usage_says_what_may_be_left_out_and_given_again() {
        let syntax = Syntax::read(
            "-k NEW [-k OLD ...] [NAME] [--ttl SECS] [-- COMMAND ...]",
            OPTIONS,
        );
        let known: Vec<_> = syntax
            .options
            .iter()
            .map(|known| (known.name, known.value, known.repeats))
            .collect();
        let file = ("--passphrase-file", Some("F"), false);
        assert_eq!(
            known,
            [
                ("-k", Some("FILE"), true),
                ("--ttl", Some("SECS"), false),
                file,
                ("--verbose", None, false)
            ]
        );
        assert_eq!(
            (syntax.operands, syntax.command),
            (vec![("NAME", true)], true)
        );
        assert_eq!(syntax.options[1].about, "how old");
    }

    fn error(line: &str) -> String {
        read(line).expect_err(line).0
    }

    #[test]
    fn forms() {
        let given = read("-k one alice --ttl=5 -k two --verbose -- --ttl").expect("fits");
        assert_eq!(
            given.paths("-k"),
            [PathBuf::from("one"), PathBuf::from("two")]
        );
        assert_eq!(given.number("--ttl", u64::MAX), Ok(Some(5)));
        assert!(given.has("--verbose"));
        assert_eq!(given.operands(), ["alice", "--ttl"]);
        assert_eq!(given.text("--passphrase-file"), Ok(None));
        assert_eq!(
            read("- --passphrase-file=a=b")
                .expect("fits")
                .path("--passphrase-file"),
            Some("a=b".into())
        );
    }

    #[test]
    fn refusals() {
        assert_eq!(
            error("x --tttl 5"),
            "unknown option --tttl; did you mean --ttl?"
        );
        assert_eq!(
            error("x --pass 5"),
            "unknown option --pass; did you mean --passphrase-file?"
        );
        assert_eq!(error("x -kfile"), "unknown option -kfile; did you mean -k?");
        assert_eq!(error("x -f file"), "unknown option -f; did you mean -k?");
        assert_eq!(error("x --quite-other"), "unknown option --quite-other");
        assert_eq!(error("x --ttl"), "--ttl needs a value: --ttl SECS");
        assert_eq!(error("x --ttl 1 --ttl=2"), "--ttl is given twice");
        assert_eq!(error("x --verbose=yes"), "--verbose takes no value");
        assert_eq!(error(""), "NAME is missing");
        assert_eq!(error("a b c"), "unexpected argument 'c'");
    }

    #[test]
    fn numbers() {
        let number = |text: &str| {
            read(&format!("x --ttl {text}"))
                .expect(text)
                .number("--ttl", 1000)
        };
        assert_eq!(number("0"), Ok(Some(0)));
        assert_eq!(number("1000"), Ok(Some(1000)));
        for bad in [
            "1001",
            "-1",
            "+1",
            "1.5",
            "0x1",
            "one",
            "99999999999999999999",
        ] {
            let error = number(bad).expect_err(bad).0;
            assert_eq!(
                error,
                format!("--ttl takes a whole number from 0 to 1000, not '{bad}'")
            );
        }
        assert!(read("x --ttl=").expect("fits").number("--ttl", 9).is_err());
    }

    #[test]
    fn another_command() {
        let read = |line| read_by("[-k FILE] [-- COMMAND ...]", line);
        assert_eq!(
            read("-k f -- ping -k -- x")
                .expect("fits")
                .command()
                .expect("given"),
            ["ping", "-k", "--", "x"]
        );
        assert!(read("ping").is_err());
        assert!(read("-k f").expect("fits").command().is_none());
    }

    #[test]
    fn a_key_is_not_shown() {
        let key = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
        assert!(!error(&format!("a b {key}")).contains("cw_0"));
    }

    #[test]
    fn distances() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(
            nearest("decript", ["encrypt", "decrypt"].into_iter()),
            Some("decrypt")
        );
    }
}
