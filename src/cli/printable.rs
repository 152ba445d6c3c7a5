//! Text that others chose, made harmless for a terminal.
//!
//! Names come from other nodes, and a hostile one could hold what moves a cursor, sets a title, answers for the user,
//! or turns the reading direction around (ECMA-48 §5.3, Unicode Bidirectional Algorithm §2). Everything that is
//! printed for people goes through [`printable`], tables by themselves; JSON goes through [`json`].

use std::fmt::Write;

use serde::Serialize;

/// Whether a terminal may get it as it is: no control (C0, DEL, C1), nothing invisible, and nothing that changes the
/// direction or the line.
fn is_harmless(c: char) -> bool {
    let hidden = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !c.is_control() && !hidden
}

/// The same with `\u{1b}` and the like for what is not harmless.
pub(super) fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if is_harmless(c) {
            out.push(c);
        } else {
            out.extend(c.escape_unicode());
        }
        out
    })
}

/// At most `max` characters, the last one `…` if some are left out. Of a text that is [`printable`] already.
pub(super) fn shorten(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.into();
    }
    text.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

/// A document in one line, with a line end. What is not harmless is escaped, which JSON allows within strings, where
/// alone it can be (RFC 8259 §7).
pub(super) fn json(document: &impl Serialize) -> String {
    escape(&serde_json::to_string(document).expect("answers are plain structs"))
}

/// The same over many lines.
pub(super) fn json_pretty(document: &impl Serialize) -> String {
    escape(&serde_json::to_string_pretty(document).expect("answers are plain structs"))
}

fn escape(document: &str) -> String {
    let mut out = String::with_capacity(document.len() + 1);
    for c in document.chars() {
        if is_harmless(c) || c == '\n' {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            write!(out, "\\u{unit:04x}").expect("a String takes everything");
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clears the screen in three ways, sets the title, turns the direction around, hides.
    pub(super) const HOSTILE: &str = "a\u{1b}[2J\u{9b}2J\u{1b}]0;x\u{7}\r\n\u{202e}b\u{200b}\u{e0041}";

    #[test]
    fn nothing_hostile_is_left() {
        let shown = printable(HOSTILE);
        assert!(shown.chars().all(|c| c.is_ascii() && !c.is_ascii_control()), "{shown}");
        assert!(shown.starts_with("a\\u{1b}[2J\\u{9b}2J"), "{shown}");
        assert_eq!(printable("zürich 東京"), "zürich 東京");
    }

    #[test]
    fn json_says_the_same() {
        let document = json(&[HOSTILE]);
        assert!(document.strip_suffix('\n').unwrap().chars().all(|c| c.is_ascii() && !c.is_ascii_control()));
        assert_eq!(serde_json::from_str::<[String; 1]>(&document).unwrap(), [HOSTILE]);
        assert_eq!(serde_json::from_str::<[String; 1]>(&json_pretty(&[HOSTILE])).unwrap(), [HOSTILE]);
    }

    #[test]
    fn long_texts_say_that_they_are_cut() {
        assert_eq!([shorten("abc", 3), shorten("abcd", 3), shorten("äöüß", 3)], ["abc", "ab…", "äö…"]);
    }
}
