//! How does the lesson look in a browser? It is one page that loads nothing: style, script and
//! pictures are inside.
//!
//! ```text
//!  lesson.html     the frame around it, with what a reader needs to know first
//!  lesson.css      how it looks: dark, light, narrow, wide, printed
//!  lesson.js       points from bytes to fields and back, copies, opens and closes
//!  lesson.py       the functions that the Python lines use
//! ```
//!
//! The page works without the script: steps are `<details>`, and bytes and fields link to each
//! other.

use super::{Chapter, Derived, Layer, Lesson, Step, Value, hex};
use std::fmt::Write;

/// The page.
pub fn page(lesson: &Lesson) -> String {
    let mut contents = String::new();
    let mut chapters = String::new();
    for (number, chapter) in lesson.chapters.iter().enumerate() {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            contents,
            "<li><a href=\"#{}\">{}</a></li>",
            chapter.id,
            escaped(&chapter.title)
        );
        draw_chapter(&mut chapters, number, chapter);
    }
    let whose = match &lesson.seed {
        Some(name) => {
            let name = escaped(name);
            format!("All keys and random bytes on this page are derived from the name “{name}”.")
        }
        None => {
            "All keys and random bytes on this page count up, as in <code>tests/vectors/</code>."
                .into()
        }
    };
    let mut page = include_str!("lesson.html").to_owned();
    for (mark, text) in [
        ("/*style*/", include_str!("lesson.css")),
        ("/*script*/", include_str!("lesson.js")),
        (
            "<!--functions-->",
            &python("functions", include_str!("lesson.py")),
        ),
        ("<!--whose-->", &whose),
        ("<!--contents-->", &contents),
        ("<!--chapters-->", &chapters),
    ] {
        page = page.replacen(mark, text, 1);
    }
    page
}

fn draw_chapter(out: &mut String, number: usize, chapter: &Chapter) {
    let _ = writeln!(
        out,
        "<section class=\"chapter\" id=\"{}\">\n<h2>{}</h2>\n<p class=\"about\">{}</p>",
        chapter.id,
        escaped(&chapter.title),
        escaped(chapter.about)
    );
    for (step_number, step) in (1..).zip(&chapter.steps) {
        draw_step(out, &format!("c{number}s{step_number}"), step_number, step);
    }
    out.push_str("</section>\n");
}

fn draw_step(out: &mut String, id: &str, number: usize, step: &Step) {
    let size = step.layers.first().map_or(String::new(), |layer| {
        format!("{} bytes", layer.bytes.len())
    });
    let kind = if step.refusal.is_some() {
        "refused"
    } else {
        step.by
    };
    let _ = writeln!(
        out,
        "<details class=\"step {kind}\" id=\"{id}\">\n\
         <summary><span class=\"number\">{number}</span> <h3>{}</h3> \
         <span class=\"way\">{}</span> <span class=\"size\">{size}</span></summary>\n\
         <p class=\"about\">{} {}</p>",
        escaped(step.name),
        step.way(),
        escaped(step.about),
        section(step.section)
    );
    for (n, layer) in step.layers.iter().enumerate() {
        draw_layer(out, &format!("{id}l{n}"), layer);
    }
    for value in &step.values {
        draw_value(out, value);
    }
    if let Some(refusal) = &step.refusal {
        let _ = writeln!(
            out,
            "<p class=\"refusal\"><strong>Refused:</strong> {}</p>",
            escaped(refusal)
        );
    }
    if !step.python.is_empty() {
        out.push_str(&python(id, &step.python));
    }
    if let Some(known) = step.known {
        out.push_str("<dl class=\"known\">\n");
        for (who, what) in ["The client", "The server", "Somebody who listens"]
            .into_iter()
            .zip(known)
        {
            let what = if what == "-" { "nothing new" } else { what };
            let _ = writeln!(
                out,
                "<div><dt>{who} now knows</dt><dd>{}</dd></div>",
                escaped(what).replace('`', "")
            );
        }
        out.push_str("</dl>\n");
    }
    out.push_str("</details>\n");
}

fn draw_layer(out: &mut String, id: &str, layer: &Layer) {
    let mut bytes = String::new();
    let mut fields = String::new();
    let mut offset = 0;
    for (n, field) in layer.fields.iter().enumerate() {
        let colour = n % 6;
        let last = offset + field.length - 1;
        let digits = (offset..=last).map(|at| match layer.changed {
            Some(changed) if changed == at => format!("<mark>{:02x}</mark>", layer.bytes[at]),
            _ => format!("{:02x}", layer.bytes[at]),
        });
        let digits = digits.collect::<Vec<_>>().join(" ");
        let _ = write!(
            bytes,
            "<a id=\"{id}b{n}\" href=\"#{id}f{n}\" class=\"f{colour}\">{digits}</a> "
        );
        let place = if field.length == 1 {
            offset.to_string()
        } else {
            format!("{offset}–{last}")
        };
        let _ = writeln!(
            fields,
            "<li id=\"{id}f{n}\" class=\"f{colour}\"><a href=\"#{id}b{n}\">{}</a> \
             <span class=\"place\">{place}</span> \
             <span class=\"value\">{}</span> <span class=\"meaning\">{} {}</span></li>",
            escaped(&field.name),
            escaped(&field.value),
            escaped(field.meaning),
            section(field.section)
        );
        offset += field.length;
    }
    let _ = writeln!(
        out,
        "<div class=\"layer\">\n<h4>{} <span class=\"size\">{offset} bytes</span></h4>\n\
         <p class=\"bytes\" data-python=\"{}\">{}</p>\n\
         <ol class=\"fields\">\n{fields}</ol>\n</div>",
        layer.name,
        escaped(&layer.python),
        bytes.trim_end()
    );
}

fn draw_value(out: &mut String, value: &Value) {
    let _ = writeln!(
        out,
        "<div class=\"value-of\">\n<h4>{} <span class=\"meaning\">{}</span></h4>",
        escaped(&value.python),
        escaped(value.meaning)
    );
    if let Some(Derived {
        key,
        salt,
        label,
        extract,
    }) = &value.derived
    {
        let python = escaped(salt);
        let salt = match salt.as_str() {
            "b\"\"" => "no salt",
            other => other,
        };
        let _ = writeln!(
            out,
            "<p class=\"drawn\"><span class=\"in\">{key}</span><span class=\"in\">{salt}</span>\
             <span class=\"hmac\">HMAC</span>\
             <code class=\"extract\" data-python=\"mac({python}, {key})\">{}</code></p>\n\
             <p class=\"drawn\"><span class=\"in\">fernvpn 1 {label}</span>\
             <span class=\"in\">01</span>\
             <span class=\"hmac\">HMAC</span>",
            hex(extract)
        );
    } else {
        out.push_str("<p class=\"drawn\">");
    }
    let python = escaped(&value.python);
    let bytes = hex(&value.bytes);
    let _ = writeln!(
        out,
        "<code class=\"result\" data-python=\"{python}\">{bytes}</code></p>\n</div>"
    );
}

/// Lines to copy.
fn python(id: &str, lines: &str) -> String {
    format!(
        "<div class=\"python\" data-id=\"{id}\"><pre tabindex=\"0\"><code>{}</code></pre></div>\n",
        escaped(lines)
    )
}

/// Where it is specified.
fn section(name: &str) -> String {
    let number = name.starts_with(|c: char| c.is_ascii_digit());
    format!(
        "<cite>{}{}</cite>",
        if number { "PROTOCOL.md " } else { "" },
        escaped(name)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
