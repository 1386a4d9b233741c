//! `fernvpn reset-client`

use super::{Command, Failure};
use crate::config::arguments::{Arguments, Known, Operand, Syntax, UsageError};
use crate::config::state_file::{Kept, StateFile, Store};
use crate::fernet::Key;
use crate::os::entropy;
use std::io::{self, Write};
use std::process::ExitCode;

/// The command.
pub const RESET: Command = Command {
    name: "reset-client",
    summary: "gives a ratcheted client that fell out of step a new key",
    usage: "NAME -c FILE",
    syntax: Syntax {
        options: &[Known::value("-c", "FILE", "the server's configuration")],
        operands: &[Operand { name: "NAME", optional: false }],
        command: false,
    },
    notes: "\
For a client whose backup was restored, or whose key somebody else uses. Stop the server first: it holds the
state. Prints the new key, which is what belongs into the client's key-file, in place of all that is there.
Bring it there by a safe way, and keep no copy.",
    run: reset,
};

fn reset(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let file = arguments.path("-c").ok_or_else(|| UsageError("which server? -c FILE names it".into()))?;
    let name = arguments.operands().first().map(|name| name.to_string_lossy()).unwrap_or_default();
    let peers = super::configured_server(&file)?.peers;
    let peer = peers.into_iter().find(|peer| peer.name == name);
    let peer = peer.ok_or_else(|| format!("{} has no peer {name}", file.display()))?;
    let path = peer.ratchet.ok_or_else(|| format!("{name} has a static key, which has no step to lose"))?;
    let key = Key::from_bytes(&entropy::array());
    let (mut state, _) = StateFile::open(&path).map_err(|reason| format!("{reason} (stop the server first)"))?;
    state.save(&Kept { key: key.clone(), step: 0, secret: None })?;
    writeln!(io::stdout(), "{}   # {name}", key.to_text()).map_err(|error| error.to_string())?;
    Ok(ExitCode::SUCCESS)
}
