//! `--format` of `inspect`: what of Go's templates Docker's users ask documents by, `{{.ID}}` and `{{json .Spec}}`.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use super::printable::{self, printable};
use super::template::parts;

/// How documents are printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DocumentFormat {
    /// As a list in one line.
    Json,
    /// A line for each, of these parts.
    Template(Vec<Part>),
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    /// A field, a text without its quotes.
    Field(Path),
    /// A field as JSON.
    Json(Path),
}

/// From a document to what is in it: `.Spec.Name`, or `.` for the document itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path(Vec<String>);

/// A document that does not have what a template asks for.
#[derive(Debug, thiserror::Error)]
#[error("{{{{{path}}}}}: no such field; there are {known}")]
pub(super) struct NoField {
    path: String,
    known: String,
}

impl FromStr for DocumentFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            template if template.contains("{{") => parts(template, Part::Text, part).map(Self::Template),
            _ => Err("want json, or a template such as {{.ID}} or {{json .Spec}}".into()),
        }
    }
}

fn part(text: &str) -> Result<Part, String> {
    match text.strip_prefix("json ") {
        Some(path) => path.trim().parse().map(Part::Json),
        None => text.parse().map(Part::Field),
    }
}

impl FromStr for Path {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{{{{{text}}}}}: want a field such as {{{{.ID}}}} or {{{{json .Spec}}}}");
        let path = text.strip_prefix('.').ok_or_else(wrong)?;
        if path.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let keys: Vec<String> = path.split('.').map(String::from).collect();
        let fits = |key: &String| !key.is_empty() && !key.contains(char::is_whitespace);
        if keys.iter().all(fits) { Ok(Self(keys)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ".{}", self.0.join("."))
    }
}

impl Path {
    fn of<'d>(&self, document: &'d Value) -> Result<&'d Value, NoField> {
        self.0.iter().try_fold(document, |at, key| {
            at.get(key).ok_or_else(|| NoField { path: self.to_string(), known: known(at) })
        })
    }
}

/// The fields of a document, or that it has none.
fn known(document: &Value) -> String {
    match document.as_object() {
        Some(fields) if !fields.is_empty() => fields.keys().cloned().collect::<Vec<_>>().join(" "),
        _ => "none in it".into(),
    }
}

impl DocumentFormat {
    /// The documents as they are printed.
    ///
    /// # Errors
    /// If one of them does not have a field that is asked for.
    pub(super) fn show(&self, documents: &[Value]) -> Result<String, NoField> {
        match self {
            Self::Json => Ok(printable::json(&documents)),
            Self::Template(parts) => {
                let line =
                    |document| parts.iter().map(|part| part.show(document)).collect::<Result<String, _>>();
                documents.iter().map(|document| Ok(line(document)? + "\n")).collect()
            }
        }
    }
}

impl Part {
    fn show(&self, document: &Value) -> Result<String, NoField> {
        let json = |value: &Value| printable::json(value).trim_end().to_owned();
        Ok(match self {
            Self::Text(text) => text.clone(),
            Self::Json(path) => json(path.of(document)?),
            Self::Field(path) => match path.of(document)? {
                Value::String(text) => printable(text),
                value => json(value),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(format: &str) -> Result<String, String> {
        let documents = [
            json!({ "ID": "a", "Spec": { "Name": "web\u{1b}", "Labels": {}, "Ports": [80, null] }, "Wanted": 3 }),
            json!({ "ID": "b", "Spec": { "Name": "db", "Labels": {}, "Ports": [] }, "Wanted": 0 }),
        ];
        format.parse::<DocumentFormat>()?.show(&documents).map_err(|error| error.to_string())
    }

    #[test]
    fn fields_are_put_in() {
        assert_eq!(shown("{{.ID}}: {{ .Spec.Name }}\\t{{.Wanted}}").unwrap(), "a: web\\u{1b}\t3\nb: db\t0\n");
        assert_eq!(
            shown("{{json .Spec.Name}}{{.Spec.Ports}}").unwrap(),
            "\"web\\u001b\"[80,null]\n\"db\"[]\n"
        );
        let whole = shown("{{json .}}").unwrap();
        let lines: Vec<Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((lines.len(), &lines[1]["Spec"]["Name"], shown("{{.}}")), (2, &json!("db"), Ok(whole)));
        let list = shown("json").unwrap();
        assert_eq!((list.lines().count(), serde_json::from_str::<Vec<Value>>(&list).unwrap()), (1, lines));
    }

    #[test]
    fn what_is_not_there_is_said() {
        for (format, expected) in [
            ("yaml", "want json, or a template"),
            ("{{.ID", "without its }}"),
            ("{{range .Spec}}x{{end}}", "{{range .Spec}}: want a field"),
            ("{{json Spec}}", "{{Spec}}: want a field"),
            ("{{.Spec..Name}}", "want a field"),
            ("{{.}", "without its }}"),
            ("{{.Colour}}", "{{.Colour}}: no such field; there are ID Spec Wanted"),
            ("{{json .Spec.Colour}}", "{{.Spec.Colour}}: no such field; there are Name Labels Ports"),
            ("{{.Spec.Labels.a}}", "there are none in it"),
            ("{{.ID.a}}", "there are none in it"),
        ] {
            let refused = shown(format).unwrap_err();
            assert!(refused.contains(expected), "{format}: {refused}");
        }
    }
}
