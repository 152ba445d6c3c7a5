//! Options of `run` and `exec` that need more than a parser.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::api::{Name, TaskNetwork};

/// What is asked for and can't be.
#[derive(Debug, thiserror::Error)]
pub(super) enum OptionError {
    #[error("{}: words of a command have to be UTF-8", .0.display())]
    Word(OsString),
    #[error("--env {0}: want KEY=VALUE, or KEY to pass this one's on")]
    Variable(String),
    #[error("--env-file {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("--env-file {}:{line}: want KEY=VALUE, or KEY to pass this one's on", path.display())]
    Line { path: PathBuf, line: usize },
    #[error("can't tell which directory this is: {0}")]
    Directory(io::Error),
}

/// The words of a command.
pub(super) fn words(words: Vec<OsString>) -> Result<Vec<String>, OptionError> {
    words.into_iter().map(|word| word.into_string().map_err(OptionError::Word)).collect()
}

/// Variables: those of files first, so that single ones win.
pub(super) fn variables(files: &[PathBuf], given: &[String]) -> Result<Vec<String>, OptionError> {
    let mut all = Vec::new();
    for path in files {
        let text =
            fs::read_to_string(path).map_err(|source| OptionError::File { path: path.clone(), source })?;
        for (line, text) in text.lines().enumerate() {
            let text = text.trim_start();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let variable = variable(text, |key| env::var(key).ok());
            all.extend(variable.ok_or_else(|| OptionError::Line { path: path.clone(), line: line + 1 })?);
        }
    }
    for text in given {
        let variable = variable(text, |key| env::var(key).ok());
        all.extend(variable.ok_or_else(|| OptionError::Variable(text.clone()))?);
    }
    Ok(all)
}

/// The outer none: makes no sense. The inner one: is to be passed on, but is not there.
#[expect(clippy::option_option, reason = "two kinds of nothing, told apart where it is called")]
fn variable(text: &str, own: impl FnOnce(&str) -> Option<String>) -> Option<Option<String>> {
    let key = text.split_once('=').map_or(text, |(key, _)| key);
    if key.is_empty() || key.contains(char::is_whitespace) {
        None
    } else if key.len() < text.len() {
        Some(Some(text.into()))
    } else {
        Some(own(key).map(|value| format!("{key}={value}")))
    }
}

/// A directory as the daemon understands it: this one without.
pub(super) fn directory(given: Option<&Path>) -> Result<PathBuf, OptionError> {
    match given {
        Some(given) => std::path::absolute(given).map_err(OptionError::Directory),
        None => env::current_dir().map_err(OptionError::Directory),
    }
}

/// A network with the options of a task's place in it; none for `none`, which is no network.
pub(super) fn network(text: &str) -> Result<Option<TaskNetwork>, String> {
    let mut parts = text.split(',');
    let first = parts.next().unwrap_or_default();
    let name = first.strip_prefix("name=").unwrap_or(first);
    if let Some(option) = parts.next() {
        return Err(format!("there is no option {option}"));
    }
    if name == "none" {
        return Ok(None);
    }
    let network: Name = name.parse().map_err(|error| format!("{name}: {error}"))?;
    Ok(Some(TaskNetwork { network }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_given_or_passed_on() {
        let own = |key: &str| (key == "HERE").then(|| "yes".to_owned());
        let of = |text| variable(text, own);
        assert_eq!(of("A=b=c"), Some(Some("A=b=c".into())));
        assert_eq!(of("A="), Some(Some("A=".into())));
        assert_eq!(of("HERE"), Some(Some("HERE=yes".into())));
        assert_eq!(of("GONE"), Some(None));
        assert_eq!([of("=b"), of(""), of("A B=c")], [None, None, None]);
    }

    #[test]
    fn networks_are_named() {
        assert_eq!(network("none"), Ok(None));
        assert_eq!(network("name=front").unwrap().unwrap().network.as_str(), "front");
        assert!(network("front,colour=red").is_err() && network("a b").is_err());
    }
}
