//! `fernvpn reset-client`

use super::Failure;
use crate::config::arguments::{Arguments, UsageError};
use crate::config::state_file::{Kept, StateFile, Store};
use crate::fernet::Key;
use crate::os::entropy;
use std::io::{self, Write};
use std::process::ExitCode;

pub(super) fn reset(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let file = arguments.path("-c").ok_or_else(|| UsageError("which server? -c FILE names it".into()))?;
    let name = arguments.operands().first().map(|name| name.to_string_lossy()).unwrap_or_default();
    let peers = super::configured_server(&file)?.peers;
    let peer = peers.into_iter().find(|peer| peer.name == name);
    let peer = peer.ok_or_else(|| format!("{} has no peer {name}", file.display()))?;
    let path = peer.ratchet.ok_or_else(|| format!("{name} has a static key, which has no step to lose"))?;
    let key = Key::from_bytes(&entropy::array());
    let (mut state, _) = StateFile::open(&path)?;
    state.save(&Kept { key: key.clone(), step: 0, secret: None })?;
    writeln!(io::stdout(), "{}   # {name}", key.to_text())?;
    Ok(ExitCode::SUCCESS)
}
