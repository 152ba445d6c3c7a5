//! Conditions on networks, as people write them.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::api::NetworkTerm;

/// Seconds of the units of an age.
const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400)];

/// A condition; `until=` is an age, as in Docker.
pub(super) fn term(text: &str) -> Result<NetworkTerm, String> {
    match text.strip_prefix("until=") {
        Some(age) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let now_s = now.as_secs();
            let seconds = seconds(age).ok_or("until: want an age such as 30s, 10m, 24h or 7d")?;
            Ok(NetworkTerm::Until(now_s.saturating_sub(seconds).saturating_mul(1_000)))
        }
        None => text.parse().map_err(|error: crate::api::NetworkTermError| error.to_string()),
    }
}

/// The same for what is pruned, where Docker has these two.
pub(super) fn prune_term(text: &str) -> Result<NetworkTerm, String> {
    match term(text)? {
        term @ (NetworkTerm::Until(_) | NetworkTerm::Label(..)) => Ok(term),
        _ => Err("want until= or label=".into()),
    }
}

fn seconds(age: &str) -> Option<u64> {
    let unit = age.chars().next_back()?;
    let (_, seconds) = UNITS.into_iter().find(|&(name, _)| name == unit)?;
    age.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_units() {
        assert_eq!(
            ["30s", "10m", "24h", "7d"].map(seconds),
            [Some(30), Some(600), Some(86_400), Some(604_800)]
        );
        for age in ["", "s", "10", "-1s", "1w", "ü", "99999999999999999999d", "9999999999999999999d"] {
            assert_eq!(seconds(age), None, "{age}");
        }
        let Ok(NetworkTerm::Until(then)) = term("until=24h") else { panic!("an age") };
        let Ok(NetworkTerm::Until(now)) = term("until=0s") else { panic!("an age") };
        assert!((86_400_000..86_410_000).contains(&(now - then)), "{then} {now}");
    }

    #[test]
    fn what_is_pruned_is_told_by_age_and_label() {
        assert!(prune_term("label=a=b").is_ok() && prune_term("until=1h").is_ok());
        assert_eq!(prune_term("name=a"), Err("want until= or label=".into()));
        assert!(prune_term("until=soon").is_err() && prune_term("colour=red").is_err());
    }
}
