//! What does the configuration file say? INI as in wg-quick: sections, `name = value`, `#`
//! comments.
//!
//! ```text
//!  [server]                        once, or [client] once
//!  listen = 0.0.0.0:12345
//!  [peer]                          one for each client of a server
//!  name = alice
//!  key = …
//! ```
//!
//! Every mistake is reported, not only the first, each with its line and what would be right.

use super::arguments::did_you_mean;
use super::conflicts::{Place, conflicts};
use super::key_file::{self, Wiped};
use super::options::{self, Setter, yes_or_no};
use super::settings::{ClientSettings, Nat, Peer, ServerSettings};
use super::state_file::StoredRatchet;
use crate::fernet::Key;
use crate::os::network;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// A mistake in a configuration file.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line, from 1. None if it concerns the file as a whole.
    pub line: Option<usize>,
    /// What is wrong, and what would be right.
    pub reason: String,
}

/// All that is wrong with a configuration file.
#[derive(Debug)]
pub struct Mistakes {
    file: String,
    /// At least one.
    pub list: Vec<Mistake>,
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (i, Mistake { line, reason }) in self.list.iter().enumerate() {
            let end = if i + 1 == self.list.len() { "" } else { "\n" };
            match line {
                // What is shown again of a line of a megabyte ends somewhere.
                Some(line) => write!(f, "{}:{line}: {reason:.400}{end}", self.file)?,
                None => write!(f, "{}: {reason}{end}", self.file)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// What a file configures.
#[derive(Debug)]
pub enum Configuration {
    /// It has a section `[server]`.
    Server(ServerSettings),
    /// It has a section `[client]`.
    Client(ClientSettings),
}

/// Options that may stand several times in one section; their values form a list.
const REPEATABLE: [&str; 9] = [
    "listen",
    "proxy-protocol-from",
    "address",
    "key",
    "push-routes",
    "push-dns",
    "routes",
    "dns",
    "suites",
];

/// No name of an option is longer. A key has 43 letters before its '='.
const LONGEST_NAME: usize = 24;

/// A configuration, with warnings that stand in nobody's way.
pub type Read = (Configuration, Vec<String>);

/// Reads a configuration file.
///
/// # Errors
/// [`Mistakes`], all of them.
pub fn read(path: &Path) -> Result<Read, Mistakes> {
    let (text, warning) = read_text(path)?;
    let (configuration, warnings) = parse(&text, path)?;
    Ok((configuration, warning.into_iter().chain(warnings).collect()))
}

/// The text of a configuration file, and a warning if it is too open.
///
/// # Errors
/// That it cannot be read, or is no text.
pub fn read_text(path: &Path) -> Result<(Wiped, Option<String>), Mistakes> {
    let wrong = |line, reason| Mistakes {
        file: path.display().to_string(),
        list: vec![Mistake { line, reason }],
    };
    let (bytes, warning) = key_file::read_secret(path).map_err(|reason| wrong(None, reason))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        wrong(
            Some(line),
            "this is not UTF-8 text (an editor on Windows may have saved UTF-16)".into(),
        )
    })?;
    Ok((Wiped(text), warning))
}

/// Reads the text of the configuration file `path`, in whose folder the names of key files begin.
///
/// # Errors
/// [`Mistakes`], all of them.
pub fn parse(text: &str, path: &Path) -> Result<Read, Mistakes> {
    let mut reading = Reading {
        mistakes: Vec::new(),
        warnings: Vec::new(),
        path,
    };
    let sections = reading.sections(text);
    let configuration = reading.configuration(&sections);
    reading
        .mistakes
        .sort_by_key(|mistake| mistake.line.unwrap_or(usize::MAX));
    match configuration {
        Some(configuration) if reading.mistakes.is_empty() => Ok((configuration, reading.warnings)),
        _ => Err(Mistakes {
            file: path.display().to_string(),
            list: reading.mistakes,
        }),
    }
}

/// The sections of a text, right or not.
pub(super) fn sections(text: &str) -> Vec<Section> {
    Reading {
        mistakes: Vec::new(),
        warnings: Vec::new(),
        path: Path::new(""),
    }
    .sections(text)
}

pub(super) struct Section {
    pub(super) name: String,
    /// Of its name in brackets.
    pub(super) line: usize,
    pub(super) options: Vec<Setting>,
}

/// One line of a section.
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) line: usize,
    /// It may be a key.
    pub(super) value: Wiped,
}

/// Where the items of a section's options stand.
struct Lines<'a> {
    section: usize,
    items: Vec<(&'a str, usize)>,
}

impl Lines<'_> {
    /// The line of an option's item, or if it does not stand there, as a default or a key in a file
    /// does not, the nearest.
    fn of(&self, option: &str, item: usize) -> usize {
        let line = |option: &str, item| {
            self.items
                .iter()
                .filter(|(name, _)| *name == option)
                .nth(item)
        };
        let found = line(option, item).or_else(|| line("key-file", 0).filter(|_| option == "key"));
        found.map_or(self.section, |(_, line)| *line)
    }
}

struct Reading<'a> {
    mistakes: Vec<Mistake>,
    warnings: Vec<String>,
    path: &'a Path,
}

impl<'a> Reading<'a> {
    fn folder(&self) -> &'a Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    fn wrong(&mut self, line: usize, reason: impl Into<String>) {
        self.mistakes.push(Mistake {
            line: Some(line),
            reason: reason.into(),
        });
    }

    /// The form: sections and options.
    fn sections(&mut self, text: &str) -> Vec<Section> {
        let mut sections: Vec<Section> = Vec::new();
        // Some editors begin a file with this mark.
        for (number, line) in (1..).zip(text.strip_prefix('\u{feff}').unwrap_or(text).lines()) {
            let line = line
                .split_once('#')
                .map_or(line, |(before, _)| before)
                .trim();
            if line.is_empty() {
                continue;
            }
            if let Some(name) = line
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
            {
                sections.push(Section {
                    name: name.trim().into(),
                    line: number,
                    options: Vec::new(),
                });
                continue;
            }
            let (name, value) = line
                .split_once('=')
                .map_or(("", ""), |(name, value)| (name.trim(), value.trim()));
            // A name is shown again. A key whose own '=' is the only one in its line, or a piece of
            // it, is no name: no name has a digit.
            let is_name = name
                .chars()
                .all(|c| c.is_ascii_alphabetic() || matches!(c, '-' | '_'));
            if name.is_empty() || name.len() > LONGEST_NAME || !is_name {
                self.wrong(
                    number,
                    "this is neither [section] nor name = value nor # a comment",
                );
                continue;
            }
            let Some(section) = sections.last_mut() else {
                self.wrong(
                    number,
                    format!("'{name}' stands before any section; begin with [server] or [client]"),
                );
                continue;
            };
            if value.is_empty() {
                self.wrong(number, format!("{name} has no value"));
                continue;
            }
            match section.options.iter().find(|option| option.name == name) {
                Some(Setting { line, .. }) if !REPEATABLE.contains(&name) => {
                    let reason =
                        format!("{name} stands twice in this section, first in line {line}");
                    self.wrong(number, reason);
                }
                _ => section.options.push(Setting {
                    name: name.into(),
                    line: number,
                    value: Wiped(value.into()),
                }),
            }
        }
        sections
    }

    fn configuration(&mut self, sections: &[Section]) -> Option<Configuration> {
        let mut main: Option<&Section> = None;
        for section in sections {
            match (section.name.as_str(), main) {
                ("server" | "client", None) => main = Some(section),
                ("server" | "client", Some(first)) => {
                    let reason = format!("a file configures one server or client, and line {} began one", first.line);
                    self.wrong(section.line, reason);
                }
                ("peer", _) => {}
                (other, _) => self.wrong(
                    section.line,
                    format!("unknown section [{other}]; there are [server] with any number of [peer], and [client]"),
                ),
            }
        }
        let peers = sections.iter().filter(|section| section.name == "peer");
        match main {
            Some(section) if section.name == "server" => {
                Some(Configuration::Server(self.server(section, peers)))
            }
            Some(section) => {
                for peer in peers {
                    self.wrong(
                        peer.line,
                        "a client has no [peer]: its server stands in [client]",
                    );
                }
                Some(Configuration::Client(self.client(section)))
            }
            None => {
                self.mistakes.push(Mistake {
                    line: None,
                    reason: "no section [server] or [client]".into(),
                });
                None
            }
        }
    }

    fn server<'s>(
        &mut self,
        section: &Section,
        peers: impl Iterator<Item = &'s Section>,
    ) -> ServerSettings {
        let mut settings = ServerSettings::default();
        let own = self.set(section, |name, value| {
            options::set(options::SERVER, &mut settings, name, value)
        });
        let is_wrong = |option: &Setting| !own.items.contains(&("address", option.line));
        if section
            .options
            .iter()
            .any(|option| option.name == "address" && is_wrong(option))
        {
            settings.addresses.clear(); // one mistake is enough: no peer's address is outside of what is not known
        }
        settings.keylog = settings.keylog.map(|file| self.folder().join(file));
        let mut lines = Vec::new();
        for section in peers {
            let (peer, of_peer) = self.peer(section);
            settings.peers.push(peer);
            lines.push(of_peer);
        }
        let line =
            |(peer, option, item): Place| peer.map_or(&own, |peer| &lines[peer]).of(option, item);
        for conflict in conflicts(&settings) {
            let first = conflict
                .first
                .map_or(String::new(), |first| format!(", in line {}", line(first)));
            self.wrong(line(conflict.at), conflict.reason + &first);
        }
        if let Nat::By(device) = &settings.nat
            && !network::has_device(device)
        {
            let line = own.of("nat", 0);
            self.warnings.push(format!(
                "{}:{line}: nat: this machine has no device {device} now",
                self.path.display()
            ));
        }
        settings
    }

    fn peer<'s>(&mut self, section: &'s Section) -> (Peer, Lines<'s>) {
        let mut peer = Peer::default();
        let (lines, keys, ratchet) = self.keyed(section, options::PEER, &mut peer, "name");
        (
            Peer {
                keys,
                ratchet,
                ..peer
            },
            lines,
        )
    }

    fn client(&mut self, section: &Section) -> ClientSettings {
        // A stand-in, so that the other mistakes are found too. It is used neither with a mistake
        // nor with a ratchet.
        let mut settings = ClientSettings::new("", Key::from_bytes(&[0; 32]));
        let (_, keys, ratchet) = self.keyed(section, options::CLIENT, &mut settings, "server");
        let mut given = section
            .options
            .iter()
            .filter(|option| option.name.starts_with("key"));
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            self.wrong(
                second.line,
                format!(
                    "a client has one key, and line {} names one already",
                    first.line
                ),
            );
        }
        settings.keylog = settings.keylog.map(|file| self.folder().join(file));
        settings.key = keys.into_iter().next().unwrap_or(settings.key);
        ClientSettings {
            ratchet,
            ..settings
        }
    }

    /// A section with keys, which has to have them, and the option `due`. Its keys, or the file of
    /// its ratcheted one.
    fn keyed<'s, S>(
        &mut self,
        section: &'s Section,
        options: &[Setter<S>],
        settings: &mut S,
        due: &str,
    ) -> (Lines<'s>, Vec<Key>, Option<PathBuf>) {
        let mut keys = KeyOptions::new(section, self.folder());
        let lines = self.set(section, |name, value| match keys.set(name, value) {
            Some(done) => done,
            None => options::set(options, settings, name, value),
        });
        for name in [due, "key"] {
            // For a key, either of both.
            if !section
                .options
                .iter()
                .any(|option| option.name.starts_with(name))
            {
                self.wrong(
                    section.line,
                    format!("this [{}] has no {name}", section.name),
                );
            }
        }
        self.warnings.append(&mut keys.warnings);
        (lines, [keys.inline, keys.filed].concat(), keys.state)
    }

    /// Sets the options of a section, line by line, so that each mistake has its own. The lines of
    /// a list are joined.
    fn set<'s>(
        &mut self,
        section: &'s Section,
        mut set: impl FnMut(&str, &str) -> Result<(), String>,
    ) -> Lines<'s> {
        let mut lines = Lines {
            section: section.line,
            items: Vec::new(),
        };
        let mut lists: HashMap<&str, Wiped> = HashMap::new();
        for Setting { name, line, value } in &section.options {
            // In one piece, since growing leaves a copy behind.
            let joined = Wiped(match lists.get(name.as_str()) {
                Some(before) => [before, ",", value].concat(),
                None => value.to_string(),
            });
            let set = |()| set(name, &joined).map_err(|reason| format!("{name}: {reason}"));
            match known(name, &section.name).and_then(set) {
                Ok(()) => {
                    lines
                        .items
                        .extend(value.split(',').map(|_| (name.as_str(), *line)));
                    lists.insert(name, joined);
                }
                Err(reason) => self.wrong(*line, reason),
            }
        }
        lines
    }
}

/// The options about keys, which a peer has as well as a client.
struct KeyOptions<'a> {
    folder: &'a Path,
    ratcheted: bool,
    inline: Vec<Key>,
    filed: Vec<Key>,
    state: Option<PathBuf>,
    warnings: Vec<String>,
}

impl KeyOptions<'_> {
    fn new<'a>(section: &Section, folder: &'a Path) -> KeyOptions<'a> {
        let ratcheted = section
            .options
            .iter()
            .any(|option| option.name == "ratchet" && &*option.value == "yes");
        KeyOptions {
            folder,
            ratcheted,
            inline: Vec::new(),
            filed: Vec::new(),
            state: None,
            warnings: Vec::new(),
        }
    }

    /// Sets an option, if it is one about keys. A reason never holds any of the text.
    fn set(&mut self, name: &str, value: &str) -> Option<Result<(), String>> {
        let path = || self.folder.join(value); // made only of what is no key
        Some(match name {
            "ratchet" => yes_or_no(value).map(drop),
            "key" if self.ratcheted => {
                Err("a ratcheted key moves: it stands in a key-file of its own, never here".into())
            }
            "key" => value
                .split(',')
                .map(key_file::parse_key)
                .collect::<Result<_, _>>()
                .map(|keys| self.inline = keys),
            "key-file" if self.ratcheted => {
                StoredRatchet::read(&path()).map(|_| self.state = Some(path()))
            }
            "key-file" => match key_file::read(&path()) {
                Ok((keys, warning)) => {
                    self.filed = keys.into_iter().map(|named| named.key).collect();
                    self.warnings.extend(warning);
                    Ok(())
                }
                Err(reason) => Err(reason),
            },
            _ => return None,
        })
    }
}

fn known(name: &str, section: &str) -> Result<(), String> {
    let (here, elsewhere) = (options::names(section), ["server", "peer", "client"]);
    if here.contains(&name) {
        return Ok(());
    }
    let hint = match elsewhere
        .iter()
        .find(|other| options::names(other).contains(&name))
    {
        Some(other) => format!("; it belongs into [{other}]"),
        None => did_you_mean(&name.to_ascii_lowercase(), here.iter().copied()),
    };
    let hint = if hint.is_empty() {
        format!("; there are {}", here.join(", "))
    } else {
        hint
    };
    Err(format!("unknown option '{name}' in [{section}]{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";

    fn mistakes(text: &str) -> Vec<(usize, String)> {
        let list = parse(text, Path::new("/f")).unwrap_err().list;
        list.into_iter()
            .map(|mistake| (mistake.line.unwrap_or(0), mistake.reason))
            .collect()
    }

    #[test]
    fn a_whole_server() {
        let text = format!(
            "# ours\n[server]\nlisten = 0.0.0.0:443\nlisten = [::]:443 # both\naddress = 10.9.0.1/16\n\
             client-to-client=yes\nnat = no\n\n[peer]\nname = alice\nkey = {KEY}\naddress = 10.9.0.7\n\
             [peer]\nname = bob\nkey = {}\nroutes = 192.168.0.0/24, 192.168.1.0/24\n",
            KEY.replace('c', "d")
        );
        let Ok((Configuration::Server(server), _)) = parse(&text, Path::new("/f")) else {
            panic!("{text}")
        };
        assert_eq!(server.listen.len(), 2);
        assert_eq!(server.addresses[0].to_string(), "10.9.0.1/16");
        assert!(server.client_to_client);
        assert_eq!(
            server
                .peers
                .iter()
                .map(|peer| peer.name.as_str())
                .collect::<Vec<_>>(),
            ["alice", "bob"]
        );
        assert_eq!(server.peers[0].addresses.len(), 1);
        assert_eq!(server.peers[1].routes.len(), 2);
    }

    #[test]
    fn a_whole_client() {
        let text = format!(
            "[client]\nserver = vpn.example.org:443\nkey = {KEY}\nroutes = none\nkill-switch = no\n"
        );
        let Ok((Configuration::Client(client), _)) = parse(&text, Path::new("/f")) else {
            panic!("{text}")
        };
        assert_eq!(client.server, "vpn.example.org:443");
        assert_eq!(client.key.to_text(), KEY);
    }

    #[test]
    fn every_mistake_with_its_line() {
        let text = "mtu = 1\n[server]\nlisten\nlsten = x\nmtu = 9\nmtu = 1400\nkeepalive =\nnat = a/b\n[peer]\n\
                    key = secret\n[pear]\n[client]\n[peer]\nname = a b\nkey-file = none.key\n";
        let found = mistakes(text);
        for (line, part) in [
            (1, "before any section"),
            (3, "name = value"),
            (4, "did you mean listen?"),
            (5, "576"),
            (6, "first in line 5"),
            (7, "no value"),
            (8, "15 letters"),
            (9, "has no name"),
            (10, "not a key"),
            (11, "[pear]"),
            (12, "line 2"),
            (14, "a b"),
            (15, "none.key"),
        ] {
            assert!(
                found
                    .iter()
                    .any(|(at, why)| *at == line && why.contains(part)),
                "{line} {part}: {found:#?}"
            );
        }
        assert_eq!(found.len(), 13, "{found:#?}");
        assert!(
            !found.iter().any(|(_, why)| why.contains("secret")),
            "a key is never shown"
        );
    }

    #[test]
    fn a_key_without_its_name_is_not_shown() {
        for text in [
            format!("{KEY}\n"),
            format!("[peer]\n{KEY}\n"),
            format!("[peer]\nname = a\nkey {KEY}\n"),
        ] {
            let found = mistakes(&text);
            assert!(
                found.iter().any(|(_, why)| why.contains("name = value")),
                "{found:#?}"
            );
            assert!(!format!("{found:?}").contains(&KEY[4..12]), "{found:#?}");
        }
    }

    #[test]
    fn an_empty_file_and_a_client_with_peers() {
        assert_eq!(
            mistakes(""),
            [(0, "no section [server] or [client]".to_owned())]
        );
        let found = mistakes("[client]\n[peer]\n");
        assert_eq!(
            found.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
            [1, 1, 2]
        );
    }
}
