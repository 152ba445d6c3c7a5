//! Options of `run` and `exec` that need more than a parser.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::api::TaskNetwork;

/// What is asked for and can't be.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum OptionError {
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
pub(in crate::cli) fn words(words: Vec<OsString>) -> Result<Vec<String>, OptionError> {
    words.into_iter().map(|word| word.into_string().map_err(OptionError::Word)).collect()
}

/// Variables: those of files first, so that single ones win.
pub(in crate::cli) fn variables(files: &[PathBuf], given: &[String]) -> Result<Vec<String>, OptionError> {
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

/// A network with what a task wants in it: `NETWORK[,alias=NAME][,ip=ADDRESS][,mac=MAC]`, or as Docker has it with
/// `name=NETWORK`. None for `none`, which is no network.
pub(super) fn network(text: &str) -> Result<Option<TaskNetwork>, String> {
    let mut parts = text.split(',');
    let first = parts.next().unwrap_or_default();
    let name = first.strip_prefix("name=").unwrap_or(first);
    let wrong = |key: &str, value: &str, error: &dyn std::fmt::Display| format!("{key}={value}: {error}");
    let network = name.parse().map_err(|error| wrong("name", name, &error))?;
    let mut wanted = TaskNetwork { network, ip: Vec::new(), mac: None, aliases: Vec::new() };
    let mut any = false;
    for part in parts {
        any = true;
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key {
            "alias" => wanted.aliases.push(value.parse().map_err(|error| wrong(key, value, &error))?),
            "ip" | "ip6" => wanted.ip.push(value.parse().map_err(|error| wrong(key, value, &error))?),
            "mac" | "mac-address" if wanted.mac.is_none() => {
                wanted.mac = Some(value.parse().map_err(|error| wrong(key, value, &error))?);
            }
            "mac" | "mac-address" => return Err("an interface has one MAC address".into()),
            _ => return Err(format!("{part}: want alias=, ip= or mac=")),
        }
    }
    match (name, any) {
        ("none", true) => Err("none is no network: it has no addresses and no names".into()),
        ("none", false) => Ok(None),
        _ => Ok(Some(wanted)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::api::Name;

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
    fn networks_come_with_what_is_wanted_in_them() {
        assert_eq!(network("none"), Ok(None));
        assert_eq!(network("name=front").unwrap().unwrap().network.as_str(), "front");
        let wanted = network("front,alias=www,ip=10.0.9.7,ip=fd00::7,mac=02:42:0a:00:09:07,alias=web");
        let wanted = wanted.unwrap().unwrap();
        assert_eq!(wanted.ip, ["10.0.9.7".parse::<IpAddr>().unwrap(), "fd00::7".parse().unwrap()]);
        assert_eq!(wanted.aliases, ["www".parse::<Name>().unwrap(), "web".parse().unwrap()]);
        assert_eq!(wanted.mac.unwrap().to_string(), "02:42:0a:00:09:07");
        for (text, reason) in [
            ("front,colour=red", "want alias="),
            ("front,", "want alias="),
            ("a b", "letters"),
            ("front,ip=10.0.9", "ip=10.0.9"),
            ("front,mac=02:42", "mac=02:42"),
            ("front,mac=02:42:0a:00:09:07,mac=02:42:0a:00:09:08", "one MAC"),
            ("none,alias=x", "no network"),
        ] {
            assert!(network(text).unwrap_err().contains(reason), "{text}");
        }
    }
}
