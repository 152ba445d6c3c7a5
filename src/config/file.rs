//! The file: TOML with the keys of [`Key`] at its top level, all of them strings.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::Origin;
use super::key::Key;
use super::resolve::{ConfigError, Reason};

/// Bytes of a configuration file: a hundred times what all keys take.
pub(super) const FILE_MAX: u64 = 64 * 1024;

/// The values of a file, with the line of each.
///
/// # Errors
/// The first line that is no TOML, no key, or no string.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<(Key, String, Origin)>, ConfigError> {
    let origin = |at: usize| Origin::File { path: path.into(), line: line_of(text, at) };
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let reason = Reason::Syntax(error.message().lines().collect::<Vec<_>>().join("; "));
        ConfigError { origin: origin(at), key: None, reason }
    })?;
    let mut values = Vec::new();
    for (name, value) in table.get_ref() {
        let origin = origin(name.span().start);
        let Some(key) = Key::ALL.into_iter().find(|key| key.name() == name.get_ref().as_ref()) else {
            let reason = Reason::UnknownKey(name.get_ref().as_ref().into());
            return Err(ConfigError { origin, key: None, reason });
        };
        let DeValue::String(value) = value.get_ref() else {
            let reason = Reason::NoString(value.get_ref().type_str());
            return Err(ConfigError { origin, key: Some(key.name()), reason });
        };
        values.push((key, value.to_string(), origin));
    }
    Ok(values)
}

/// The line, from 1, that a byte is in.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count()
}
