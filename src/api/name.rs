//! Names: of nodes, networks and endpoints.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::text;

/// Characters of a name: a DNS label's (RFC 1035 §2.3.4).
pub const NAME_MAX: usize = 63;

/// A name, or an id, or the beginning of one: 1 to [`NAME_MAX`] letters, digits, `-`, `_` and `.`. A URL's path and
/// query hold these as they are (RFC 3986 §2.3), and a terminal prints them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// A text that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("want 1 to {NAME_MAX} letters, digits, '-', '_' or '.'")]
pub struct NameError;

impl Name {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let good = (1..=NAME_MAX).contains(&text.len()) && text.chars().all(fits);
        if good { Ok(Self(text.into())) } else { Err(NameError) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_paths_and_terminals_can_hold() {
        for good in ["a", "web-1", "A_b.c", "0", &"x".repeat(63)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "a?b", "a%41", "zürich", "\u{1b}[2J", "a\n", &"x".repeat(64)] {
            assert_eq!(bad.parse::<Name>(), Err(NameError), "{bad:?}");
        }
        assert!(serde_json::from_str::<Name>(r#""a/b""#).is_err());
    }
}
