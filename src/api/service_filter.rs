//! Which services are meant.

use std::str::FromStr;

use super::ServiceView;
use super::terms::every_key_is_met;

/// One condition on a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceTerm {
    /// Its id begins so.
    Id(String),
    /// Its name begins so.
    Name(String),
    /// It has this label; with this value, if one is given.
    Label(String, Option<String>),
    /// Its mode is this.
    Mode(String),
}

/// Why a text is no condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceTermError {
    /// Not `KEY=VALUE` of these keys.
    #[error("want id=, name=, label= or mode=")]
    Key,
    /// No such mode.
    #[error("mode: want replicated or global")]
    Mode,
}

impl ServiceTerm {
    fn key(&self) -> &'static str {
        match self {
            Self::Id(_) => "id",
            Self::Name(_) => "name",
            Self::Label(..) => "label",
            Self::Mode(_) => "mode",
        }
    }

    fn holds(&self, service: &ServiceView) -> bool {
        match self {
            Self::Id(id) => service.id.starts_with(id),
            Self::Name(name) => service.spec.name.as_str().starts_with(name),
            Self::Label(key, value) => {
                let has = service.spec.labels.get(key);
                has.is_some_and(|has| value.as_ref().is_none_or(|value| value == has))
            }
            Self::Mode(mode) => service.spec.mode.name() == mode,
        }
    }
}

impl FromStr for ServiceTerm {
    type Err = ServiceTermError;

    fn from_str(text: &str) -> Result<Self, ServiceTermError> {
        match text.split_once('=').ok_or(ServiceTermError::Key)? {
            ("id", id) => Ok(Self::Id(id.into())),
            ("name", name) => Ok(Self::Name(name.into())),
            ("label", label) => Ok(match label.split_once('=') {
                Some((key, value)) => Self::Label(key.into(), Some(value.into())),
                None => Self::Label(label.into(), None),
            }),
            ("mode", mode @ ("replicated" | "global")) => Ok(Self::Mode(mode.into())),
            ("mode", _) => Err(ServiceTermError::Mode),
            _ => Err(ServiceTermError::Key),
        }
    }
}

/// Which services are meant. As in Docker, terms of one key are alternatives, and each key must be met; but of labels
/// all must be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceFilter(pub Vec<ServiceTerm>);

impl ServiceFilter {
    /// Whether a service is.
    #[must_use]
    pub fn admits(&self, service: &ServiceView) -> bool {
        // Labels are no alternatives: each is a key of its own.
        every_key_is_met(
            &self.0,
            |term| (matches!(term, ServiceTerm::Label(..)).then_some(term), term.key()),
            |term| term.holds(service),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{Mode, ServiceSpec, SpecParts};

    fn service(id: &str, name: &str, mode: Mode, label: (&str, &str)) -> ServiceView {
        let labels = [(label.0.to_owned(), label.1.to_owned())].into();
        let parts = SpecParts { mode, labels, ..SpecParts::new(name.parse().unwrap()) };
        ServiceView {
            id: id.into(),
            spec: ServiceSpec::new(parts).unwrap(),
            generation: 1,
            ports: Vec::new(),
            networks: Vec::new(),
            wanted: 0,
            running: 0,
            created_ms: 0,
            updated_ms: 0,
            conflicts: Vec::new(),
            unbound: Vec::new(),
        }
    }

    fn filtered(terms: &[&str]) -> Vec<String> {
        let filter = ServiceFilter(terms.iter().map(|term| term.parse().unwrap()).collect());
        let services = [
            service("0abc", "web", Mode::Replicated(3), ("stage", "test")),
            service("1abc", "web-2", Mode::Global, ("stage", "")),
            service("2xyz", "db", Mode::Replicated(1), ("a", "b")),
        ];
        let admitted = services.into_iter().filter(|service| filter.admits(service));
        admitted.map(|service| service.spec.name.to_string()).collect()
    }

    #[test]
    fn terms_are_dockers() {
        assert_eq!(filtered(&[]), ["web", "web-2", "db"]);
        assert_eq!(filtered(&["name=web"]), ["web", "web-2"], "a name's beginning");
        assert_eq!(filtered(&["name=eb"]), [""; 0]);
        assert_eq!(filtered(&["id=0", "id=2"]), ["web", "db"]);
        assert_eq!(filtered(&["mode=replicated", "name=web"]), ["web"]);
        assert_eq!(filtered(&["label=stage"]), ["web", "web-2"]);
        assert_eq!(filtered(&["label=stage=test"]), ["web"]);
        assert_eq!(filtered(&["label=stage", "label=a"]), [""; 0], "of labels all must be there");
    }

    #[test]
    fn other_texts_are_no_terms() {
        for bad in ["", "name", "mode=job", "colour=red"] {
            assert!(bad.parse::<ServiceTerm>().is_err(), "{bad}");
        }
    }
}
