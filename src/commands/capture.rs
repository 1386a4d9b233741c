//! `fernvpn capture`

use super::{Command, Failure};
use crate::audit::capture::inner::Writer;
use crate::audit::capture::report::{Counts, Report};
use crate::audit::capture::search::{Keys, WORK};
use crate::audit::capture::{capture, key_log};
use crate::config::arguments::{Arguments, Known, Operand, Syntax, UsageError};
use crate::config::key_file;
use crate::os::{files, log};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::process::ExitCode;

/// The command.
pub const CAPTURE: Command = Command {
    name: "capture",
    summary: "decrypts a recorded session",
    usage: "[--keylog FILE ...] IN.pcap [--inner OUT.pcap [--whole]] [--verbose]",
    syntax: Syntax {
        options: &[
            Known::list("--keylog", "FILE", "what a server or client with --keylog wrote; without: an outline"),
            Known::value("--inner", "OUT.pcap", "write the packets that were inside, for Wireshark and others"),
            Known::flag("--whole", "super-packets as they crossed, checksums not complete; otherwise in segments"),
            Known::flag("--verbose", "every field and every byte of each record"),
        ],
        operands: &[Operand { name: "IN.pcap", optional: false }],
        command: false,
    },
    notes: "\
IN.pcap is pcap or pcapng, as tcpdump, tshark and Wireshark write it; '-' reads stdin. A line for each frame:

  time  session  > by the client, < by the server  kind  bytes of the frame  key.record  what is inside

key.record: after how many Rekeys, and the number of the record under that key. The time is that of the packet
with which the record was complete. Packets of the capture may be lost, out of order, repeated or cut short,
and the capture may begin late: what can still be opened is, and every hole is told. Fragments of IP are not
put together. The packets inside are as secret as the key log: OUT.pcap (a pcapng) is for its owner only.

Exit status 1 if the file is broken; what comes before that place is printed all the same.",
    run,
};

fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let inner = arguments.path("--inner");
    if arguments.has("--whole") && inner.is_none() {
        return Err(UsageError("--whole belongs to --inner".into()).into());
    }
    let mut lines = Vec::new();
    for file in arguments.paths("--keylog") {
        let failed = |reason: String| format!("key log {}: {reason}", file.display());
        let (text, warning) = key_file::read_secret(&file).map_err(failed)?;
        if let Some(warning) = warning {
            log::warning("audit", &warning, &[]);
        }
        lines.extend(key_log::parse(&text).map_err(failed)?);
    }
    let name = arguments.operands().first().cloned().unwrap_or_default();
    let shown = name.display().to_string();
    let input: Box<dyn Read> = match name.to_str() {
        Some("-") => Box::new(io::stdin().lock()),
        _ => Box::new(File::open(&name).map_err(|error| format!("cannot read {shown}: {error}"))?),
    };
    let mut inner = match inner {
        Some(path) => Some(BufWriter::new(files::write_secret(&path, false).map_err(|error| error.to_string())?)),
        None => None,
    };
    let cannot_write = |error: io::Error| format!("cannot write: {error}");
    let mut out = BufWriter::new(io::stdout().lock());
    let inner = inner.as_mut().map(|inner| inner as &mut dyn Write);
    let inner = inner.map(Writer::new).transpose().map_err(cannot_write)?;
    let (whole, verbose) = (arguments.has("--whole"), arguments.has("--verbose"));
    let mut report = Report { time: 0, out: &mut out, inner, whole, verbose, counts: Counts::default() };
    let read = capture(BufReader::new(input), Keys { lines, work: WORK }, &mut report).map_err(cannot_write)?;
    read.map(|()| ExitCode::SUCCESS).map_err(|reason| format!("{shown}, {reason}").into())
}
