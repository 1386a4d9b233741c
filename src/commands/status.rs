//! `fernvpn status` and `fernvpn reload`

use super::{Command, Failure};
use crate::config::arguments::{Arguments, Known, Operand, Syntax, UsageError};
use crate::os::control;
use crate::tunnel::status::merged;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// The command that shows what runs here.
pub const STATUS: Command = Command {
    name: "status",
    summary: "what a running server or client is doing",
    usage: "[NAME] [--format text|json|prometheus]",
    syntax: Syntax {
        options: &[Known::value("--format", "F", "text for people, json for scripts, prometheus for metrics; text")],
        operands: &[Operand { name: "NAME", optional: true }],
        command: false,
    },
    notes: "\
NAME is that of the instance (--name; server or client otherwise). Without NAME, all that run here: as an
array in JSON, as one set of metrics for Prometheus (for the node exporter's textfile collector, for
example). It takes the user who runs the instance, or root. A client is an instance with one peer, its
server.

Packets and bytes are those that the kernel counts on the tunnel's device: a super-packet of up to 64 KiB is
one, with the bytes of its IP packet. 'sent' is from the device to the peer, and has in it what was dropped
on the way (queue); 'received' is what came from the peer and was passed on. What clients send each other
does not pass the device.

JSON: name, role (server or client), version, started (Unix time), uptime_seconds, device, listen,
addresses, handshakes_accepted, handshakes_refused (by reason), unrouted_packets (from the device, with no
peer to go to), peers: each with name, addresses, connected, from, suite, connected_since and last_heard
(Unix time), round_trip_seconds, ratchet_step, received_packets, received_bytes, sent_packets, sent_bytes,
dropped_packets (by reason: queue, malformed, source, destination). What there is not is null.",
    run: status,
};

/// The command that has a server read its configuration.
pub const RELOAD: Command = Command {
    name: "reload",
    summary: "has a server take up its changed configuration",
    usage: "[NAME]",
    syntax: Syntax { options: &[], operands: &[Operand { name: "NAME", optional: true }], command: false },
    notes: "\
NAME is that of the instance; server. SIGHUP does the same. Clients that the change does not concern notice
nothing. One whose key is gone is cut off; one that has to be told something new (addresses, routes,
resolvers, mtu, keepalive) is told to connect again, which it does at once. With a mistake in the
configuration nothing changes, and the exit status is 1. Options on the server's command line still come
before those in the file, and key files are read anew. listen, interface, address, nat and name need a
restart: the rest is taken up without them, which is said.",
    run: reload,
};

fn status(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let format = arguments.text("--format")?.unwrap_or("text");
    if !["text", "json", "prometheus"].contains(&format) {
        return Err(UsageError(format!("--format takes text, json or prometheus, and '{format}' is none")).into());
    }
    let question = format!("status {format}");
    let answer = match name(arguments)? {
        Some(name) => control::ask(name, &question).map_err(|error| error.to_string())?,
        None => {
            let mut reports = Vec::new();
            for name in control::names() {
                match control::ask(&name, &question) {
                    Ok(report) => reports.push(report),
                    Err(error) if error.kind() == ErrorKind::NotFound => {} // what a crash has left
                    Err(error) => eprintln!("fernvpn: {error}"),
                }
            }
            match format {
                "json" => {
                    format!("[{}]\n", reports.iter().map(|report| report.trim_end()).collect::<Vec<_>>().join(","))
                }
                "prometheus" => merged(&reports),
                _ if reports.is_empty() => return Err("no fernvpn is running here".to_owned().into()),
                _ => reports.join("\n"),
            }
        }
    };
    show(&answer)
}

fn reload(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let done = control::ask(name(arguments)?.unwrap_or("server"), "reload").map_err(|error| error.to_string())?;
    show(&format!("reloaded: {done}\n"))
}

fn name(arguments: &Arguments) -> Result<Option<&str>, UsageError> {
    let Some(name) = arguments.operands().first() else { return Ok(None) };
    let fine = name.to_str().filter(|name| !name.contains('/'));
    fine.map(Some).ok_or_else(|| UsageError("NAME is that of an instance, no file".into()))
}

fn show(text: &str) -> Result<ExitCode, Failure> {
    io::stdout().write_all(text.as_bytes()).map_err(|error| format!("cannot write the answer: {error}"))?;
    Ok(ExitCode::SUCCESS)
}
