//! What is typed and shown in a tutorial, and whether it still is so.
//!
//! A block of a tutorial that begins with ```` ```text ```` is a transcript if its first line is a command:
//!
//! ```text
//! node1$ COMMAND           typed at that host; what it shows follows
//! # COMMAND                typed in the shell that the last command of the host has started at a terminal
//! # ^P^Q                   leaves that shell
//! …                        any number of lines
//! word … word              any words
//! ```
//!
//! Ids, times and how columns are aligned differ from run to run, and are not compared.

use std::fmt::Write;
use std::mem;

/// A part of a tutorial.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Lines that are no transcript.
    Prose(String),
    /// A command, and what it is said to show.
    Step(Step),
}

/// A command of a transcript.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The number of the host that it is typed at, or none for the shell that is open.
    pub(crate) host: Option<usize>,
    /// The command.
    pub(crate) line: String,
    /// What it is said to show, with line ends.
    pub(crate) shown: String,
}

impl Step {
    /// As it is written.
    fn text(&self) -> String {
        let prompt = self.host.map_or_else(|| "# ".into(), |host| format!("node{host}$ "));
        format!("{prompt}{}\n{}", self.line, self.shown)
    }
}

/// Reads a tutorial. [`text`] gives it back.
pub(crate) fn parts(tutorial: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut prose = String::new();
    let (mut is_block, mut is_transcript) = (false, false);
    for line in tutorial.lines() {
        let fence = line.starts_with("```");
        if fence {
            (is_block, is_transcript) = (line == "```text" && !is_block, false);
        } else if is_block && let Some((host, command)) = command(line, is_transcript) {
            is_transcript = true;
            if !prose.is_empty() {
                parts.push(Part::Prose(mem::take(&mut prose)));
            }
            parts.push(Part::Step(Step { host, line: command.into(), shown: String::new() }));
            continue;
        }
        match parts.last_mut() {
            Some(Part::Step(step)) if is_transcript => writeln!(step.shown, "{line}"),
            _ => writeln!(prose, "{line}"),
        }
        .expect("a String takes everything");
    }
    parts.push(Part::Prose(prose));
    parts
}

/// The host and the command, if a line has one.
fn command(line: &str, inside: bool) -> Option<(Option<usize>, &str)> {
    if let Some(command) = line.strip_prefix("# ").filter(|_| inside) {
        return Some((None, command));
    }
    let (host, command) = line.strip_prefix("node")?.split_once("$ ")?;
    Some((Some(host.parse().ok()?), command))
}

/// A tutorial as it is written.
pub(crate) fn text(parts: &[Part]) -> String {
    let text = |part: &Part| match part {
        Part::Prose(prose) => prose.clone(),
        Part::Step(step) => step.text(),
    };
    parts.iter().map(text).collect()
}

/// Whether what is shown is what the tutorial says.
pub(crate) fn agrees(said: &str, shown: &str) -> bool {
    let lines = |text: &str| -> Vec<String> {
        text.lines().map(|line| words(line).join(" ")).filter(|line| !line.is_empty()).collect()
    };
    let (said, shown) = (lines(said), lines(shown));
    matches(
        &said,
        &shown,
        |line| line == "…",
        |said, shown| {
            let split = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
            matches(&split(said), &split(shown), |word| word == "…", |said, shown| said == shown)
        },
    )
}

/// Whether a list is as a pattern says, in which some elements stand for any number of elements.
fn matches(
    pattern: &[String],
    list: &[String],
    is_any: fn(&str) -> bool,
    same: impl Fn(&str, &str) -> bool + Copy,
) -> bool {
    match (pattern.split_first(), list.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if is_any(first) => {
            (0..=list.len()).any(|skipped| matches(rest, &list[skipped..], is_any, same))
        }
        (Some((first, rest)), Some((own, others))) => same(first, own) && matches(rest, others, is_any, same),
        _ => false,
    }
}

/// The words of a line, without what differs from run to run.
fn words(line: &str) -> Vec<String> {
    let all: Vec<&str> = line.split_whitespace().collect();
    let is_time = |at: usize| {
        let unit = all.get(at + 1).is_some_and(|unit| ["s", "ms", "min", "d", "h"].contains(unit));
        let after_time = at > 0 && all[at - 1] == "time";
        unit || after_time || all[at].starts_with("time=") || at == 0 && is_number_of_a_link(all[at])
    };
    let word = |(at, word): (usize, &&str)| {
        let masked = is_time(at) || is_moment(word) || word.starts_with("VSWTKN-");
        if masked {
            word.split(|c: char| c.is_ascii_digit()).next().unwrap_or_default().into()
        } else {
            without_ids(word)
        }
    };
    all.iter().enumerate().map(word).collect()
}

/// As `ip` has it before the link's name.
fn is_number_of_a_link(word: &str) -> bool {
    word.strip_suffix(':').is_some_and(|number| number.parse::<u32>().is_ok())
}

/// A date with a time, as in JSON.
fn is_moment(word: &str) -> bool {
    let digits = word.trim_matches(['"', ',']);
    digits.len() == 24 && digits.ends_with('Z') && digits.as_bytes()[10] == b'T'
}

/// A word in which each run of letters and digits of an id's length is one word. A few others of that length are so, too.
fn without_ids(word: &str) -> String {
    let is_other = |c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit();
    let mut out = String::new();
    for run in word.split_inclusive(is_other) {
        let own = run.trim_end_matches(is_other);
        out += if matches!(own.len(), 12 | 25) { "ID" } else { own };
        out += &run[own.len()..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUTORIAL: &str = "\
Some words.

```sh
node1$ not a transcript
```
```text
node2$ vswitchd run -it x
# ls
a
# ^P^Q
```

More.
```text
just a picture
```
";

    #[test]
    fn a_tutorial_is_taken_apart_and_put_together() {
        let parts = parts(TUTORIAL);
        assert_eq!(text(&parts), TUTORIAL);
        let steps: Vec<_> = parts
            .iter()
            .filter_map(|part| match part {
                Part::Step(step) => Some((step.host, step.line.as_str(), step.shown.as_str())),
                Part::Prose(_) => None,
            })
            .collect();
        assert_eq!(steps, [(Some(2), "vswitchd run -it x", ""), (None, "ls", "a\n"), (None, "^P^Q", "")]);
    }

    #[test]
    fn what_differs_by_chance_agrees() {
        for (said, shown) in [
            ("034w9kii281iv002k754rvpn0", "7w6i58mnrgzvqodnryymj4gwc"),
            ("034w9kii281i  test-net  overlay", "ccszphfnrugi   test-net overlay"),
            ("time=1.03 ms", "time=0.241 ms"),
            ("0% packet loss, time 1002ms", "0% packet loss, time 0ms"),
            ("Up 3 s", "Up 12 s"),
            ("3: eth0: <UP> mtu 1450 …", "17: eth0: <UP> mtu 1450 qdisc mq"),
            ("\"Created\": \"2026-11-21T16:28:17.771Z\",", "\"Created\": \"2027-01-01T00:00:00.000Z\","),
            ("a\n…\nd", "a\nb\nc\nd"),
            ("a\n…", "a"),
            ("rtt … ms", "rtt min/avg/max/mdev = 0.241/0.634/1.028/0.393 ms"),
            ("x (034w9kii281iv002k754rvpn0)", "x (7w6i58mnrgzvqodnryymj4gwc)"),
        ] {
            assert!(agrees(said, shown), "{said} / {shown}");
        }
    }

    #[test]
    fn what_is_different_does_not() {
        for (said, shown) in [
            ("a", ""),
            ("", "a"),
            ("a\nb", "a"),
            ("10.0.1.2", "10.0.1.3"),
            ("test-net", "test-nets"),
            ("NODES 1", "NODES 2"),
            ("3: eth0: mtu 1450 …", "3: eth0: mtu 1420 qdisc mq"),
            ("    \"Used\": 1,", "    \"Used\": 2,"),
            ("1 received, 0% packet loss, time 0ms", "0 received, 100% packet loss, time 0ms"),
            ("from a.b (10.0.1.2): ttl=64 time=1.0 ms", "from a.b (10.0.1.3): ttl=64 time=1.0 ms"),
            ("a\n…\nd", "a\nb\nc"),
            ("034w9kii281iv002k754rvpn0", "alpine2"),
        ] {
            assert!(!agrees(said, shown), "{said} / {shown}");
        }
    }
}
