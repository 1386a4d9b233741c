//! What do the man pages and the completions of shells say? This file makes them from the tables
//! that the program itself reads, so that they cannot be out of date.
//!
//! ```text
//!  fernvpn help --man fernvpn.8          packaging/man/fernvpn.8.in, with every command
//!  fernvpn help --man fernvpn.conf.5     packaging/man/fernvpn.conf.5.in, with every option
//!  fernvpn help --completions bash       or zsh, or fish
//! ```
//!
//! `make install` and the Debian package write them to their places.

use super::{Command, all};
use crate::config::arguments::Known;
use crate::config::options::{self, OptionSpec, Reload};
use crate::protocol::record::Suite;

/// The place of the commands in fernvpn.8.in.
const COMMANDS: &str = ".\\\" every command\n";
/// The widest line of a man page's source, unless one word is longer.
const WIDTH: usize = 76;

/// The document of this kind (`--man` or `--completions`) and name.
pub fn document(kind: &str, name: &str) -> Option<String> {
    match (kind, name) {
        ("--man", "fernvpn.8") => Some(page_of_commands()),
        ("--man", "fernvpn.conf.5") => Some(page_of_options()),
        ("--completions", "bash") => Some(bash()),
        ("--completions", "zsh") => Some(zsh()),
        ("--completions", "fish") => Some(fish()),
        _ => None,
    }
}

// ---- man pages

fn page_of_commands() -> String {
    let commands: String = all().map(|command| section(&command)).collect();
    include_str!("../../packaging/man/fernvpn.8.in").replace(COMMANDS, &commands)
}

fn page_of_options() -> String {
    let mut page = include_str!("../../packaging/man/fernvpn.conf.5.in").to_owned();
    for section in ["server", "peer", "client"] {
        let items: String = options::of(section)
            .map(|option| item(option, section))
            .collect();
        page = page.replace(&format!(".\\\" every option of {section}\n"), &items);
    }
    page
}

/// An option of the configuration.
fn item(option: &OptionSpec, section: &str) -> String {
    let name = option.name;
    let more = if option.list { ", ..." } else { "" };
    let mut text = format!(".It Ic {name} No = Ar {}{more}\n", literal(option.value));
    paragraph(&mut text, &format!("{}.", capitalised(option.about)));
    paragraph(&mut text, option.more);
    if let Some(default) = option.default() {
        paragraph(&mut text, &format!("(default: {default})"));
    }
    let reload = match option.reload {
        _ if section == "client" => "",
        Reload::Now | Reload::Start => "",
        Reload::Reconnect => "After a reload, the clients that a change concerns connect again.",
        Reload::Restart(_) => "A change needs a restart.",
    };
    paragraph(&mut text, reload);
    text
}

fn capitalised(text: &str) -> String {
    let mut text = text.to_owned();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

/// A command.
fn section(command: &Command) -> String {
    let mut text = format!(".Ss {}\n", command.name);
    paragraph(&mut text, &format!("{}.", capitalised(command.summary)));
    text += &block(command.usage.trim_start_matches("usage: "));
    if !command.syntax.options.is_empty() {
        text += ".Bl -tag -width Ds\n";
        for option in &command.syntax.options {
            let name = option.name.trim_start_matches('-');
            let dashes = option.name.len() - name.len() - 1;
            text += &format!(".It Fl {:-<dashes$}{name}", "");
            if let Some(value) = option.value {
                text += &format!(" Ar {value}");
            }
            text.push('\n');
            paragraph(&mut text, &option.about);
        }
        text += ".El\n";
    }
    for part in command.notes.trim_end().split("\n\n") {
        if part.lines().all(|line| line.starts_with("  ")) {
            let lines: Vec<&str> = part.lines().map(|line| &line[2..]).collect();
            text += &block(&lines.join("\n"));
        } else {
            text += ".Pp\n";
            paragraph(&mut text, part);
        }
    }
    text
}

/// Lines that must not be filled.
fn block(lines: &str) -> String {
    let lines = literal(lines);
    format!(".Bd -literal -offset indent\n{lines}\n.Ed\n")
}

fn literal(text: &str) -> String {
    let escaped = |line: &str| guarded(&line.replace('\\', "\\e").replace('-', "\\-"));
    text.lines().map(escaped).collect::<Vec<_>>().join("\n")
}

/// A macro begins with a dot or an apostrophe at the start of a line.
fn guarded(line: &str) -> String {
    if line.starts_with(['.', '\'']) {
        format!("\\&{line}")
    } else {
        line.to_owned()
    }
}

/// Text that is filled. Each sentence begins a line, and no line is too long.
fn paragraph(text: &mut String, words: &str) {
    let mut line = String::new();
    for word in words.split_whitespace() {
        let begin = word.len() - word.trim_start_matches(['-', '\'', '(', '[']).len();
        let (begin, rest) = word.split_at(begin);
        let word = begin.replace('-', "\\-") + &rest.replace('\\', "\\e");
        if !line.is_empty() && line.len() + word.len() > WIDTH {
            end_line(text, &mut line);
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += &word;
        let bare = word.trim_end_matches(['\'', ')']);
        if bare.ends_with(['.', '?', '!']) {
            end_line(text, &mut line);
        }
    }
    end_line(text, &mut line);
}

fn end_line(text: &mut String, line: &mut String) {
    if !line.is_empty() {
        *text += &guarded(line);
        text.push('\n');
        line.clear();
    }
}

// ---- completions

/// The kind of an option's value, for completion.
enum Value {
    Files,
    Words(String),
    Anything,
}

fn value(option: &Known) -> Option<Value> {
    let value = option.value?;
    let is_word = |word: &&str| word.bytes().all(|c| c.is_ascii_lowercase());
    let words: Vec<&str> = value.split('|').filter(is_word).collect();
    Some(match value {
        "SUITE" => Value::Words(Suite::DEFAULT.map(Suite::name).join(" ")),
        _ if value.contains("FILE") || value.ends_with(".pcap") => Value::Files,
        _ if !words.is_empty() => Value::Words(words.join(" ")),
        _ => Value::Anything,
    })
}

fn names() -> String {
    let names: Vec<&str> = all().map(|command| command.name).chain(["help"]).collect();
    names.join(" ")
}

fn bash() -> String {
    let mut options = String::new();
    let mut values = String::new();
    for command in all() {
        let name = command.name;
        let known: Vec<&str> = command
            .syntax
            .options
            .iter()
            .map(|known| known.name)
            .collect();
        options += &format!("        {name}) options='{} --help' ;;\n", known.join(" "));
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
            values += &format!("        '{name} {}') {complete}; return ;;\n", option.name);
        }
    }
    let names = names();
    format!(
        r#"# Completion of fernvpn for bash, made by: fernvpn help --completions bash

_fernvpn() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}}
    local command=${{COMP_WORDS[1]}} options='' at
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
            elif [ $((at + 1)) = "$COMP_CWORD" ]; then
                mapfile -t COMPREPLY < <(compgen -c -- "$word")
            else
                mapfile -t COMPREPLY < <(compgen -f -- "$word")
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
    let mut names = String::new();
    let mut options = String::new();
    for command in all() {
        let name = command.name;
        names += &format!("        '{name}:{}'\n", quoted(command.summary));
        options += &format!("    {name})\n        _arguments \\\n");
        for option in &command.syntax.options {
            let star = if option.repeats { "*" } else { "" };
            let about = option.about.replace('[', "\\[").replace(']', "\\]");
            let about = quoted(&about);
            let name = option.value.unwrap_or_default().replace(':', "\\:");
            let value = match value(option) {
                None => String::new(),
                Some(Value::Files) => format!(":{name}:_files"),
                Some(Value::Words(words)) => format!(":{name}:({words})"),
                Some(Value::Anything) => format!(":{name}: "),
            };
            let option = option.name;
            options += &format!("            '{star}{option}[{about}]{value}' \\\n");
        }
        options += "            '*: :'\n        ;;\n";
    }
    format!(
        r#"#compdef fernvpn
# Completion of fernvpn for zsh, made by: fernvpn help --completions zsh

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
    let mut text = String::from(
        "# Completion of fernvpn for fish, made by: fernvpn help --completions fish\n\n\
         complete -c fernvpn -f\n",
    );
    let complete = "complete -c fernvpn -n";
    let first = format!("{complete} __fish_use_subcommand -a");
    for command in all() {
        let about = quoted(command.summary);
        text += &format!("{first} {} -d {about}\n", command.name);
    }
    text += &format!("{first} help -d 'explains a command'\n");
    let after = |name: &str| format!("{complete} '__fish_seen_subcommand_from {name}'");
    text += &format!("{} -a '{}'\n", after("help"), names());
    for command in all() {
        let begin = after(command.name);
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
            let about = quoted(&option.about);
            text += &format!("{begin} {name}{value} -d {about}\n");
        }
    }
    let client = after("client");
    text + &format!("{client} -a '(__fish_complete_subcommand --commandline)'\n")
}
