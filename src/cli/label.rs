//! Labels, as people write them.

/// `KEY=VALUE`, or `KEY` with an empty value.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() { Err("want KEY or KEY=VALUE".into()) } else { Ok((key.into(), value.into())) }
}
