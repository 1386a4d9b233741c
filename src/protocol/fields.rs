//! How is a hello written? PROTOCOL.md section 4.1.
//!
//! ```text
//!  versions=1\n
//!  role=client\n
//!  nonce=000102…\n       a name, '=', a value, a line end; in any order, each at most once
//! ```
//!
//! Text, so that anybody who has the derived key can read it with any Fernet tool. Unknown names
//! are ignored, which is how the protocol grows. A name that stands twice is refused, because two
//! readers could take different ones.

use std::fmt;

/// Why a text is not a list of fields, or not the one expected. Names, never values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldError {
    /// Not printable ASCII lines of `name=value`, each ended by a line feed.
    Form,
    /// This name stands twice.
    Twice(String),
    /// This name is missing.
    Missing(&'static str),
    /// The value of this name is not what it must be.
    Value(&'static str),
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            FieldError::Form => write!(f, "not lines of name=value in printable ASCII"),
            FieldError::Twice(name) => write!(f, "the field {name} stands twice"),
            FieldError::Missing(name) => write!(f, "the field {name} is missing"),
            FieldError::Value(name) => {
                write!(f, "the field {name} has a value that it cannot have")
            }
        }
    }
}

/// Fields by name.
#[derive(Debug)]
pub struct Fields<'a>(Vec<(&'a str, &'a str)>);

/// Appends one field. Characters that would end the line or are not printable ASCII are written as
/// `?`.
pub fn write(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push('=');
    out.extend(
        value
            .chars()
            .map(|c| if matches!(c, ' '..='~') { c } else { '?' }),
    );
    out.push('\n');
}

impl<'a> Fields<'a> {
    /// Reads all fields.
    ///
    /// # Errors
    /// [`FieldError::Form`] or [`FieldError::Twice`].
    pub fn parse(bytes: &'a [u8]) -> Result<Fields<'a>, FieldError> {
        if !bytes.iter().all(|b| matches!(b, b' '..=b'~' | b'\n')) {
            return Err(FieldError::Form);
        }
        let text = str::from_utf8(bytes).map_err(|_| FieldError::Form)?;
        let mut fields: Vec<(&str, &str)> = Vec::new();
        for line in text.split_inclusive('\n') {
            let line = line.strip_suffix('\n').ok_or(FieldError::Form)?;
            let (name, value) = line.split_once('=').ok_or(FieldError::Form)?;
            if name.is_empty()
                || !name
                    .bytes()
                    .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            {
                return Err(FieldError::Form);
            }
            if fields.iter().any(|(earlier, _)| *earlier == name) {
                return Err(FieldError::Twice(name.to_owned()));
            }
            fields.push((name, value));
        }
        Ok(Fields(fields))
    }

    /// The value of `name`, if it is there.
    pub fn value(&self, name: &str) -> Option<&'a str> {
        self.0
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| *value)
    }

    /// The value of `name`, which must be there.
    ///
    /// # Errors
    /// [`FieldError::Missing`].
    pub fn required(&self, name: &'static str) -> Result<&'a str, FieldError> {
        self.value(name).ok_or(FieldError::Missing(name))
    }

    /// The comma-separated items of `name`; none if it is empty or missing.
    pub fn list(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.value(name)
            .unwrap_or_default()
            .split(',')
            .filter(|item| !item.is_empty())
    }

    /// The number that `name` holds in decimal digits, if it is there. One number has one spelling:
    /// no sign, and no zero before other digits.
    ///
    /// # Errors
    /// [`FieldError::Value`].
    pub fn number(&self, name: &'static str) -> Result<Option<u64>, FieldError> {
        let Some(text) = self.value(name) else {
            return Ok(None);
        };
        let is_digits = text.bytes().all(|c| c.is_ascii_digit());
        let is_shortest = text == "0" || !text.starts_with('0');
        match text.parse() {
            Ok(number) if is_digits && is_shortest => Ok(Some(number)),
            _ => Err(FieldError::Value(name)),
        }
    }

    /// The 32 bytes that `name` holds as 64 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// [`FieldError::Missing`] or [`FieldError::Value`].
    pub fn hex32(&self, name: &'static str) -> Result<[u8; 32], FieldError> {
        let text = self.required(name)?.as_bytes();
        if text.len() != 64 {
            return Err(FieldError::Value(name));
        }
        let mut bytes = [0; 32];
        let mut all = 0;
        for (byte, [high, low]) in bytes.iter_mut().zip(text.as_chunks().0) {
            let (high, low) = (hex_digit(*high), hex_digit(*low));
            all |= high | low;
            *byte = high << 4 | low;
        }
        match all {
            ..16 => Ok(bytes),
            _ => Err(FieldError::Value(name)),
        }
    }
}

/// The value of a lower-case hexadecimal digit, or 255. A ratcheted key's secret is written so:
/// as in base64url, each digit is computed without a look-up, and none ends the reading early.
fn hex_digit(character: u8) -> u8 {
    let range = |first: u8, last: u8, value: u8| {
        let offset = character.wrapping_sub(first);
        // Stored plus one, so that 0 can mean "not in this range".
        if offset <= last - first {
            offset + value + 1
        } else {
            0
        }
    };
    (range(b'0', b'9', 0) | range(b'a', b'f', 10)).wrapping_sub(1)
}

/// The lower-case hexadecimal digit of a value 0..=15.
fn hex_character(digit: u8) -> u8 {
    let letter = if digit > 9 { b'a' - b'9' - 1 } else { 0 };
    b'0' + digit + letter
}

/// 32 bytes as 64 hexadecimal digits.
pub fn hex(bytes: &[u8; 32]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let mut text = String::with_capacity(64); // growing would leave a copy behind
    text.extend(digits.map(|digit| char::from(hex_character(digit))));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_fields_are_read_back() {
        let mut text = String::new();
        write(&mut text, "role", "client");
        write(&mut text, "software", "x y\n=\u{e9}");
        write(&mut text, "empty", "");
        assert_eq!(text, "role=client\nsoftware=x y?=?\nempty=\n");
        let fields = Fields::parse(text.as_bytes()).unwrap();
        assert_eq!(fields.required("role"), Ok("client"));
        assert_eq!(fields.value("software"), Some("x y?=?"));
        assert_eq!(fields.list("empty").count(), 0);
        assert_eq!(fields.required("nonce"), Err(FieldError::Missing("nonce")));
        assert!(Fields::parse(b"").unwrap().value("role").is_none());
    }

    #[test]
    fn forms_that_are_refused() {
        for bad in [
            &b"role"[..],
            b"role=client",
            b"=x\n",
            b"Role=x\n",
            b"a=\x00\n",
            b"a=\xe9\n",
            b"a=b\r\n",
            b"\n",
        ] {
            assert_eq!(Fields::parse(bad).err(), Some(FieldError::Form), "{bad:?}");
        }
        assert_eq!(
            Fields::parse(b"a=1\nb=2\na=1\n").err(),
            Some(FieldError::Twice("a".into()))
        );
    }

    #[test]
    fn a_number_has_one_spelling() {
        let of = |value: &str| {
            let text = format!("step={value}\n");
            Fields::parse(text.as_bytes()).unwrap().number("step")
        };
        for (text, number) in [("0", 0), ("7", 7), ("18446744073709551615", u64::MAX)] {
            assert_eq!(of(text), Ok(Some(number)));
        }
        for bad in [
            "",
            "00",
            "07",
            "+7",
            "-7",
            " 7",
            "7 ",
            "0x7",
            "18446744073709551616",
        ] {
            assert_eq!(of(bad), Err(FieldError::Value("step")), "{bad:?}");
        }
        assert_eq!(Fields::parse(b"").unwrap().number("step"), Ok(None));
    }

    #[test]
    fn empty_items_of_a_list_do_not_count() {
        let items = |text: &'static [u8]| -> Vec<&str> {
            let fields = Fields::parse(text).unwrap();
            fields.list("x").collect()
        };
        assert_eq!(items(b"x=,a,,b,\n"), ["a", "b"]);
        assert!(items(b"x=,\n").is_empty() && items(b"x=\n").is_empty() && items(b"").is_empty());
    }

    #[test]
    fn hexadecimal_is_strict() {
        let of = |value: &str| {
            let text = format!("nonce={value}\n");
            Fields::parse(text.as_bytes()).unwrap().hex32("nonce")
        };
        let bytes: [u8; 32] = std::array::from_fn(|i| (i * 9) as u8);
        assert_eq!(of(&hex(&bytes)), Ok(bytes));
        for bad in [
            "",
            "00",
            &"0".repeat(63),
            &"0".repeat(65),
            &"0".repeat(66),
            &"A".repeat(64),
            &"g".repeat(64),
        ] {
            assert_eq!(of(bad), Err(FieldError::Value("nonce")), "{bad}");
        }
    }
}
