//! `--format` of lists: what of Go's templates Docker's users write for them, fields and texts between them.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::printable::{self, printable};

/// What lists have a line of for each.
pub(super) trait Listed: Sized + 'static {
    /// What templates know of it: Docker's, and then ours.
    const FIELDS: &'static [Field<Self>];

    /// Whether it has labels.
    const HAS_LABELS: bool = true;

    /// The value of one of its labels.
    fn label(&self, key: &str) -> Option<&str>;
}

/// One thing that templates know.
pub(super) struct Field<T> {
    name: &'static str,
    head: &'static str,
    show: Show<T>,
}

/// A value as text, perhaps shortened. Nothing is made printable here.
type Show<T> = fn(&T, bool) -> String;

pub(super) const fn field<T>(name: &'static str, head: &'static str, show: Show<T>) -> Field<T> {
    Field { name, head, show }
}

impl<T> PartialEq for Field<T> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl<T> Eq for Field<T> {}

impl<T> fmt::Debug for Field<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// How a list is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ListFormat<T: 'static> {
    /// A table for people.
    Text,
    /// A document a line.
    Json,
    /// As a template says.
    Template(Template<T>),
}

impl<T: Listed + Serialize> ListFormat<T> {
    /// A list as it is printed; `quiet` means ids only, `table` what people see.
    pub(super) fn show(
        &self,
        list: &[T],
        (quiet, shortened): (bool, bool),
        id: impl Fn(&T) -> String,
        table: impl Fn(&[T], bool) -> String,
    ) -> String {
        match self {
            _ if quiet => list.iter().map(|listed| format!("{}\n", printable(&id(listed)))).collect(),
            Self::Json => list.iter().map(printable::json).collect(),
            Self::Text => table(list, shortened),
            Self::Template(template) => template.render(list, shortened),
        }
    }
}

/// A line for each of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template<T: 'static> {
    parts: Vec<Part<T>>,
    /// Whether columns, parted by tabs, are to line up under a head.
    table: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part<T: 'static> {
    Text(String),
    Field(&'static Field<T>),
    /// One label's value.
    Label(String),
}

impl<T: Listed> FromStr for ListFormat<T> {
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

impl<T: Listed> FromStr for Template<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (table, columns) = match text.strip_prefix("table ") {
            Some(columns) => (true, columns),
            None => (false, text),
        };
        Ok(Self { parts: parts(columns, Part::Text, part)?, table })
    }
}

/// What is within each {{ }} of a template, and the texts between them.
pub(super) fn parts<P>(
    template: &str,
    plain: impl Fn(String) -> P,
    part: impl Fn(&str) -> Result<P, String>,
) -> Result<Vec<P>, String> {
    // What shells don't write easily may be escaped.
    let plain = |text: &str| plain(text.replace("\\t", "\t").replace("\\n", "\n"));
    let (mut parts, mut rest) = (Vec::new(), template);
    while let Some((before, behind)) = rest.split_once("{{") {
        let (inside, behind) = behind.split_once("}}").ok_or("a {{ without its }}")?;
        parts.push(plain(before));
        parts.push(part(inside.trim())?);
        rest = behind;
    }
    parts.push(plain(rest));
    Ok(parts)
}

fn part<T: Listed>(text: &str) -> Result<Part<T>, String> {
    if let Some(key) = text.strip_prefix(".Label ").filter(|_| T::HAS_LABELS).map(str::trim) {
        let quoted = key.strip_prefix('"').and_then(|key| key.strip_suffix('"'));
        return quoted.map(|key| Part::Label(key.into())).ok_or_else(|| "want {{.Label \"KEY\"}}".into());
    }
    let field = T::FIELDS.iter().find(|field| field.name == text);
    field.map(Part::Field).ok_or_else(|| {
        let known = T::FIELDS.iter().map(|field| field.name).collect::<Vec<_>>().join(" ");
        let labels = if T::HAS_LABELS { " and .Label \"KEY\"" } else { "" };
        format!("{{{{{text}}}}}: no such field; there are {known}{labels}")
    })
}

impl<T: Listed> Template<T> {
    /// A line for each.
    pub(super) fn render(&self, all: &[T], shortened: bool) -> String {
        let line = |show: &dyn Fn(&Part<T>) -> String| self.parts.iter().map(show).collect::<String>();
        let head = self.table.then(|| line(&Part::head));
        let lines = all.iter().map(|one| line(&|part| part.show(one, shortened)));
        let lines: Vec<String> = head.into_iter().chain(lines).collect();
        if self.table { aligned(&lines) } else { lines.iter().map(|line| format!("{line}\n")).collect() }
    }
}

impl<T: Listed> Part<T> {
    fn head(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Field(field) => field.head.into(),
            Self::Label(key) => printable(key),
        }
    }

    fn show(&self, one: &T, shortened: bool) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Field(field) => printable(&(field.show)(one, shortened)),
            Self::Label(key) => one.label(key).map(printable).unwrap_or_default(),
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
