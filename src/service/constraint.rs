//! On which nodes a service's tasks may run: `node.role==worker`, `node.labels.disk!=ssd`.
//!
//! Names and meaning are Docker's: values are compared without regard to case, and a label that a node has not is as an
//! empty one.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::api::text;
use crate::api::{LABEL_KEY_MAX, LABEL_VALUE_MAX};
use crate::crypto::identity::Role;

/// What a constraint asks about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Id,
    Hostname,
    Role,
    Label(String),
}

/// One condition on nodes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Constraint {
    subject: Subject,
    equal: bool,
    value: String,
}

/// Why a text is no constraint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// Neither `==` nor `!=`.
    #[error("constraint {0:?}: want KEY==VALUE or KEY!=VALUE")]
    Operator(String),
    /// Of no such key.
    #[error(
        "constraint key {0:?}: want node.id, node.hostname (or node.name), node.role or node.labels.KEY, with no spaces"
    )]
    Key(String),
    /// No value, or more than a label can have.
    #[error("constraint on {0}: want a value of 1 to {LABEL_VALUE_MAX} bytes")]
    Value(String),
    /// Neither of the roles.
    #[error("constraint on node.role: {0:?} is no role; want worker or manager")]
    Role(String),
}

/// What is known of a node.
#[derive(Clone, Copy, Debug)]
pub struct NodeFacts<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its role.
    pub role: Role,
    /// What managers have written on it.
    pub labels: &'a BTreeMap<String, String>,
}

impl Constraint {
    /// Whether a node meets it.
    #[must_use]
    pub fn holds(&self, node: &NodeFacts<'_>) -> bool {
        let has = match &self.subject {
            Subject::Id => node.id,
            Subject::Hostname => node.name,
            Subject::Role => node.role.name(),
            Subject::Label(key) => node.labels.get(key).map_or("", String::as_str),
        };
        (has.to_lowercase() == self.value.to_lowercase()) == self.equal
    }
}

impl FromStr for Constraint {
    type Err = ConstraintError;

    fn from_str(text: &str) -> Result<Self, ConstraintError> {
        let at = |operator| text.find(operator).map(|at| (at, operator));
        let found = [at("=="), at("!=")].into_iter().flatten().min();
        let (at, operator) = found.ok_or_else(|| ConstraintError::Operator(text.into()))?;
        let (key, value) = (text[..at].trim(), text[at + operator.len()..].trim());
        let subject = match (key, key.strip_prefix("node.labels.")) {
            ("node.id", _) => Subject::Id,
            ("node.hostname" | "node.name", _) => Subject::Hostname,
            ("node.role", _) => Subject::Role,
            (_, Some(label)) if is_label_key(label) => Subject::Label(label.into()),
            _ => return Err(ConstraintError::Key(key.into())),
        };
        if value.is_empty() || value.len() > LABEL_VALUE_MAX {
            return Err(ConstraintError::Value(key.into()));
        }
        if subject == Subject::Role && value.to_lowercase().parse::<Role>().is_err() {
            return Err(ConstraintError::Role(value.into()));
        }
        Ok(Self { subject, equal: operator == "==", value: value.into() })
    }
}

/// Whether a label may have it.
pub(super) fn is_label_key(key: &str) -> bool {
    (1..=LABEL_KEY_MAX).contains(&key.len()) && !key.contains(char::is_whitespace)
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Id => f.write_str("node.id")?,
            Subject::Hostname => f.write_str("node.hostname")?,
            Subject::Role => f.write_str("node.role")?,
            Subject::Label(key) => write!(f, "node.labels.{key}")?,
        }
        write!(f, "{}{}", if self.equal { "==" } else { "!=" }, self.value)
    }
}

impl Serialize for Constraint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Constraint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(constraint: &str) -> bool {
        let labels = [("disk".to_owned(), "SSD".to_owned()), ("a.b".to_owned(), "c=d".to_owned())].into();
        let node = NodeFacts { id: "0abc", name: "web-1", role: Role::Worker, labels: &labels };
        constraint.parse::<Constraint>().unwrap().holds(&node)
    }

    #[test]
    fn they_mean_what_docker_means() {
        for met in [
            "node.id==0abc",
            "node.id == 0ABC",
            "node.hostname==web-1",
            "node.name==web-1",
            "node.role==worker",
            "node.role!=Manager",
            "node.labels.disk==ssd",
            "node.labels.a.b==c=d",
            "node.labels.disk!=hdd",
            "node.labels.zone!=east",
        ] {
            assert!(holds(met), "{met}");
        }
        for unmet in [
            "node.id!=0abc",
            "node.hostname==web",
            "node.role==manager",
            "node.labels.zone==east",
            "node.labels.DISK==ssd",
        ] {
            assert!(!holds(unmet), "{unmet}");
        }
    }

    #[test]
    fn other_texts_are_none() {
        for (text, expected) in [
            ("node.role", "want KEY==VALUE or KEY!=VALUE"),
            ("node.role=worker", "want KEY==VALUE"),
            ("==worker", "constraint key \"\""),
            ("engine.labels.a==b", "constraint key \"engine.labels.a\": want node.id"),
            ("node.labels.==b", "constraint key \"node.labels.\""),
            ("node.labels.a b==c", "constraint key \"node.labels.a b\": want node.id"),
            ("node.labels.a==", "constraint on node.labels.a: want a value"),
            ("node.role==king", "\"king\" is no role"),
        ] {
            let refused = text.parse::<Constraint>().unwrap_err().to_string();
            assert!(refused.contains(expected), "{text}: {refused}");
        }
    }

    #[test]
    fn they_come_as_they_went() {
        for text in ["node.id==a", "node.hostname!=b", "node.role==worker", "node.labels.a.b!=c==d"] {
            assert_eq!(text.parse::<Constraint>().unwrap().to_string(), text);
        }
        let json = "\"node.name==a\"";
        let read: Constraint = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), "\"node.hostname==a\"");
    }
}
