//! What does the configuration file say? Its format is INI as in wg-quick: sections, `name =
//! value`, `#` comments.
//!
//! ```text
//!  [server]                        once, or [client] once
//!  listen = 0.0.0.0:12345
//!  [peer]                          one for each client of a server
//!  name = alice
//!  key = …
//! ```
//!
//! Every mistake is reported with its line and what would be right, not only the first.

use super::conflicts::{Place, conflicts};
use super::key_file::{self, Wiped};
use super::mistakes;
use super::options::{self, Settings};
use super::settings::{ClientSettings, Nat, Peer, ServerSettings};
use super::state_file::StoredRatchet;
use super::values;
use crate::fernet::Key;
use crate::os::network;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// A mistake in a configuration file.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line, from 1. `None` if the mistake concerns the file as a whole.
    pub line: Option<usize>,
    /// What is wrong, and what would be right.
    pub reason: String,
}

/// All mistakes of a configuration file.
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
                // A message quotes only the beginning of a very long line.
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
    /// A server: the file has a section `[server]`.
    Server(ServerSettings),
    /// A client: the file has a section `[client]`.
    Client(ClientSettings),
}

/// The longest name of an option. A key has 43 letters before its '='.
const LONGEST_NAME: usize = 24;

/// A configuration, and warnings that do not prevent its use.
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
/// If it cannot be read, or is not text.
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

/// The key files that a configuration names, each with whether it is the state of a ratcheted key.
pub fn key_files(text: &str, path: &Path) -> Vec<(PathBuf, bool)> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut files = Vec::new();
    for section in sections(text) {
        let is_ratcheted = KeyOptions::new(&section, folder).ratcheted;
        let named = section
            .options
            .iter()
            .filter(|option| option.name == "key-file");
        files.extend(named.map(|option| (folder.join(&*option.value), is_ratcheted)));
    }
    files
}

/// Reads the text of the configuration file `path`. Relative names of key files begin in its
/// folder.
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
    /// The line of its name in brackets.
    pub(super) line: usize,
    pub(super) options: Vec<Setting>,
}

/// One line of a section.
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) line: usize,
    /// The value, which may be a key.
    pub(super) value: Wiped,
}

/// The lines of the items of a section's options.
struct Lines<'a> {
    section: usize,
    items: Vec<(&'a str, usize)>,
}

impl Lines<'_> {
    /// The line of an option's item. If the item is not in the file (a default, or a key in a key
    /// file), it is the nearest line.
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

    /// Reads the form: sections and options.
    fn sections(&mut self, text: &str) -> Vec<Section> {
        let mut sections: Vec<Section> = Vec::new();
        // Some editors begin a file with this mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (number, line) in (1..).zip(text.lines()) {
            let line = match line.split_once('#') {
                Some((before, _)) => before.trim(),
                None => line.trim(),
            };
            if line.is_empty() {
                continue;
            }
            let inner = line
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'));
            if let Some(name) = inner {
                sections.push(Section {
                    name: name.trim().into(),
                    line: number,
                    options: Vec::new(),
                });
                continue;
            }
            let Some((name, value)) = option(line) else {
                self.wrong(number, mistakes::no_option(line));
                continue;
            };
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
            let first = section.options.iter().find(|option| option.name == name);
            let is_list = options::find(&section.name, name).is_some_and(|option| option.list);
            if let Some(first) = first.filter(|_| !is_list) {
                let line = first.line;
                self.wrong(
                    number,
                    format!("{name} stands twice in this section, first in line {line}"),
                );
                continue;
            }
            section.options.push(Setting {
                name: name.into(),
                line: number,
                value: Wiped(value.into()),
            });
        }
        sections
    }

    fn configuration(&mut self, sections: &[Section]) -> Option<Configuration> {
        let mut main: Option<&Section> = None;
        for section in sections {
            match (section.name.as_str(), main) {
                ("server" | "client", None) => main = Some(section),
                ("server" | "client", Some(first)) => self.wrong(
                    section.line,
                    format!(
                        "a file configures one server or client, and line {} began one",
                        first.line
                    ),
                ),
                ("peer", _) => {}
                (other, _) => self.wrong(section.line, mistakes::unknown_section(other)),
            }
        }
        let peers = sections.iter().filter(|section| section.name == "peer");
        let Some(section) = main else {
            self.mistakes.push(Mistake {
                line: None,
                reason: "no section [server] or [client]".into(),
            });
            return None;
        };
        if section.name == "server" {
            return Some(Configuration::Server(self.server(section, peers)));
        }
        for peer in peers {
            self.wrong(
                peer.line,
                "a client has no [peer]: its server stands in [client]",
            );
        }
        Some(Configuration::Client(self.client(section)))
    }

    fn server<'s>(
        &mut self,
        section: &Section,
        peers: impl Iterator<Item = &'s Section>,
    ) -> ServerSettings {
        let mut settings = ServerSettings::default();
        let own = self.set(section, |name, value| {
            options::set(&mut settings, name, value)
        });
        let is_wrong = |option: &Setting| {
            option.name == "address" && !own.items.contains(&("address", option.line))
        };
        if section.options.iter().any(is_wrong) {
            // One mistake is enough. Peers' addresses cannot be checked against unknown networks.
            settings.addresses.clear();
        }
        settings.keylog = settings.keylog.map(|file| self.folder().join(file));
        let mut lines = Vec::new();
        for section in peers {
            let (peer, of_peer) = self.peer(section);
            settings.peers.push(peer);
            lines.push(of_peer);
        }
        let line = |place: Place| match place.0 {
            Some(peer) => lines[peer].of(place.1, place.2),
            None => own.of(place.1, place.2),
        };
        for conflict in conflicts(&settings) {
            let mut reason = conflict.reason;
            if let Some(first) = conflict.first {
                reason += &format!(", in line {}", line(first));
            }
            self.wrong(line(conflict.at), reason);
        }
        if let Nat::By(device) = &settings.nat
            && !network::has_device(device)
        {
            let file = self.path.display();
            let line = own.of("nat", 0);
            self.warnings.push(format!(
                "{file}:{line}: nat: this machine has no device {device} now"
            ));
        }
        settings
    }

    fn peer<'s>(&mut self, section: &'s Section) -> (Peer, Lines<'s>) {
        let mut peer = Peer::default();
        let (lines, keys) = self.keyed(section, &mut peer, "name");
        peer.keys = [keys.inline, keys.filed].concat();
        peer.ratchet = keys.state;
        (peer, lines)
    }

    fn client(&mut self, section: &Section) -> ClientSettings {
        // This key is a placeholder, so that the other mistakes are found too. Neither a file with
        // a mistake nor a ratchet uses it.
        let mut settings = ClientSettings::new("", Key::from_bytes(&[0; 32]));
        let (_, keys) = self.keyed(section, &mut settings, "server");
        let is_key = |option: &&Setting| option.name.starts_with("key");
        let mut given = section.options.iter().filter(is_key);
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            let first = first.line;
            self.wrong(
                second.line,
                format!("a client has one key, and line {first} names one already"),
            );
        }
        settings.keylog = settings.keylog.map(|file| self.folder().join(file));
        if let Some(key) = keys.inline.into_iter().chain(keys.filed).next() {
            settings.key = key;
        }
        settings.ratchet = keys.state;
        settings
    }

    /// Checks that a section has the keys and the option `due`.
    fn keyed<'s, S: Settings>(
        &mut self,
        section: &'s Section,
        settings: &mut S,
        due: &str,
    ) -> (Lines<'s>, KeyOptions<'a>) {
        let mut keys = KeyOptions::new(section, self.folder());
        let lines = self.set(section, |name, value| match keys.set(name, value) {
            Some(done) => done,
            None => options::set(settings, name, value),
        });
        for name in [due, "key"] {
            // A key may stand in either option.
            let is_given = |option: &Setting| option.name.starts_with(name);
            if !section.options.iter().any(is_given) {
                let reason = format!("this [{}] has no {name}", section.name);
                self.wrong(section.line, reason);
            }
        }
        self.warnings.append(&mut keys.warnings);
        (lines, keys)
    }

    /// Sets the options of a section, line by line, so that each mistake has its own line. The
    /// lines of a list are joined.
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
            if options::find(&section.name, name).is_none() {
                self.wrong(*line, mistakes::unknown_option(name, &section.name));
                continue;
            }
            // The buffer is allocated once, because growing would leave a copy behind.
            let joined = Wiped(match lists.get(name.as_str()) {
                Some(before) => [before, ",", value].concat(),
                None => value.to_string(),
            });
            match mistakes::value_form(value).and_then(|()| set(name, &joined)) {
                Ok(()) => {
                    let items = value.split(',').map(|_| (name.as_str(), *line));
                    lines.items.extend(items);
                    lists.insert(name, joined);
                }
                Err(reason) => self.wrong(*line, format!("{name}: {reason}")),
            }
        }
        lines
    }
}

/// The name and the value of an option, if this line has that form. Errors show the name. A line
/// may hold only a key, or a piece of one, whose '=' is the key's own. That is not a name, because
/// no name has a digit.
fn option(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim();
    let fine = |c: char| c.is_ascii_alphabetic() || matches!(c, '-' | '_');
    let has_length = (1..=LONGEST_NAME).contains(&name.len());
    let is_name = has_length && name.chars().all(fine) && !name.starts_with('-');
    is_name.then_some((name, value.trim()))
}

/// The options about keys, which peers and clients have.
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

    /// Sets an option if it is about keys. The reason never has any of the text.
    fn set(&mut self, name: &str, value: &str) -> Option<Result<(), String>> {
        match name {
            "ratchet" => Some(values::yes_or_no(value).map(drop)),
            "key" => Some(self.set_key(value)),
            "key-file" => Some(self.set_key_file(value)),
            _ => None,
        }
    }

    fn set_key(&mut self, value: &str) -> Result<(), String> {
        if self.ratcheted {
            return Err("a ratcheted key changes, so it must be in a key-file of its own".into());
        }
        let keys = value.split(',').map(key_file::parse_key);
        self.inline = keys.collect::<Result<_, _>>()?;
        Ok(())
    }

    fn set_key_file(&mut self, value: &str) -> Result<(), String> {
        let path = self.folder.join(values::path(value)?);
        if self.ratcheted {
            StoredRatchet::read(&path)?;
            self.state = Some(path);
        } else {
            let (keys, warning) = key_file::read(&path)?;
            self.filed = keys.into_iter().map(|named| named.key).collect();
            self.warnings.extend(warning);
        }
        Ok(())
    }
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
            "# ours\n[server]\nlisten = 0.0.0.0:443\nlisten = [::]:443 # both\n\
             address = 10.9.0.1/16\nclient-to-client=yes\nnat = no\n\n\
             [peer]\nname = alice\nkey = {KEY}\naddress = 10.9.0.7\n\
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
        let text = "mtu = 1\n[server]\nlisten\nlsten = x\nmtu = 9\nmtu = 1400\n\
                    keepalive =\nnat = a/b\n[peer]\nkey = secret\n\
                    [pear]\n[client]\n[peer]\nname = a b\nkey-file = none.key\n";
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
