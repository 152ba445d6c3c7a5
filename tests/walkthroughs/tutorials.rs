//! The tutorials, line by line: what they say is typed is typed, and what they say is shown must be.
//!
//! With `UPDATE_TUTORIALS=1` what is shown now is written into them, where it is something else.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result, ensure};

use crate::site::{Site, can_run};
use crate::transcript::{Part, Step, agrees, parts, text};
use crate::typist::Typist;

/// How long what one host has done may take until another has heard of it, where this machine's cores are busy.
const PATIENCE: Duration = Duration::from_secs(5);
/// Hosts of a tutorial.
const HOSTS: usize = 3;
/// What `busybox wget` says until the other hosts have heard of a service, whose tasks listen: nobody is at its port, or
/// its name is nobody's.
const UNHEARD_OF: &[&str] = &["wget: can't connect to remote host", "wget: bad address"];
/// What it says of a program started by hand that does not listen yet.
const NOT_LISTENING: &[&str] = &["Connection reset by peer"];
/// The prompt of a shell that is a task.
const PROMPT: &str = "# ";

/// Somebody who does what a tutorial says.
struct Reader {
    site: Site,
    /// A shell that has been started and not been left.
    shell: Option<Typist>,
    /// The last join token that was shown.
    token: String,
    /// What the next `wget` may say and be typed again, of what was made since the last one.
    not_yet: &'static [&'static str],
}

fn follow(name: &str) -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tutorials").join(name).with_extension("md");
    // A copy of this program may be run elsewhere; the texts are those that it was built with.
    let mut tutorial = parts(match name {
        "services" => include_str!("../../docs/tutorials/services.md"),
        "user-defined-network" => include_str!("../../docs/tutorials/user-defined-network.md"),
        "stand-alone-programs" => include_str!("../../docs/tutorials/stand-alone-programs.md"),
        "managing-networks" => include_str!("../../docs/tutorials/managing-networks.md"),
        _ => include_str!("../../docs/tutorials/recipes.md"),
    });
    let site = Site::bare(name, HOSTS)?;
    let mut reader = Reader { site, shell: None, token: String::new(), not_yet: &[] };
    let mut wrong = Vec::new();
    let steps = tutorial.iter_mut().filter_map(|part| match part {
        Part::Step(step) => Some(step),
        Part::Prose(_) => None,
    });
    for step in steps {
        let shown = reader.go(step).with_context(|| step.line.clone())?;
        if !agrees(&step.shown, &shown) {
            wrong.push(format!("{}\nsaid:\n{}\nshown:\n{shown}", step.line, step.shown));
            step.shown = shown;
        }
    }
    ensure!(reader.shell.is_none(), "it ends in a shell");
    reader.site.end()?;
    write(&path, &tutorial, &wrong)
}

fn write(path: &PathBuf, tutorial: &[Part], wrong: &[String]) -> Result<()> {
    if wrong.is_empty() {
        return Ok(());
    }
    ensure!(env::var_os("UPDATE_TUTORIALS").is_some(), "{}: {}", path.display(), wrong.join("\n\n"));
    fs::write(path, text(tutorial)).with_context(|| path.display().to_string())
}

/// Whether a command asks a server for a page.
fn fetches(line: &str) -> bool {
    line.contains("busybox wget ")
}

/// Whether a reader who does not see what is to be seen may type it again. Who fetches a page may only if it has said one of
/// `not_yet`.
fn bears_repeating(line: &str, shown: &str, not_yet: &[&str]) -> bool {
    let network = shown.starts_with("vswitchd: network ") && shown.contains(" is in use by ")
        || shown.starts_with("vswitchd: there is no network ");
    if fetches(line) {
        return network || not_yet.iter().any(|words| shown.contains(words));
    }
    let looks = [
        "network ls",
        "network inspect",
        "service ls",
        "service ps",
        "service inspect",
        "node ls",
        "status",
        "ps",
        "exec",
        "run --rm",
    ];
    let looks = looks.iter().any(|words| line.starts_with(&format!("vswitchd {words}")));
    looks || network || line.contains("vswitchd exec ")
}

impl Reader {
    /// Does a step, again if other hosts may not yet have heard of the ones before; gives what is shown at last.
    fn go(&mut self, step: &Step) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = self.take(step)?;
            let again = !agrees(&step.shown, &shown) && bears_repeating(&step.line, &shown, self.not_yet);
            if !again || Instant::now() >= deadline {
                self.note(&step.line);
                return Ok(shown);
            }
        }
    }

    /// Remembers what may not be there for everybody yet: it is, once somebody has fetched a page.
    fn note(&mut self, line: &str) {
        if line.starts_with("vswitchd service create ") {
            self.not_yet = UNHEARD_OF;
        } else if line.starts_with("vswitchd run -d ") {
            self.not_yet = NOT_LISTENING;
        } else if fetches(line) {
            self.not_yet = &[];
        }
    }

    /// Types a command; gives what is shown until the next one can be typed.
    fn take(&mut self, step: &Step) -> Result<String> {
        let Some(host) = step.host else { return self.type_in(&step.line) };
        ensure!(self.shell.is_none(), "a shell is still open");
        let line = self.with_token(&step.line);
        if line.starts_with("vswitchd run -it ") || line.starts_with("vswitchd attach ") {
            let mut shell = self.site.sit_down(host, &line)?;
            if line.starts_with("vswitchd run") {
                shell.see(PROMPT)?;
            }
            self.shell = Some(shell);
            return Ok(String::new());
        }
        // As at a terminal, what goes to standard output and standard error is seen in order.
        let output = self.site.run(host, &format!("exec 2>&1; {line}"))?;
        let shown = String::from_utf8(output.stdout)?;
        if let Some(token) = shown.split_whitespace().find(|word| word.starts_with("VSWTKN-")) {
            self.token = token.into();
        }
        Ok(shown)
    }

    /// The command, with the token in the place of what stands for it.
    fn with_token(&self, line: &str) -> String {
        let word = |word| if str::starts_with(word, "VSWTKN-") { self.token.as_str() } else { word };
        line.split(' ').map(word).collect::<Vec<_>>().join(" ")
    }

    fn type_in(&mut self, line: &str) -> Result<String> {
        let mut shell = self.shell.take().context("no shell is open")?;
        match line {
            "^P^Q" => shell.type_in("\x10\x11")?,
            "exit" => shell.type_in("exit\n")?,
            line => {
                let shown = shell.ask(line, &format!("\r\n{PROMPT}"))?;
                self.shell = Some(shell);
                // What is typed is echoed.
                let shown = shown.strip_prefix(line).unwrap_or(&shown).replace('\r', "");
                return Ok(format!("{}\n", shown.trim_start_matches('\n')));
            }
        }
        ensure!(shell.end()? == Some(0), "{line}");
        Ok(String::new())
    }
}

#[test]
fn services() -> Result<()> {
    follow("services")
}

#[test]
fn user_defined_network() -> Result<()> {
    follow("user-defined-network")
}

#[test]
fn stand_alone_programs() -> Result<()> {
    follow("stand-alone-programs")
}

#[test]
fn managing_networks() -> Result<()> {
    follow("managing-networks")
}

#[test]
fn recipes() -> Result<()> {
    follow("recipes")
}
