//! Do man pages and completions say what the program says? The program makes them from its own
//! tables. These tests check the result, also with the tools that read it.
#![allow(clippy::unwrap_used)]

use crate::needs;
use crate::program;
use fernvpn::commands;
use fernvpn::config::options;
use program::{Folder, run};
use std::process::Command;

/// What `fernvpn help` prints.
fn made(kind: &str, name: &str) -> String {
    let (status, stdout, stderr) = run(&["help", kind, name], "");
    assert_eq!((status, stderr.as_str()), (0, ""), "{kind} {name}");
    stdout
}

#[test]
fn the_man_page_explains_every_command_as_the_help_does() {
    let page = made("--man", "fernvpn.8");
    for command in commands::all() {
        let (_, section) = page.split_once(&format!(".Ss {}\n", command.name)).unwrap();
        let section = section.split("\n.S").next().unwrap();
        for option in &command.syntax.options {
            let flag = option.name.strip_prefix('-').unwrap();
            let items = section.lines().filter(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                words.starts_with(&[".It", "Fl", flag])
            });
            assert_eq!(items.count(), 1, "{} {}", command.name, option.name);
        }
    }
}

#[test]
fn the_man_page_of_the_configuration_explains_every_option() {
    let page = made("--man", "fernvpn.conf.5");
    for (list, section) in [("SERVER", "server"), ("PEER", "peer"), ("CLIENT", "client")] {
        let (_, text) = page.split_once(&format!(".Sh SECTION {list}\n")).unwrap();
        let text = text.split("\n.Sh ").next().unwrap();
        let items = text.lines().filter_map(|line| line.strip_prefix(".It Ic "));
        let explained: Vec<&str> = items.map(|item| item.split(' ').next().unwrap()).collect();
        let known: Vec<&str> = options::of(section).map(|option| option.name).collect();
        assert_eq!(explained, known, "fernvpn.conf.5, section {list}");
    }
}

/// The tool that formats man pages has nothing to say about these.
#[test]
fn mandoc_finds_nothing_in_the_man_pages() {
    if !needs::there("mandoc", "sh", &["-c", "command -v mandoc"]) {
        return;
    }
    let folder = Folder::new("man");
    for page in ["fernvpn.8", "fernvpn.conf.5"] {
        let file = folder.file(page, made("--man", page));
        let lint = Command::new("mandoc")
            .args(["-T", "lint", &file])
            .output()
            .unwrap();
        let said = String::from_utf8(lint.stdout).unwrap();
        // Its list of other pages is none of ours.
        let mut said = said
            .lines()
            .filter(|line| !line.contains("referenced manual not found"));
        assert_eq!(said.next(), None, "{page}");
    }
}

#[test]
fn the_completions_know_every_command_and_option() {
    for shell in ["bash", "zsh", "fish"] {
        let script = made("--completions", shell);
        for command in commands::all() {
            assert!(script.contains(command.name), "{shell}: {}", command.name);
            for option in &command.syntax.options {
                let flag = match option.name.strip_prefix("--") {
                    Some(name) if shell == "fish" => format!("-l {name} "),
                    _ if shell == "fish" => format!("-s {} ", &option.name[1..]),
                    _ => option.name.to_owned(),
                };
                assert!(script.contains(&flag), "{shell}: {} {flag}", command.name);
            }
        }
    }
}

#[test]
fn help_refuses_what_it_does_not_know() {
    for (words, says) in [
        (
            &["help", "--man", "fernvpn.9"][..],
            "there is no --man 'fernvpn.9'",
        ),
        (
            &["help", "--completions", "tcsh"],
            "there is no --completions 'tcsh'",
        ),
        (&["help", "serve"], "did you mean server?"),
        (
            &["help", "server", "client"],
            "unexpected argument 'client'",
        ),
    ] {
        let (status, stdout, stderr) = run(words, "");
        assert_eq!((status, stdout.as_str()), (2, ""), "{words:?}");
        assert!(stderr.contains(says), "{words:?}: {stderr}");
    }
}
