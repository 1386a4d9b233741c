//! The clients in a server's configuration: `fernvpn add-client`, `fernvpn remove-client`, `fernvpn
//! reset-client`

use super::Failure;
use super::check::missing_rights;
use crate::config::arguments::{Arguments, UsageError};
use crate::config::edit;
use crate::config::file::{self, Configuration};
use crate::config::key_file::Wiped;
use crate::config::options;
use crate::config::settings::{ClientSettings, Peer, ServerSettings};
use crate::config::state_file::{self, StateFile, Store, StoredRatchet, Unavailable};
use crate::fernet::Key;
use crate::os::folder::{Entry, FileLock};
use crate::os::users::User;
use crate::os::{entropy, files, log, reason};
use crate::tunnel::peers::registry::Clients;
use crate::tunnel::wire::network_config::listed;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A server's configuration that is about to be changed. A lock keeps other commands from changing
/// it meanwhile.
struct Change {
    name: String,
    file: PathBuf,
    entry: Entry,
    text: Wiped,
    settings: ServerSettings,
    _lock: FileLock,
}

impl Change {
    fn begin(arguments: &Arguments) -> Result<Change, Failure> {
        let file = arguments
            .path("-c")
            .ok_or_else(|| UsageError("no server is given. Try: -c FILE".into()))?;
        let file = std::path::absolute(&file).unwrap_or(file);
        let entry = Entry::find(&file);
        let entry =
            entry.map_err(|error| format!("cannot read {}: {}", file.display(), reason(&error)))?;
        let lock = entry.lock_for_a_change()?;
        let (text, _) = file::read_text(&file).map_err(|mistakes| mistakes.to_string())?;
        let settings = super::configured_server(&file)?;
        let name = arguments
            .operands()
            .first()
            .map(|name| name.to_string_lossy())
            .unwrap_or_default()
            .into_owned();
        Ok(Change {
            name,
            file,
            entry,
            text,
            settings,
            _lock: lock,
        })
    }

    fn peer(&self) -> Result<&Peer, String> {
        self.settings
            .peers
            .iter()
            .find(|peer| peer.name == self.name)
            .ok_or_else(|| self.no_peer())
    }

    fn no_peer(&self) -> String {
        format!("{} has no peer {}", self.file.display(), self.name)
    }

    /// Replaces the file by the new text. After an error, nothing has changed.
    fn write(&self, text: &str, done: &str) -> Result<(), String> {
        files::rewrite(&self.entry, text.as_bytes()).map_err(|error| error.to_string())?;
        log::say(format_args!(
            "{done} {}. To apply this to a running server: fernvpn reload {}",
            self.file.display(),
            self.instance()
        ));
        self.warn_of_missing_rights();
        Ok(())
    }

    /// The service could not read the new file.
    fn warn_of_missing_rights(&self) {
        let Some(user) = files::reader(&self.file).and_then(User::find) else {
            return;
        };
        for reason in missing_rights(&self.file, &user).unwrap_or_default() {
            log::warning("config", &reason, &[]);
        }
    }

    /// The instance's name. With the Debian layout, it is the name of the file.
    fn instance(&self) -> String {
        match self.file.file_stem() {
            Some(stem) if self.is_installed() => stem.to_string_lossy().into_owned(),
            _ => self.settings.name.clone(),
        }
    }

    fn is_installed(&self) -> bool {
        files::reader(&self.file).is_some()
    }

    /// The folder for the state of a ratcheted key. A service may not write beside its
    /// configuration.
    fn state_file(&self) -> PathBuf {
        let stem = self.file.file_stem().unwrap_or_default().to_string_lossy();
        let name = format!("{stem}-{}.key", self.name);
        if self.is_installed() {
            Path::new("/var/lib/fernvpn").join(name)
        } else {
            self.file.with_file_name(name)
        }
    }
}

pub(super) fn add(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut client = ClientSettings::new("", Key::from_bytes(&entropy::array()));
    let server = arguments.text("--server")?;
    if let Some(server) = server {
        options::set(&mut client, "server", server)
            .map_err(|reason| UsageError(format!("--server: {reason}")))?;
    }
    let change = Change::begin(arguments)?;
    let mut peer = Peer::default();
    options::set(&mut peer, "name", &change.name).map_err(UsageError)?;
    super::set_given(arguments, &mut peer)?;
    peer.ratchet = arguments.has("--ratchet").then(|| change.state_file());
    let key = client.key.to_text();
    let text = edit::with_section(&change.text, &section(&change, &peer, &key));
    if let Some(state) = &peer.ratchet {
        // Before the service has run for the first time, its folder does not exist.
        let _ = state.parent().map(fs::create_dir_all);
        files::create_secret(state, &format!("{key}\n"))?;
    }
    let fits = fits(&change, &text);
    if let (Err(_), Some(state)) = (&fits, &peer.ratchet) {
        let _ = fs::remove_file(state); // this program created it a moment ago
    }
    let addresses = fits?;
    change.write(&text, &format!("added {} to", peer.name))?;
    let text = configuration(&change, &peer, &key, server, &addresses);
    io::stdout().write_all(text.as_bytes()).map_err(|error| {
        format!(
            "the client is added, but its configuration cannot be printed: {error}. Add it again \
             after: fernvpn remove-client {}",
            peer.name
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The section of a new client.
fn section(change: &Change, peer: &Peer, key: &str) -> String {
    let mut section = format!("[peer]\nname = {}\n", peer.name);
    section += &match &peer.ratchet {
        None => format!("key = {key}\n"),
        // A relative name begins in the configuration's folder.
        Some(state) if state.parent() == change.file.parent() => {
            format!(
                "key-file = {}\nratchet = yes\n",
                state.file_name().unwrap_or_default().to_string_lossy()
            )
        }
        Some(state) => format!("key-file = {}\nratchet = yes\n", state.display()),
    };
    if !peer.addresses.is_empty() {
        section += &format!("address = {}\n", listed(&peer.addresses));
    }
    section
}

/// The new client's addresses. It is an error if the text is no server's configuration, or changes
/// the address of another client.
fn fits(change: &Change, text: &str) -> Result<String, String> {
    let cannot = |reason: &str| format!("cannot add {}: {reason}", change.name);
    let settings = match file::parse(text, &change.file) {
        Ok((Configuration::Server(settings), _)) => settings,
        Ok(_) => return Err(cannot("this is no server's configuration")),
        // Without the new section there was no mistake, so every mistake is about this section.
        Err(mistakes) => {
            let reasons: Vec<String> = mistakes
                .list
                .into_iter()
                .map(|mistake| mistake.reason)
                .collect();
            return Err(cannot(&reasons.join("; ")));
        }
    };
    let before = Clients::new(None, &change.settings)?;
    let after = Clients::new(None, &settings).map_err(|reason| cannot(&reason))?;
    for (old, new) in before.all().iter().zip(after.all()) {
        if let Some(lost) = old
            .addresses
            .iter()
            .find(|own| !new.addresses.contains(own))
        {
            return Err(cannot(&format!(
                "address {} is leased to {} now",
                lost.address, old.name
            )));
        }
    }
    Ok(after
        .all()
        .last()
        .map(|client| listed(&client.addresses))
        .unwrap_or_default())
}

/// The client's configuration, complete and ready to be saved.
fn configuration(
    change: &Change,
    peer: &Peer,
    key: &str,
    server: Option<&str>,
    addresses: &str,
) -> String {
    let name = &peer.name;
    let listen = change
        .settings
        .listen
        .iter()
        .find(|address| !address.ip().is_unspecified());
    let replace = "# replace this by the name or address at which clients reach the server";
    let server = match (server, listen, change.settings.listen.first()) {
        (Some(server), ..) => server.to_owned(),
        (None, Some(address), _) if !address.ip().is_loopback() => address.to_string(),
        (None, Some(address), _) => format!("{address}   {replace}"),
        (None, None, any) => format!(
            "SERVER:{}   {replace}",
            any.map_or(0, |address| address.port())
        ),
    };
    let head = format!(
        "# {name}, {addresses}. As a service, this is /etc/fernvpn/NAME.conf, root:fernvpn, mode\n\
         # 0640. Otherwise it is a file of the user who runs the client, mode 0600.\n\
         [client]\nserver = {server}\n"
    );
    let folder = if change.is_installed() {
        "/var/lib/fernvpn/"
    } else {
        ""
    };
    match &peer.ratchet {
        None => format!("{head}key = {key}\n"),
        Some(_) => format!(
            "{head}key-file = {folder}{name}.key\nratchet = yes\n\n\
             # The key changes, so it needs that file of its own, in a folder where the client\n\
             # may write. Move this line to that file, without the '#', and keep no copy:\n#{key}\n"
        ),
    }
}

pub(super) fn remove(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let change = Change::begin(arguments)?;
    let text = edit::without_peer(&change.text, &change.name).ok_or_else(|| change.no_peer())?;
    change.write(&text, &format!("removed {} from", change.name))?;
    if let Some(state) = change.peer()?.ratchet.as_ref() {
        log::say(format_args!(
            "its ratcheted key is of no use now. After the reload, try: rm {}",
            state.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// A new key for a ratcheted client that fell out of step.
pub(super) fn reset(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let change = Change::begin(arguments)?;
    let peer = change.peer()?;
    let name = &peer.name;
    let Some(path) = &peer.ratchet else {
        let reason = format!("{name} has a static key, which cannot fall out of step");
        return Err(Failure::Reason(reason));
    };
    let key = Key::from_bytes(&entropy::array());
    match StateFile::open(path) {
        Ok((mut state, _)) => {
            state.save(&StoredRatchet {
                key: key.clone(),
                step: 0,
                secret: None,
            })?;
            state_file::forget_new_key(path); // the state of an older client
        }
        // A running server holds the state, and takes the new key from the file beside it.
        Err(Unavailable::Taken(_)) => {
            state_file::leave_new_key(path, &key)?;
            let instance = change.instance();
            log::say(format_args!(
                "the server runs. To apply the new key: fernvpn reload {instance}"
            ));
        }
        Err(Unavailable::Failed(reason)) => return Err(Failure::Reason(reason)),
    }
    let line = Wiped(format!("{}   # {name}\n", key.to_text()));
    super::print(&[line.as_bytes()])
}
