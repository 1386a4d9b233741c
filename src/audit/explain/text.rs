//! How does the lesson look on a terminal?
//!
//! ```text
//! offset bytes  field
//!      0     4  length            340: how many bytes follow … [3]
//!                                 00 00 01 54
//! ```

use super::{Derived, Lesson, Step, hex};
use std::fmt::Write;

/// Where names end and meanings begin.
const INDENT: usize = 32;

const BOLD: &str = "1";
const FAINT: &str = "2";
const RED: &str = "1;31";
const MARK: &str = "7";
/// The colours of fields, in turn.
const FIELDS: [&str; 6] = ["36", "33", "32", "35", "34", "96"];

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub struct Paint(pub bool);

impl Paint {
    fn with(self, colour: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// The whole lesson.
pub fn draw(lesson: &Lesson, paint: Paint) -> String {
    let mut out = String::new();
    for (number, chapter) in lesson.chapters.iter().enumerate() {
        out.push_str(if number > 0 { "\n\n" } else { "" });
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            out,
            "{}\n\n{}",
            paint.with(BOLD, &chapter.title.to_uppercase()),
            chapter.about
        );
        for (number, step) in (1..).zip(&chapter.steps) {
            draw_step(&mut out, number, step, paint);
        }
    }
    out
}

fn draw_step(out: &mut String, number: usize, step: &Step, paint: Paint) {
    let title = format!(
        "{number:>3}  {:<24}  {:<20}  PROTOCOL.md, section {}",
        step.name,
        step.way(),
        step.section
    );
    let _ = writeln!(out, "\n{}\n\n{}", paint.with(BOLD, &title), step.about);
    for layer in &step.layers {
        let _ = writeln!(
            out,
            "\n{}: {} bytes",
            paint.with(BOLD, layer.name),
            layer.bytes.len()
        );
        let _ = writeln!(out, "{}", paint.with(FAINT, "offset bytes  field"));
        let mut offset = 0;
        for (field, colour) in layer.fields.iter().zip(FIELDS.iter().cycle()) {
            let name = paint.with(
                colour,
                &format!("{:<width$}", field.name, width = INDENT - 14),
            );
            // A long text is drawn beside its bytes instead.
            let beside = field.value.len() > 60;
            let value = if beside || field.value.is_empty() {
                String::new()
            } else {
                format!("{}: ", field.value)
            };
            let meaning = paint.with(FAINT, &format!("{} [{}]", field.meaning, field.section));
            let _ = writeln!(
                out,
                "{offset:>6} {:>5}  {name}{value}{meaning}",
                field.length
            );
            let bytes = &layer.bytes[offset..offset + field.length];
            for (start, line) in (offset..).step_by(16).zip(bytes.chunks(16)) {
                let digits = (start..).zip(line).map(|(at, byte)| {
                    let colour = if layer.changed == Some(at) {
                        MARK
                    } else {
                        colour
                    };
                    paint.with(colour, &format!("{byte:02x} "))
                });
                let characters = if beside {
                    String::from_utf8_lossy(line).replace('\n', ".")
                } else {
                    String::new()
                };
                let digits = digits.collect::<String>()
                    + &"   ".repeat(if beside { 17 - line.len() } else { 0 });
                let _ = writeln!(
                    out,
                    "{}",
                    format!("{:INDENT$}{digits}{characters}", "").trim_end()
                );
            }
            offset += field.length;
        }
        if let Some(at) = layer.changed {
            let _ = writeln!(out, "{:INDENT$}byte {at} was changed", "");
        }
    }
    if !step.values.is_empty() {
        out.push('\n');
    }
    for value in &step.values {
        let _ = writeln!(
            out,
            "{}: {}",
            paint.with(BOLD, &value.python),
            paint.with(FAINT, value.meaning)
        );
        if let Some(Derived {
            key,
            salt,
            label,
            extract,
        }) = &value.derived
        {
            let _ = writeln!(
                out,
                "  = derive({key}, {salt}, \"{label}\", {})",
                value.bytes.len()
            );
            let _ = writeln!(
                out,
                "{:<INDENT$}{}",
                format!("  HMAC({salt}, {key})"),
                paint.with(FIELDS[3], &hex(extract))
            );
        }
        let _ = writeln!(
            out,
            "{:INDENT$}{}",
            "",
            paint.with(FIELDS[0], &hex(&value.bytes))
        );
    }
    if let Some(refusal) = &step.refusal {
        let _ = writeln!(out, "\n{}", paint.with(RED, &format!("REFUSED: {refusal}")));
    }
    if let Some(known) = step.known {
        out.push('\n');
        for (who, what) in ["client", "server", "a listener"]
            .into_iter()
            .zip(known)
            .filter(|(_, what)| *what != "-")
        {
            let _ = writeln!(out, "now {who} knows: {what}");
        }
    }
}
