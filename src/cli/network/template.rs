//! `--format`: what of Go's templates Docker's users write for lists, fields and texts between them.

use std::str::FromStr;

use super::{DRIVER, SCOPE, cell};
use crate::api::NetworkView;
use crate::cli::date::rfc3339;
use crate::cli::printable::printable;

/// How a list is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ListFormat {
    /// A table for people.
    Text,
    /// A document a line.
    Json,
    /// As a template says.
    Template(Template),
}

/// A line for each network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    parts: Vec<Part>,
    /// Whether columns, parted by tabs, are to line up under a head.
    table: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
    /// One label's value.
    Label(String),
}

type Show = fn(&NetworkView, bool) -> String;

#[derive(Clone, Copy, Debug)]
struct Field {
    name: &'static str,
    head: &'static str,
    show: Show,
}

impl PartialEq for Field {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Field {}

const fn field(name: &'static str, head: &'static str, show: Show) -> Field {
    Field { name, head, show }
}

/// Docker's, and then ours.
const FIELDS: [Field; 16] = [
    field(".ID", "NETWORK ID", cell::id),
    field(".Name", "NAME", |network, _| network.name.clone()),
    field(".Driver", "DRIVER", |_, _| DRIVER.into()),
    field(".Scope", "SCOPE", |_, _| SCOPE.into()),
    field(".CreatedAt", "CREATED AT", |network, _| rfc3339(network.created_ms)),
    field(".IPv4", "IPV4", |network, _| {
        network.subnets.iter().any(|subnet| subnet.subnet.is_ipv4()).to_string()
    }),
    field(".IPv6", "IPV6", |network, _| {
        network.subnets.iter().any(|subnet| !subnet.subnet.is_ipv4()).to_string()
    }),
    field(".Internal", "INTERNAL", |network, _| network.options.internal.to_string()),
    field(".Labels", "LABELS", |network, _| cell::labels(network)),
    field(".VNI", "VNI", |network, _| network.vni.to_string()),
    field(".Subnets", "SUBNETS", |network, _| cell::subnets(network)),
    field(".Encrypted", "ENCRYPTED", |network, _| network.options.encrypted.to_string()),
    field(".Attachable", "ATTACHABLE", |network, _| network.options.attachable.to_string()),
    field(".Ingress", "INGRESS", |network, _| network.options.ingress.to_string()),
    field(".Nodes", "NODES", |network, _| network.nodes.to_string()),
    field(".Conflicts", "CONFLICTS", |network, _| cell::conflicts(network)),
];

impl FromStr for ListFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" | "table" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            template if template.contains("{{") => template.parse().map(Self::Template),
            _ => Err("want text, json, or a template such as {{.Name}}".into()),
        }
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (table, mut rest) = match text.strip_prefix("table ") {
            Some(columns) => (true, columns),
            None => (false, text),
        };
        let mut parts = Vec::new();
        while let Some((before, behind)) = rest.split_once("{{") {
            let (inside, behind) = behind.split_once("}}").ok_or("a {{ without its }}")?;
            parts.push(plain(before));
            parts.push(part(inside.trim())?);
            rest = behind;
        }
        parts.push(plain(rest));
        Ok(Self { parts, table })
    }
}

/// Text between fields; what shells don't write easily may be escaped.
fn plain(text: &str) -> Part {
    Part::Text(text.replace("\\t", "\t").replace("\\n", "\n"))
}

fn part(text: &str) -> Result<Part, String> {
    if let Some(key) = text.strip_prefix(".Label ").map(str::trim) {
        let quoted = key.strip_prefix('"').and_then(|key| key.strip_suffix('"'));
        return quoted.map(|key| Part::Label(key.into())).ok_or_else(|| "want {{.Label \"KEY\"}}".into());
    }
    let field = FIELDS.into_iter().find(|field| field.name == text);
    field.map(Part::Field).ok_or_else(|| {
        let known = FIELDS.map(|field| field.name).join(" ");
        format!("{{{{{text}}}}}: no such field; there are {known} and .Label \"KEY\"")
    })
}

impl Template {
    /// A line for each network.
    pub(super) fn render(&self, networks: &[NetworkView], shortened: bool) -> String {
        let line = |show: &dyn Fn(&Part) -> String| self.parts.iter().map(show).collect::<String>();
        let head = self.table.then(|| line(&Part::head));
        let lines = networks.iter().map(|network| line(&|part| part.show(network, shortened)));
        let lines: Vec<String> = head.into_iter().chain(lines).collect();
        if self.table { aligned(&lines) } else { lines.iter().map(|line| format!("{line}\n")).collect() }
    }
}

impl Part {
    fn head(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Field(field) => field.head.into(),
            Self::Label(key) => printable(key),
        }
    }

    fn show(&self, network: &NetworkView, shortened: bool) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Field(field) => printable(&(field.show)(network, shortened)),
            Self::Label(key) => {
                network.options.labels.get(key).map(|value| printable(value)).unwrap_or_default()
            }
        }
    }
}

/// Lines whose columns are parted by tabs, lined up.
fn aligned(lines: &[String]) -> String {
    let rows: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let padded = |row: &Vec<&str>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(padded).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::network;
    use super::*;

    fn rendered(template: &str) -> String {
        let mut front = network("front", &[("10.0.0.0/24", "10.0.0.1"), ("fd00::/64", "fd00::1")]);
        front.options.labels = [("a".into(), "b\u{1b}".into()), ("stage".into(), String::new())].into();
        let back = network("b", &[("10.0.1.0/24", "10.0.1.1")]);
        match template.parse().unwrap() {
            ListFormat::Template(template) => template.render(&[front, back], true),
            other => panic!("{other:?} is no template"),
        }
    }

    #[test]
    fn fields_are_put_in() {
        assert_eq!(
            rendered("{{.ID}}: {{ .Name }} {{.Driver}}"),
            "0123456789ab: front overlay\n0123456789ab: b overlay\n"
        );
        assert_eq!(
            rendered("{{.Subnets}} {{.IPv6}}{{.IPv4}}"),
            "10.0.0.0/24,fd00::/64 truetrue\n10.0.1.0/24 falsetrue\n"
        );
        assert_eq!(rendered("{{.Labels}}|{{.Label \"a\"}}\\t."), "a=b\\u{1b},stage=|b\\u{1b}\t.\n|\t.\n");
        assert_eq!(rendered("{{.VNI}}x"), "4096x\n4096x\n");
        for field in FIELDS {
            assert!(!rendered(&format!("{{{{{}}}}}.", field.name)).is_empty());
        }
    }

    #[test]
    fn tables_have_a_head() {
        assert_eq!(
            rendered("table {{.Name}}\\t{{.Subnets}}\\t{{.Label \"stage\"}}"),
            "NAME   SUBNETS                stage\nfront  10.0.0.0/24,fd00::/64\nb      10.0.1.0/24\n"
        );
    }

    #[test]
    fn what_is_no_template_is_refused() {
        assert_eq!("json".parse(), Ok(ListFormat::Json));
        assert_eq!(["text", "table"].map(str::parse), [Ok(ListFormat::Text), Ok(ListFormat::Text)]);
        for (text, expected) in [
            ("yaml", "want text, json"),
            ("{{.Name", "without its }}"),
            ("{{.Colour}}", "{{.Colour}}: no such field; there are .ID .Name"),
            ("{{.Label a}}", "want {{.Label"),
        ] {
            let refused = text.parse::<ListFormat>().unwrap_err();
            assert!(refused.contains(expected), "{text}: {refused}");
        }
    }
}
