//! Which networks are meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::terms::every_key_is_met;
use super::{NetworkView, text};

/// Terms of a filter: more than anybody types.
pub const NETWORK_TERMS_MAX: usize = 64;

/// What Docker calls the only kind of network that there is here.
const DRIVER: &str = "overlay";
/// And its reach.
const SCOPE: &str = "swarm";

/// One condition on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkTerm {
    /// Its driver is this: all are `overlay`.
    Driver(String),
    /// Its id has this in it.
    Id(String),
    /// Its name has this in it.
    Name(String),
    /// It has this label; with this value, if one is given.
    Label(String, Option<String>),
    /// Its scope is this: all have `swarm`.
    Scope(String),
    /// Whether any node has endpoints in it.
    InUse(bool),
    /// It was made before this moment, in milliseconds since 1970.
    Until(u64),
}

/// Why a text is no condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkTermError {
    /// Not `KEY=VALUE` of these keys.
    #[error("want driver=, id=, name=, label=, scope=, in-use=, dangling=, type= or until=")]
    Key,
    /// Neither yes nor no.
    #[error("{0}: want true or false")]
    Truth(&'static str),
    /// No such kind.
    #[error("type: want custom or builtin")]
    Kind,
    /// Not a moment.
    #[error("until: want milliseconds since 1970")]
    Moment,
}

impl NetworkTerm {
    fn key(&self) -> &'static str {
        match self {
            Self::Driver(_) => "driver",
            Self::Id(_) => "id",
            Self::Name(_) => "name",
            Self::Label(..) => "label",
            Self::Scope(_) => "scope",
            Self::InUse(_) => "in-use",
            Self::Until(_) => "until",
        }
    }

    fn holds(&self, network: &NetworkView) -> bool {
        match self {
            Self::Driver(driver) => driver == DRIVER,
            Self::Id(id) => network.id.contains(id),
            Self::Name(name) => network.name.contains(name),
            Self::Label(key, value) => {
                let has = network.options.labels.get(key);
                has.is_some_and(|has| value.as_ref().is_none_or(|value| value == has))
            }
            Self::Scope(scope) => scope == SCOPE,
            Self::InUse(wanted) => (network.nodes > 0) == *wanted,
            Self::Until(ms) => network.created_ms < *ms,
        }
    }
}

fn truth(key: &'static str, text: &str) -> Result<bool, NetworkTermError> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(NetworkTermError::Truth(key)),
    }
}

impl FromStr for NetworkTerm {
    type Err = NetworkTermError;

    fn from_str(text: &str) -> Result<Self, NetworkTermError> {
        let (key, value) = text.split_once('=').ok_or(NetworkTermError::Key)?;
        match key {
            "driver" => Ok(Self::Driver(value.into())),
            "id" => Ok(Self::Id(value.into())),
            "name" => Ok(Self::Name(value.into())),
            "label" => Ok(match value.split_once('=') {
                Some((key, value)) => Self::Label(key.into(), Some(value.into())),
                None => Self::Label(value.into(), None),
            }),
            "scope" => Ok(Self::Scope(value.into())),
            "in-use" => truth("in-use", value).map(Self::InUse),
            // Docker's word for the contrary.
            "dangling" => truth("dangling", value).map(|dangling| Self::InUse(!dangling)),
            // None comes with the program, so this is all or nothing.
            "type" if value == "custom" => Ok(Self::Driver(DRIVER.into())),
            "type" if value == "builtin" => Ok(Self::Driver(String::new())),
            "type" => Err(NetworkTermError::Kind),
            "until" => value.parse().map(Self::Until).map_err(|_| NetworkTermError::Moment),
            _ => Err(NetworkTermError::Key),
        }
    }
}

impl fmt::Display for NetworkTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key();
        match self {
            Self::Driver(text) | Self::Id(text) | Self::Name(text) | Self::Scope(text) => {
                write!(f, "{key}={text}")
            }
            Self::Label(label, None) => write!(f, "{key}={label}"),
            Self::Label(label, Some(value)) => write!(f, "{key}={label}={value}"),
            Self::InUse(wanted) => write!(f, "{key}={wanted}"),
            Self::Until(ms) => write!(f, "{key}={ms}"),
        }
    }
}

/// Which networks are meant. As in Docker, terms of one key are alternatives, and each key must be met; but of labels
/// all must be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkFilter(pub Vec<NetworkTerm>);

impl NetworkFilter {
    /// Whether a network is.
    #[must_use]
    pub fn admits(&self, network: &NetworkView) -> bool {
        // Labels are no alternatives: each is a key of its own.
        every_key_is_met(
            &self.0,
            |term| (matches!(term, NetworkTerm::Label(..)).then_some(term), term.key()),
            |term| term.holds(network),
        )
    }
}

/// As a list of terms.
impl Serialize for NetworkFilter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(ToString::to_string))
    }
}

impl<'de> Deserialize<'de> for NetworkFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Term(#[serde(with = "text")] NetworkTerm);
        let terms = Vec::<Term>::deserialize(deserializer)?;
        if terms.len() > NETWORK_TERMS_MAX {
            return Err(serde::de::Error::custom(format!("a filter has at most {NETWORK_TERMS_MAX} terms")));
        }
        Ok(Self(terms.into_iter().map(|Term(term)| term).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::NetworkOptions;

    fn network(id: &str, name: &str, label: (&str, &str), nodes: usize) -> NetworkView {
        let labels = [(label.0.to_owned(), label.1.to_owned())].into();
        NetworkView {
            id: id.into(),
            name: name.into(),
            vni: 4096,
            subnets: Vec::new(),
            options: NetworkOptions { labels, ..NetworkOptions::default() },
            created_ms: 1_000,
            nodes,
            conflicts: Vec::new(),
        }
    }

    fn filtered(terms: &[&str]) -> Vec<&'static str> {
        let filter = NetworkFilter(terms.iter().map(|term| term.parse().unwrap()).collect());
        let networks = [
            ("0abc", "front", ("stage", "test"), 2),
            ("1xyz", "back", ("stage", ""), 0),
            ("2abc", "backup", ("a", ""), 1),
        ];
        let admitted = networks
            .into_iter()
            .filter(|&(id, name, label, nodes)| filter.admits(&network(id, name, label, nodes)));
        admitted.map(|(_, name, ..)| name).collect()
    }

    #[test]
    fn terms_are_dockers() {
        let all = ["front", "back", "backup"];
        for terms in [&[][..], &["driver=overlay"], &["scope=swarm"], &["type=custom"], &["until=1001"]] {
            assert_eq!(filtered(terms), all, "{terms:?}");
        }
        for term in ["driver=bridge", "scope=local", "type=builtin", "until=1000", "id=q"] {
            assert_eq!(filtered(&[term]), [""; 0], "{term}");
        }
        assert_eq!(filtered(&["id=abc"]), ["front", "backup"]);
        assert_eq!(filtered(&["name=back"]), ["back", "backup"]);
        assert_eq!(filtered(&["name=front", "name=up"]), ["front", "backup"]);
        assert_eq!(filtered(&["name=back", "in-use=true"]), ["backup"]);
        assert_eq!([filtered(&["dangling=true"]), filtered(&["in-use=0"])], [["back"], ["back"]]);
        assert_eq!(filtered(&["label=stage"]), ["front", "back"]);
        assert_eq!(filtered(&["label=stage=test"]), ["front"]);
        assert_eq!(filtered(&["label=stage", "label=a"]), [""; 0], "of labels all must be there");
    }

    #[test]
    fn filters_come_as_they_went() {
        let terms = [
            "driver=overlay",
            "id=0a",
            "name=a b",
            "label=a",
            "label=a=b=c",
            "label=a=",
            "scope=swarm",
            "in-use=false",
            "until=5",
        ];
        let filter = NetworkFilter(terms.iter().map(|term| term.parse().unwrap()).collect());
        let json = serde_json::to_string(&filter).unwrap();
        assert_eq!(json, serde_json::to_string(&terms).unwrap());
        assert_eq!(serde_json::from_str::<NetworkFilter>(&json).unwrap(), filter);
        let many = serde_json::to_string(&vec!["id=a"; NETWORK_TERMS_MAX + 1]).unwrap();
        assert!(serde_json::from_str::<NetworkFilter>(&many).is_err());
        for bad in ["", "label", "in-use=", "dangling=maybe", "type=any", "until=soon", "colour=red"] {
            assert!(bad.parse::<NetworkTerm>().is_err(), "{bad}");
        }
    }
}
