//! `fernvpn capture`

use super::Failure;
use crate::audit::capture::inner::Writer;
use crate::audit::capture::report::{Counts, Report};
use crate::audit::capture::search::{Keys, WORK};
use crate::audit::capture::{self, key_log};
use crate::config::arguments::{Arguments, UsageError};
use crate::config::key_file;
use crate::os::{files, log};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::process::ExitCode;

pub(super) fn capture(arguments: &Arguments) -> Result<ExitCode, Failure> {
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
        Some(path) => Some(BufWriter::new(files::write_secret(&path, false)?)),
        None => None,
    };
    let cannot_write = |error: io::Error| format!("cannot write: {error}");
    let mut out = BufWriter::new(io::stdout().lock());
    let inner = inner.as_mut().map(|inner| inner as &mut dyn Write);
    let inner = inner.map(Writer::new).transpose().map_err(cannot_write)?;
    let mut report = Report {
        time: 0,
        out: &mut out,
        inner,
        whole: arguments.has("--whole"),
        verbose: arguments.has("--verbose"),
        counts: Counts::default(),
    };
    let read = capture::capture(
        BufReader::new(input),
        Keys { lines, work: WORK },
        &mut report,
    )
    .map_err(cannot_write)?;
    read.map(|()| ExitCode::SUCCESS)
        .map_err(|reason| format!("{shown}, {reason}").into())
}
