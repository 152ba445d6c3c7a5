//! Conditions on what is listed.

/// Whether every key is met: terms of one key are alternatives.
pub(crate) fn every_key_is_met<'t, T, K: PartialEq>(
    terms: &'t [T],
    key: impl Fn(&'t T) -> K,
    holds: impl Fn(&T) -> bool,
) -> bool {
    terms.iter().all(|term| terms.iter().any(|other| key(other) == key(term) && holds(other)))
}
