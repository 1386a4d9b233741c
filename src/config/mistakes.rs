//! What did the writer of this line mean? This gives advice for the mistakes of newcomers, most of
//! them habits from other programs.
//!
//! A text in here may be a key. Only known names are shown again.

use super::options;

/// The names of sections.
const SECTIONS: [&str; 3] = ["server", "peer", "client"];

/// The names of options in other programs, in lower case and without dashes, and fernvpn's
/// equivalents.
const FOREIGN: &[(&str, &str)] = &[
    (
        "address",
        "'address' in [server]; a client gets its address from the server",
    ),
    (
        "allowedips",
        "'push-routes' in [server], or 'routes' in [client]",
    ),
    ("endpoint", "'server = HOST:PORT' in [client]"),
    ("remote", "'server = HOST:PORT' in [client]"),
    ("connect", "'server = HOST:PORT' in [client]"),
    ("listenport", "'listen = 0.0.0.0:PORT' in [server]"),
    (
        "port",
        "the port in 'listen' of [server], or in 'server' of [client]",
    ),
    (
        "privatekey",
        "'key', one secret key for each client, from 'fernvpn genkey'",
    ),
    (
        "presharedkey",
        "'key', one secret key for each client, from 'fernvpn genkey'",
    ),
    (
        "secret",
        "'key', one secret key for each client, from 'fernvpn genkey'",
    ),
    (
        "publickey",
        "no public keys; a client and its server share one secret 'key'",
    ),
    ("persistentkeepalive", "'keepalive = SECONDS' in [server]"),
    ("dns", "'push-dns' in [server], or 'dns' in [client]"),
    ("table", "'routes = none' in [client], to set no routes"),
    ("dev", "'interface = NAME'"),
    ("device", "'interface = NAME'"),
    ("tun", "'interface = NAME'"),
    ("suite", "'suites = aes-256-gcm, fernet'"),
    ("cipher", "'suites = aes-256-gcm, fernet'"),
    ("push", "'push-routes' and 'push-dns' in [server]"),
];

/// Characters that look like a plain dash.
const DASHES: [char; 6] = [
    '\u{2010}', '\u{2011}', '\u{2012}', '\u{2013}', '\u{2014}', '\u{2212}',
];

/// The text with plain dashes.
pub fn with_plain_dashes(text: &str) -> String {
    text.replace(DASHES, "-")
}

/// Why this line does not belong in a configuration.
pub(super) fn no_option(line: &str) -> String {
    let neither = "this is neither [section] nor name = value nor # a comment";
    let word = line
        .split(|c: char| c.is_whitespace() || matches!(c, '=' | ':'))
        .next()
        .unwrap_or("");
    let is_option = |name: &str| {
        SECTIONS
            .iter()
            .any(|section| options::find(section, name).is_some())
    };
    let plain = with_plain_dashes(word);
    if line.starts_with('[') {
        return format!("{neither}; the closing ] is missing");
    }
    if line.starts_with(';') || line.starts_with("//") {
        return format!("{neither}; a comment begins with #");
    }
    if plain != word && is_option(&plain) {
        return format!("{neither}; write {plain} with a plain '-'");
    }
    if let Some(name) = word.strip_prefix("--")
        && is_option(name)
    {
        return format!("{neither}; leave out the dashes: {name} = ...");
    }
    if is_option(word) {
        return format!("{neither}; write {word} = ...");
    }
    if crate::fernet::Key::parse(line).is_ok() {
        return format!("{neither}; a key belongs behind 'key =', and a key file is given by -k");
    }
    neither.into()
}

/// Why there is no such section.
pub(super) fn unknown_section(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let advice = match lower.trim_matches(['[', ']', ' ']) {
        plain if SECTIONS.contains(&plain) => format!("write [{plain}]"),
        "interface" => {
            "this is wg-quick's; fernvpn has [server] or [client] in its place".to_owned()
        }
        "clients" | "peers" => "write [peer], once for each client".to_owned(),
        _ => "there are [server] with any number of [peer], and [client]".to_owned(),
    };
    format!("unknown section [{name}]; {advice}")
}

/// Why there is no such option in this section.
pub(super) fn unknown_option(name: &str, section: &str) -> String {
    let elsewhere = |name: &str| {
        SECTIONS
            .iter()
            .find(|other| options::find(other, name).is_some())
    };
    let lower = name.to_ascii_lowercase().replace('_', "-");
    let foreign = lower.replace('-', "");
    let advice = if options::find(section, &lower).is_some() {
        format!("did you mean {lower}?")
    } else if let Some(other) = elsewhere(name) {
        format!("it belongs into [{other}]")
    } else if let Some((_, here)) = FOREIGN.iter().find(|(word, _)| *word == foreign) {
        format!("fernvpn has {here}")
    } else {
        let nearest = options::nearest(section, &lower);
        if nearest.is_empty() {
            let names: Vec<&str> = options::of(section).map(|option| option.name).collect();
            format!("there are {}", names.join(", "))
        } else {
            nearest.trim_start_matches("; ").to_owned()
        }
    };
    format!("unknown option '{name}' in [{section}]; {advice}")
}

/// What is wrong with the form of any value.
///
/// # Errors
/// Fails if the value has quotes around it. The reason does not show the value.
pub(super) fn value_form(value: &str) -> Result<(), String> {
    if value.starts_with(['"', '\'', '\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}']) {
        return Err("leave out the quotes around the value".into());
    }
    Ok(())
}

/// Advice about a key of another program's kind, to be appended to a reason.
pub(super) fn foreign_key(text: &str) -> &'static str {
    let text = text.trim();
    let is_hex = |text: &str| text.bytes().all(|c| c.is_ascii_hexdigit());
    let is_base64 = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/' | b'=');
    match text.len() {
        _ if text.starts_with(['"', '\'']) => "leave out the quotes around the key",
        _ if text.starts_with("-----BEGIN") => {
            "this is a PEM file, for public-key cryptography, which fernvpn does not use"
        }
        _ if text.starts_with('[') => "this is a configuration, which is given by -c FILE",
        64 if is_hex(text) => "this is hexadecimal, and a key is written in base64url",
        43 | 44 if text.bytes().all(is_base64) => {
            "this is standard base64, as WireGuard and openssl write it, and a key is base64url"
        }
        _ => "",
    }
}
