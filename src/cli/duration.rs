//! Durations, as Docker's users write them: `500ms`, `5s`, `1m30s`, `2h`.

/// Milliseconds of the units; of two that begin alike the longer first.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];

/// As people write it, from milliseconds: `1m30s`.
pub(super) fn written(milliseconds: u64) -> String {
    let (mut rest, mut text) = (milliseconds, String::new());
    for (name, unit) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if rest >= unit {
            text += &format!("{}{name}", rest / unit);
            rest %= unit;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

/// In milliseconds.
pub(super) fn milliseconds(text: &str) -> Result<u64, String> {
    parse(text).ok_or_else(|| "want a duration such as 500ms, 5s, 1m30s or 2h".into())
}

fn parse(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let (mut rest, mut sum) = (text, 0_u64);
    loop {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, behind) = rest.split_at(digits);
        let (behind, unit) =
            UNITS.into_iter().find_map(|(name, unit)| Some((behind.strip_prefix(name)?, unit)))?;
        sum = sum.checked_add(number.parse::<u64>().ok()?.checked_mul(unit)?)?;
        if behind.is_empty() {
            return Some(sum);
        }
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let of = [0, 500, 5_000, 90_000, 86_400_000, 3_661_001].map(written);
        assert_eq!(of, ["0s", "500ms", "5s", "1m30s", "24h", "1h1m1s1ms"]);
        for time in [0, 1, 59_999, 604_800_000, u64::MAX] {
            assert_eq!(parse(&written(time)), Some(time));
        }
    }

    #[test]
    fn units_add_up() {
        let of = ["0", "500ms", "5s", "1m30s", "2h", "1h1m1s1ms"].map(parse);
        assert_eq!(of, [0, 500, 5_000, 90_000, 7_200_000, 3_661_001].map(Some));
        for text in
            ["", "5", "s", "-5s", "1.5s", "5 s", "5d", "99999999999999999999s", "9999999999999999h", "5sx"]
        {
            assert!(milliseconds(text).is_err(), "{text}");
        }
    }
}
