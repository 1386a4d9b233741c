//! What does the configuration file say? INI as in wg-quick: sections, `name = value`, `#` comments.
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

use super::arguments::nearest;
use super::key_file;
use super::options::check_addresses;
use super::settings::{ClientSettings, Peer, ServerSettings};
use super::state_file::Kept;
use crate::fernet::Key;
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
                Some(line) => write!(f, "{}:{line}: {reason}{end}", self.file)?,
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
const REPEATABLE: [&str; 8] = ["listen", "address", "key", "push-routes", "push-dns", "routes", "dns", "suites"];

const SERVER: &[&str] = &[
    "listen",
    "interface",
    "address",
    "mtu",
    "nat",
    "push-routes",
    "push-dns",
    "client-to-client",
    "suites",
    "keepalive",
    "max-clients",
    "hello-max-age",
    "congestion",
    "keylog",
    "name",
];
const PEER: &[&str] = &["name", "key", "key-file", "address", "routes", "ratchet"];
const CLIENT: &[&str] = &[
    "server",
    "key",
    "key-file",
    "interface",
    "routes",
    "dns",
    "kill-switch",
    "ratchet",
    "suites",
    "congestion",
    "keylog",
    "name",
];

/// Reads a configuration file.
///
/// # Errors
/// [`Mistakes`], all of them.
pub fn read(path: &Path) -> Result<(Configuration, Vec<String>), Mistakes> {
    let file = path.display().to_string();
    let whole = |reason| vec![Mistake { line: None, reason }];
    let (bytes, warning) =
        key_file::read_secret(path).map_err(|reason| Mistakes { file: file.clone(), list: whole(reason) })?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Mistakes { file: file.clone(), list: whole("this is not UTF-8 text".into()) })?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let configuration = parse(&text, folder).map_err(|list| Mistakes { file, list })?;
    Ok((configuration, warning.into_iter().collect()))
}

/// `folder` is where the names of files begin.
fn parse(text: &str, folder: &Path) -> Result<Configuration, Vec<Mistake>> {
    let mut reading = Reading { mistakes: Vec::new(), folder };
    let sections = reading.sections(text);
    let configuration = reading.configuration(&sections);
    reading.mistakes.sort_by_key(|mistake| mistake.line.unwrap_or(usize::MAX));
    match configuration {
        Some(configuration) if reading.mistakes.is_empty() => Ok(configuration),
        _ => Err(reading.mistakes),
    }
}

struct Section {
    name: String,
    line: usize,
    options: Vec<Setting>,
}

/// An option with all its values, joined by commas.
struct Setting {
    name: String,
    line: usize,
    value: String,
}

struct Reading<'a> {
    mistakes: Vec<Mistake>,
    folder: &'a Path,
}

impl Reading<'_> {
    fn wrong(&mut self, line: usize, reason: impl Into<String>) {
        self.mistakes.push(Mistake { line: Some(line), reason: reason.into() });
    }

    /// The form: sections and options.
    fn sections(&mut self, text: &str) -> Vec<Section> {
        let mut sections: Vec<Section> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split_once('#').map_or(line, |(before, _)| before).trim();
            if line.is_empty() {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                sections.push(Section { name: name.trim().into(), line: number, options: Vec::new() });
                continue;
            }
            let Some((name, value)) = line.split_once('=') else {
                self.wrong(number, "this is neither [section] nor name = value");
                continue;
            };
            let (name, value) = (name.trim(), value.trim());
            let Some(section) = sections.last_mut() else {
                self.wrong(number, format!("'{name}' stands before any section; begin with [server] or [client]"));
                continue;
            };
            if value.is_empty() {
                self.wrong(number, format!("{name} has no value"));
                continue;
            }
            match section.options.iter_mut().find(|option| option.name == name) {
                None => section.options.push(Setting { name: name.into(), line: number, value: value.into() }),
                Some(option) if REPEATABLE.contains(&name) => option.value = format!("{},{value}", option.value),
                Some(Setting { line: first, .. }) => {
                    let first = *first;
                    self.wrong(number, format!("{name} stands twice in this section, first in line {first}"));
                }
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
            Some(section) if section.name == "server" => self.server(section, peers).map(Configuration::Server),
            Some(section) => {
                for peer in peers {
                    self.wrong(peer.line, "a client has no [peer]: its server stands in [client]");
                }
                self.client(section).map(Configuration::Client)
            }
            None => {
                self.mistakes.push(Mistake { line: None, reason: "no section [server] or [client]".into() });
                None
            }
        }
    }

    fn server<'s>(&mut self, section: &Section, peers: impl Iterator<Item = &'s Section>) -> Option<ServerSettings> {
        let mut settings = ServerSettings::default();
        for option in &section.options {
            let name = option.name.as_str();
            let set = known(name, SERVER, "[server]").and_then(|()| settings.set(name, &option.value));
            if let Err(reason) = set {
                self.wrong(option.line, reason);
            }
        }
        if let Err(reason) = check_addresses(&settings.addresses) {
            self.wrong(section.line, reason);
        }
        settings.keylog = settings.keylog.map(|file| self.folder.join(file));
        for section in peers {
            if let Some(peer) = self.peer(section) {
                settings.peers.push(peer);
            }
        }
        Some(settings)
    }

    fn peer(&mut self, section: &Section) -> Option<Peer> {
        let mut peer =
            Peer { name: String::new(), keys: Vec::new(), addresses: Vec::new(), routes: Vec::new(), ratchet: None };
        peer.ratchet = self.ratchet(section);
        for option in &section.options {
            let set = match option.name.as_str() {
                "ratchet" => Ok(()),
                "key-file" if peer.ratchet.is_some() => Ok(()),
                "key" => keys(&option.value).map(|keys| peer.keys.extend(keys)),
                "key-file" => self.key_file(&option.value).map(|keys| peer.keys.extend(keys)),
                name => known(name, PEER, "[peer]").and_then(|()| peer.set(name, &option.value)),
            };
            if let Err(reason) = set {
                self.wrong(option.line, reason);
            }
        }
        for (missing, name) in [(peer.name.is_empty(), "name"), (peer.keys.is_empty(), "key")] {
            let given = section.options.iter().any(|option| option.name.starts_with(name));
            if missing && !given {
                self.wrong(section.line, format!("this [peer] has no {name}"));
            }
        }
        Some(peer)
    }

    fn client(&mut self, section: &Section) -> Option<ClientSettings> {
        let of = |name: &str| section.options.iter().find(|option| option.name == name);
        let ratchet = self.ratchet(section);
        let key = match (of("key"), of("key-file")) {
            _ if ratchet.is_some() => Ok(Vec::new()), // the state file's, read when it is taken
            (Some(option), None) => keys(&option.value).map_err(|reason| (option.line, reason)),
            (None, Some(option)) => self.key_file(&option.value).map_err(|reason| (option.line, reason)),
            (None, None) => Err((section.line, "this [client] has no key and no key-file".into())),
            (Some(_), Some(option)) => Err((option.line, "key and key-file exclude each other".into())),
        };
        let key = key.map_err(|(line, reason)| self.wrong(line, reason)).ok().and_then(|keys| keys.into_iter().next());
        // A stand-in, so that the other mistakes are found too. It is used neither with a mistake nor with a ratchet.
        let mut settings = ClientSettings::new("", key.unwrap_or_else(|| Key::from_bytes(&[0; 32])));
        settings.ratchet = ratchet;
        for option in &section.options {
            let set = match option.name.as_str() {
                "key" | "key-file" | "ratchet" => Ok(()),
                name => known(name, CLIENT, "[client]").and_then(|()| settings.set(name, &option.value)),
            };
            if let Err(reason) = set {
                self.wrong(option.line, reason);
            }
        }
        if of("server").is_none() {
            self.wrong(section.line, "this [client] has no server = HOST:PORT");
        }
        settings.keylog = settings.keylog.map(|file| self.folder.join(file));
        Some(settings)
    }

    /// With `ratchet = yes`, the key file, which is the state: readable, and the only place of the key.
    fn ratchet(&mut self, section: &Section) -> Option<PathBuf> {
        let of = |name: &str| section.options.iter().find(|option| option.name == name);
        let option = of("ratchet").filter(|option| option.value != "no")?;
        let path = of("key-file").map(|file| self.folder.join(&file.value));
        let state = match (&path, of("key")) {
            _ if option.value != "yes" => Err(format!("'{}' is neither yes nor no", option.value)),
            (Some(path), None) => Kept::read(path).map(|_| ()),
            _ => Err("a ratcheted key needs a key-file of its own, and no key: the file is its state".into()),
        };
        match state {
            Ok(()) => path,
            Err(reason) => {
                self.wrong(option.line, reason);
                None
            }
        }
    }

    fn key_file(&self, name: &str) -> Result<Vec<Key>, String> {
        let (keys, _) = key_file::read(&self.folder.join(name)).map_err(|error| error.to_string())?;
        Ok(keys.into_iter().map(|named| named.key).collect())
    }
}

/// The reason never holds any of the text.
fn keys(value: &str) -> Result<Vec<Key>, String> {
    let parse = |text: &str| Key::parse(text.trim()).map_err(|e| format!("{e} (fernvpn genkey prints one)"));
    value.split(',').map(parse).collect()
}

fn known(name: &str, options: &[&'static str], section: &str) -> Result<(), String> {
    if options.contains(&name) {
        return Ok(());
    }
    let hint = nearest(name, options.iter().copied()).map_or(String::new(), |known| format!("; did you mean {known}?"));
    Err(format!("unknown option '{name}' in {section}{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";

    fn mistakes(text: &str) -> Vec<(usize, String)> {
        let list = parse(text, Path::new("/")).unwrap_err();
        list.into_iter().map(|mistake| (mistake.line.unwrap_or(0), mistake.reason)).collect()
    }

    #[test]
    fn a_whole_server() {
        let text = format!(
            "# ours\n[server]\nlisten = 0.0.0.0:443\nlisten = [::]:443 # both\naddress = 10.9.0.1/16\n\
             client-to-client=yes\nnat = no\n\n[peer]\nname = alice\nkey = {KEY}\naddress = 10.9.0.7\n\
             [peer]\nname = bob\nkey = {}\nroutes = 192.168.0.0/24, 192.168.1.0/24\n",
            KEY.replace('c', "d")
        );
        let Ok(Configuration::Server(server)) = parse(&text, Path::new("/")) else { panic!("{text}") };
        assert_eq!(server.listen.len(), 2);
        assert_eq!(server.addresses[0].to_string(), "10.9.0.1/16");
        assert!(server.client_to_client);
        assert_eq!(server.peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["alice", "bob"]);
        assert_eq!(server.peers[0].addresses.len(), 1);
        assert_eq!(server.peers[1].routes.len(), 2);
    }

    #[test]
    fn a_whole_client() {
        let text = format!("[client]\nserver = vpn.example.org:443\nkey = {KEY}\nroutes = none\nkill-switch = no\n");
        let Ok(Configuration::Client(client)) = parse(&text, Path::new("/")) else { panic!("{text}") };
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
            assert!(found.iter().any(|(at, why)| *at == line && why.contains(part)), "{line} {part}: {found:#?}");
        }
        assert_eq!(found.len(), 13, "{found:#?}");
        assert!(!found.iter().any(|(_, why)| why.contains("secret")), "a key is never shown");
    }

    #[test]
    fn an_empty_file_and_a_client_with_peers() {
        assert_eq!(mistakes(""), [(0, "no section [server] or [client]".to_owned())]);
        let found = mistakes("[client]\n[peer]\n");
        assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 1, 2]);
    }
}
