//! The keys that leave a task's terminal without ending its program.

use std::str::FromStr;

/// A sequence of keys, as Docker writes it: `ctrl-p,ctrl-q`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Keys(Vec<u8>);

impl Default for Keys {
    fn default() -> Self {
        Self(vec![control(b'p'), control(b'q')])
    }
}

fn control(key: u8) -> u8 {
    key & 0x1f
}

impl FromStr for Keys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        keys.map(Self).ok_or_else(|| {
            "want keys such as ctrl-p,ctrl-q: single characters, or ctrl- and a-z, @, [, \\, ], ^ or _".into()
        })
    }
}

fn key(text: &str) -> Option<u8> {
    match text.strip_prefix("ctrl-").map_or((false, text), |rest| (true, rest)) {
        (true, name) => match name.as_bytes() {
            [letter @ (b'a'..=b'z' | b'A'..=b'Z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => {
                Some(control(*letter))
            }
            _ => None,
        },
        (false, name) => match name.as_bytes() {
            [key] if key.is_ascii_graphic() => Some(*key),
            _ => None,
        },
    }
}

/// Looks for them in what is typed.
#[derive(Debug)]
pub(super) struct Watcher {
    keys: Keys,
    seen: usize,
}

impl Watcher {
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys, seen: 0 }
    }

    /// What of `typed` is for the program, and whether all keys were typed. A beginning is held back until the next key
    /// tells what it was.
    pub(super) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let Keys(keys) = &self.keys;
        let mut passed = Vec::with_capacity(typed.len());
        for &key in typed {
            if key == keys[self.seen] {
                self.seen += 1;
                if self.seen == keys.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend(&keys[..self.seen]);
            self.seen = usize::from(key == keys[0]);
            if self.seen == 0 {
                passed.push(key);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_in_docker() {
        assert_eq!("ctrl-p,ctrl-q".parse(), Ok(Keys::default()));
        assert_eq!("a,ctrl-[".parse(), Ok(Keys(vec![b'a', 0x1b])));
        assert_eq!("ctrl-@".parse(), Ok(Keys(vec![0])));
        for text in ["", "ctrl-", "ctrl-1", "ab", "a,,b", "\u{e9}"] {
            assert!(text.parse::<Keys>().is_err(), "{text}");
        }
    }

    #[test]
    fn keys_are_found_wherever_what_is_typed_is_cut() {
        let mut watcher = Watcher::new(Keys::default());
        assert_eq!(watcher.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(watcher.filter(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(watcher.filter(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(watcher.filter(b"\x11d"), (Vec::new(), true));
    }

    #[test]
    fn one_key_is_enough() {
        let mut watcher = Watcher::new("x".parse().unwrap());
        assert_eq!(watcher.filter(b"abx"), (b"ab".to_vec(), true));
    }
}
