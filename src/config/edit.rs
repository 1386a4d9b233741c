//! How is a client added to the text of a configuration, or removed? All other bytes stay as they
//! are.
//!
//! ```text
//!
//!  # bob's old laptop         comments directly above a section belong to it, and go with it
//!  [peer]
//!  name = bob
//!  # until May                so do those inside, and directly below
//!
//!  # the office               this one stays
//! ```

use super::file::sections;

/// The text with one more section at its end.
pub fn with_section(text: &str, section: &str) -> String {
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let gap = if text.is_empty() || text.ends_with('\n') {
        end.into()
    } else {
        end.repeat(2)
    };
    format!("{text}{gap}{}", section.replace('\n', end))
}

/// The text without the `[peer]` of this name, or `None` if there is none.
pub fn without_peer(text: &str, name: &str) -> Option<String> {
    let peers = sections(text)
        .into_iter()
        .filter(|section| section.name == "peer");
    let is_named = |option: &super::file::Setting| option.name == "name" && &*option.value == name;
    let section = peers
        .into_iter()
        .find(|section| section.options.iter().any(is_named))?;
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let is_comment = |at: usize| {
        lines
            .get(at)
            .is_some_and(|line| line.trim_start().starts_with('#'))
    };
    let is_blank = |at: usize| lines.get(at).is_some_and(|line| line.trim().is_empty());
    let is_section = |at: usize| {
        lines
            .get(at)
            .is_some_and(|line| line.trim_start().starts_with('['))
    };
    // From `begin` up to, not including, `end`.
    let mut begin = section.line - 1;
    while begin > 0 && is_comment(begin - 1) {
        begin -= 1;
    }
    let last = section
        .options
        .last()
        .map_or(section.line, |option| option.line);
    let mut end = last;
    while is_comment(end) {
        end += 1;
    }
    if is_section(end) {
        end = last; // these comments belong to the next section
    }
    // One of the two blank lines goes too.
    if end == lines.len() && begin > 0 && is_blank(begin - 1) {
        begin -= 1;
    }
    while is_blank(end) {
        end += 1;
    }
    Some([&lines[..begin], &lines[end..]].concat().concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# ours\n[server]\nlisten = [::]:443   # both\n\n\
                        # alice\n# and hers\n[peer]\n  name=alice  # a\n\n\
                        # until May\nkey = x\n# was y\n\n# the office\n\n\
                        [peer]\nname = bob\n# for carol\n[peer]\nname = carol\n";

    #[test]
    fn what_is_added_and_removed_leaves_no_trace() {
        for text in [
            TEXT,
            "",
            "[server]\n",
            "\n\n",
            &TEXT.replace('\n', "\r\n"),
            "\u{feff}[server]\n\n",
        ] {
            let added = with_section(text, "[peer]\nname = dora\nkey = x\n");
            assert!(
                added.starts_with(text) && added.contains("dora"),
                "{added:?}"
            );
            assert_eq!(added.contains('\r'), text.contains('\r'));
            assert_eq!(without_peer(&added, "dora").as_deref(), Some(text));
        }
        assert_eq!(with_section("[server]", "[peer]\n"), "[server]\n\n[peer]\n");
        assert_eq!(without_peer(TEXT, "nobody"), None);
    }

    #[test]
    fn a_section_goes_with_its_own_comments_alone() {
        let without = |name| without_peer(TEXT, name).unwrap();
        let begin = "# ours\n[server]\nlisten = [::]:443   # both\n\n";
        let alice =
            "# alice\n# and hers\n[peer]\n  name=alice  # a\n\n# until May\nkey = x\n# was y\n\n";
        let bob = "[peer]\nname = bob\n";
        let carol = "# for carol\n[peer]\nname = carol\n";
        assert_eq!(
            without("alice"),
            format!("{begin}# the office\n\n{bob}{carol}")
        );
        assert_eq!(
            without("bob"),
            format!("{begin}{alice}# the office\n\n{carol}")
        );
        assert_eq!(
            without("carol"),
            format!("{begin}{alice}# the office\n\n{bob}")
        );
    }
}
