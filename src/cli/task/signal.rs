//! Signals as people write them.

/// Names and numbers of those that Linux has on all of its machines but the rarest (signal(7)).
const SIGNALS: [(&str, u8); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// The number of a signal: `TERM`, `SIGTERM`, `term` or `15`.
pub(super) fn number(text: &str) -> Result<u8, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let wanted = text.parse::<u8>().ok();
    let found = SIGNALS.into_iter().find(|&(known, number)| known == name || Some(number) == wanted);
    found
        .map(|(_, number)| number)
        .ok_or_else(|| format!("there is no signal {text}: want a name such as TERM, or a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(number(text), Ok(15), "{text}");
        }
        for text in ["", "SIG", "0", "99", "TERMINATE", "-9"] {
            assert!(number(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_kernel_numbers_them_so() {
        for (name, number) in SIGNALS {
            assert!(rustix::process::Signal::from_named_raw(number.into()).is_some(), "{name}");
        }
        assert_eq!(number("USR2"), Ok(u8::try_from(rustix::process::Signal::USR2.as_raw()).unwrap()));
        assert_eq!(number("WINCH"), Ok(u8::try_from(rustix::process::Signal::WINCH.as_raw()).unwrap()));
    }
}
