//! Do man pages and completions say what the program says? The part of fernvpn(8) on commands and
//! the completions for three shells are made here, from the tables that the program itself reads.
//!
//! A file that is no longer as it would be made fails the test; `make documents` makes all of them
//! again.
#![allow(clippy::unwrap_used)]

use fernvpn::commands::{self, Command};
use fernvpn::config::arguments::Known;
use fernvpn::config::options;
use fernvpn::protocol::record::Suite;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// What stands around the part of fernvpn.8 that is made.
const BEGIN: &str = ".\\\" made by: make documents\n";
const END: &str = ".\\\" end of what is made\n";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging")
        .join(name)
}

/// The file is `wanted`, or becomes it.
fn holds(name: &str, wanted: &str) {
    if env::var_os("FERNVPN_MAKE_DOCUMENTS").is_some() {
        return fs::write(file(name), wanted).unwrap();
    }
    let found = fs::read_to_string(file(name)).unwrap_or_default();
    let differs = found
        .lines()
        .zip(wanted.lines())
        .position(|(found, wanted)| found != wanted);
    assert!(
        found == wanted,
        "packaging/{name} is out of date (line {:?}): make documents",
        differs.map(|line| line + 1)
    );
}

#[test]
fn the_man_page_explains_every_command_as_the_help_does() {
    let page = fs::read_to_string(file("man/fernvpn.8")).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let made: String = commands::all().map(|command| section(&command)).collect();
    holds(
        "man/fernvpn.8",
        &[before, BEGIN, &made, END, after].concat(),
    );
}

#[test]
fn the_man_page_of_the_configuration_explains_every_option() {
    let page = fs::read_to_string(file("man/fernvpn.conf.5")).unwrap();
    for list in ["SERVER", "PEER", "CLIENT"] {
        let known = options::names(&list.to_lowercase());
        let (_, section) = page.split_once(&format!(".Sh SECTION {list}\n")).unwrap();
        let section = section.split("\n.Sh ").next().unwrap();
        let items = section
            .lines()
            .filter_map(|line| line.strip_prefix(".It Ic "));
        let explained: Vec<&str> = items.map(|item| item.split(' ').next().unwrap()).collect();
        let (mut known, mut sorted) = (known, explained.clone());
        known.sort_unstable();
        sorted.sort_unstable();
        assert_eq!(sorted, known, "fernvpn.conf.5, section {list}");
    }
}

#[test]
fn the_completions_know_every_command_and_option() {
    holds("completions/fernvpn.bash", &bash());
    holds("completions/_fernvpn", &zsh());
    holds("completions/fernvpn.fish", &fish());
}

// ---- fernvpn(8)

fn section(command: &Command) -> String {
    let mut text = format!(".Ss {}\n", command.name);
    let mut summary = command.summary.to_owned();
    summary[..1].make_ascii_uppercase();
    paragraph(&mut text, &format!("{summary}."));
    let usage = command.usage.strip_prefix("usage: ").unwrap();
    write!(
        text,
        ".Bd -literal -offset indent\n{}\n.Ed\n",
        literal(usage)
    )
    .unwrap();
    if !command.syntax.options.is_empty() {
        text.push_str(".Bl -tag -width Ds\n");
        for option in &command.syntax.options {
            let value = option
                .value
                .map_or(String::new(), |value| format!(" Ar {value}"));
            writeln!(
                text,
                ".It Fl {}{value}",
                option.name.strip_prefix('-').unwrap()
            )
            .unwrap();
            paragraph(&mut text, option.about);
        }
        text.push_str(".El\n");
    }
    for part in command.notes.trim().split("\n\n") {
        if part.lines().all(|line| line.starts_with("  ")) {
            write!(
                text,
                ".Bd -literal -offset indent\n{}\n.Ed\n",
                literal(&part.replace("\n  ", "\n")[2..])
            )
            .unwrap();
        } else {
            text.push_str(".Pp\n");
            paragraph(&mut text, part);
        }
    }
    text
}

/// As it stands.
fn literal(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| guarded(&line.replace('\\', "\\e").replace('-', "\\-")));
    lines.collect::<Vec<_>>().join("\n")
}

/// A macro begins with a dot or an apostrophe at the start of a line.
fn guarded(line: &str) -> String {
    if line.starts_with(['.', '\'']) {
        format!("\\&{line}")
    } else {
        line.to_owned()
    }
}

/// Filled: a line for each sentence, none too long.
fn paragraph(text: &mut String, words: &str) {
    let mut line = String::new();
    for word in words.split_whitespace() {
        let dashes = word.len() - word.trim_start_matches(['-', '\'', '(', '[']).len();
        let (begin, rest) = word.split_at(dashes);
        let word = format!("{}{}", begin.replace('-', "\\-"), rest.replace('\\', "\\e"));
        if !line.is_empty() && line.len() + word.len() > 76 {
            writeln!(text, "{}", guarded(&std::mem::take(&mut line))).unwrap();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
        if word
            .trim_end_matches(['\'', ')'])
            .ends_with(['.', '?', '!'])
        {
            writeln!(text, "{}", guarded(&std::mem::take(&mut line))).unwrap();
        }
    }
    if !line.is_empty() {
        writeln!(text, "{}", guarded(&line)).unwrap();
    }
}

// ---- completions

/// What can stand for an option's value.
enum Value {
    Files,
    Words(String),
    Anything,
}

fn value(option: &Known) -> Option<Value> {
    let value = option.value?;
    let words: Vec<&str> = value
        .split('|')
        .filter(|word| word.bytes().all(|c| c.is_ascii_lowercase()))
        .collect();
    Some(match value {
        "S" => Value::Words(Suite::ALL.map(Suite::name).join(" ")),
        _ if value.contains("FILE") || value.ends_with(".pcap") || value == "F" => Value::Files,
        _ if !words.is_empty() => Value::Words(words.join(" ")),
        _ => Value::Anything,
    })
}

fn names() -> String {
    commands::all()
        .map(|command| command.name)
        .chain(["help"])
        .collect::<Vec<_>>()
        .join(" ")
}

const MADE: &str = "made from the tables of the program: make documents";

fn bash() -> String {
    let (mut options, mut values) = (String::new(), String::new());
    for command in commands::all() {
        let names: Vec<&str> = command
            .syntax
            .options
            .iter()
            .map(|option| option.name)
            .collect();
        writeln!(
            options,
            "        {}) options='{} --help' ;;",
            command.name,
            names.join(" ")
        )
        .unwrap();
        for option in &command.syntax.options {
            let complete = match value(option) {
                None => continue,
                Some(Value::Files) => {
                    "compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$word\")".into()
                }
                Some(Value::Words(words)) => {
                    format!("mapfile -t COMPREPLY < <(compgen -W '{words}' -- \"$word\")")
                }
                Some(Value::Anything) => ":".into(),
            };
            writeln!(
                values,
                "        '{} {}') {complete}; return ;;",
                command.name, option.name
            )
            .unwrap();
        }
    }
    let names = names();
    format!(
        r#"# Completion of fernvpn for bash; {MADE}

_fernvpn() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} command=${{COMP_WORDS[1]}} options='' at
    COMPREPLY=()
    if [ "$COMP_CWORD" = 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W '{names}' -- "$word")
        return
    fi
    # What follows `client --` is the command line of another program.
    for ((at = 2; at < COMP_CWORD; at++)); do
        if [ "$command ${{COMP_WORDS[at]}}" = 'client --' ]; then
            if declare -F _command_offset >/dev/null; then
                _command_offset $((at + 1))
            else
                mapfile -t COMPREPLY < <(compgen "$([ $((at + 1)) = "$COMP_CWORD" ] && echo -c || echo -f)" -- "$word")
            fi
            return
        fi
    done
    case "$command $before" in
{values}    esac
    case $command in
{options}        help) options='{names}' ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
}}
complete -F _fernvpn fernvpn
"#
    )
}

fn zsh() -> String {
    let quoted = |text: &str| text.replace('\'', "'\\''");
    let (mut names, mut options) = (String::new(), String::new());
    for command in commands::all() {
        writeln!(
            names,
            "        '{}:{}'",
            command.name,
            quoted(command.summary)
        )
        .unwrap();
        writeln!(options, "    {})\n        _arguments \\", command.name).unwrap();
        for option in &command.syntax.options {
            let star = if option.repeats { "*" } else { "" };
            let about = quoted(&option.about.replace('[', "\\[").replace(']', "\\]"));
            let name = option.value.unwrap_or_default().replace(':', "\\:");
            let value = match value(option) {
                None => String::new(),
                Some(Value::Files) => format!(":{name}:_files"),
                Some(Value::Words(words)) => format!(":{name}:({words})"),
                Some(Value::Anything) => format!(":{name}: "),
            };
            writeln!(
                options,
                "            '{star}{}[{about}]{value}' \\",
                option.name
            )
            .unwrap();
        }
        options.push_str("            '*: :'\n        ;;\n");
    }
    format!(
        r#"#compdef fernvpn
# Completion of fernvpn for zsh; {MADE}

local -a commands
commands=(
{names}        'help:explains a command'
)
if (( CURRENT == 2 )); then
    _describe command commands
    return
fi
shift words
(( CURRENT-- ))
# What follows `client --` is the command line of another program.
local at=$words[(i)--]
if [[ $words[1] = client ]] && (( at < CURRENT )); then
    shift $at words
    (( CURRENT -= at ))
    _normal
    return
fi
case $words[1] in
{options}    help)
        _describe command commands
        ;;
esac
"#
    )
}

fn fish() -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut text = format!("# Completion of fernvpn for fish; {MADE}\n\ncomplete -c fernvpn -f\n");
    for command in commands::all() {
        let about = quoted(command.summary);
        writeln!(
            text,
            "complete -c fernvpn -n __fish_use_subcommand -a {} -d {about}",
            command.name
        )
        .unwrap();
    }
    writeln!(
        text,
        "complete -c fernvpn -n __fish_use_subcommand -a help -d 'explains a command'"
    )
    .unwrap();
    writeln!(
        text,
        "complete -c fernvpn -n '__fish_seen_subcommand_from help' -a '{}'",
        names()
    )
    .unwrap();
    for command in commands::all() {
        for option in &command.syntax.options {
            let name = match option.name.strip_prefix("--") {
                Some(name) => format!("-l {name}"),
                None => format!("-s {}", option.name.trim_start_matches('-')),
            };
            let value = match value(option) {
                None => String::new(),
                Some(Value::Files) => " -r -F".into(),
                Some(Value::Words(words)) => format!(" -x -a '{words}'"),
                Some(Value::Anything) => " -x".into(),
            };
            let (seen, about) = (command.name, quoted(option.about));
            writeln!(text, "complete -c fernvpn -n '__fish_seen_subcommand_from {seen}' {name}{value} -d {about}")
                .unwrap();
        }
    }
    text + "complete -c fernvpn -n '__fish_seen_subcommand_from client' -a '(__fish_complete_subcommand --commandline)'\n"
}
