//! Which command runs? One word of the command line is one call.
#![forbid(unsafe_code)]

use fernvpn::commands::{self, Command, Failure, documents};
use fernvpn::config::arguments::{Arguments, UsageError, did_you_mean};
use fernvpn::os::namespace;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    // This comes first, while there is one thread. The program starts itself again for a private
    // network.
    match std::env::args_os().nth(1) {
        Some(word) if word == namespace::HOLDER_WORD => return namespace::hold(),
        Some(word) if word == namespace::COMMAND_WORD => return namespace::become_command(),
        _ => {}
    }
    let mut words = std::env::args_os().skip(1);
    let Some(word) = words.next() else {
        return refuse(None, UsageError("which command?".into()));
    };
    let words: Vec<OsString> = words.collect();
    let name = word.to_string_lossy();
    if name == "help" {
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        return help(&words);
    }
    if words.is_empty() && matches!(&*name, "--help" | "-h") {
        return help(&[]);
    }
    if words.is_empty() && matches!(&*name, "--version" | "-V") {
        return show(concat!("fernvpn ", env!("CARGO_PKG_VERSION"), "\n"));
    }
    let Some(command) = commands::find(&name) else {
        return refuse(None, unknown(&name));
    };
    let mut own = words.iter().take_while(|word| *word != "--");
    if own.any(|word| word == "--help") {
        return show(&command.help());
    }
    run(&command, words)
}

/// Runs `fernvpn help` with the words after it.
fn help(words: &[&str]) -> ExitCode {
    match words {
        [] => show(&commands::overview()),
        [kind @ ("--man" | "--completions"), name] => match documents::document(kind, name) {
            Some(text) => show(&text),
            None => refuse(None, UsageError(format!("there is no {kind} '{name}'"))),
        },
        [name] => match commands::find(name) {
            Some(command) => show(&command.help()),
            None => refuse(None, unknown(name)),
        },
        [_, more, ..] => refuse(None, UsageError(format!("unexpected argument '{more}'"))),
    }
}

fn run(command: &Command, words: Vec<OsString>) -> ExitCode {
    let done = Arguments::read(&command.syntax, words).map_err(Failure::Usage);
    match done.and_then(|arguments| (command.run)(&arguments)) {
        Ok(status) => status,
        Err(Failure::Usage(error)) => refuse(Some(command), error),
        Err(failure) => {
            // If stderr is closed, nobody can be told. The exit status still says it.
            let _ = writeln!(io::stderr(), "{failure}");
            ExitCode::FAILURE
        }
    }
}

fn unknown(name: &str) -> UsageError {
    let hint = did_you_mean(name, commands::all().map(|command| command.name));
    UsageError(format!("unknown command '{name}'{hint}"))
}

/// Says what is wrong with the command line, and how it is used. The status is 2.
fn refuse(command: Option<&Command>, error: UsageError) -> ExitCode {
    let usage = match command {
        Some(command) => format!(
            "{}\nfernvpn help {} explains it",
            command.usage, command.name
        ),
        None => commands::overview(),
    };
    let _ = writeln!(
        io::stderr(),
        "{}\n{}",
        Failure::Usage(error),
        usage.trim_end()
    );
    ExitCode::from(2)
}

fn show(text: &str) -> ExitCode {
    commands::print(&[text.as_bytes()]).unwrap_or(ExitCode::FAILURE)
}
