//! Bytes as digits 0–9 and a–z: how node ids and tokens are written, as Docker writes them.
//!
//! The bytes are one big-endian number, padded with zeros to a fixed width, so that equal lengths of bytes give
//! equal lengths of text, and each value has one spelling: no capitals, no sign, no leading part left off.

use zeroize::Zeroize;

const RADIX: u16 = 36;
const DIGITS: &[u8; RADIX as usize] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Why a text is not such a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Base36Error {
    /// Another number of characters than the type has.
    #[error("wrong length")]
    Length,
    /// Something else than 0–9 and a–z.
    #[error("a character that is not 0-9 or a-z")]
    Digit,
    /// A number that needs more bytes than the type has.
    #[error("a number out of range")]
    Range,
}

/// Appends `bytes` as `width` digits, which must be enough for any value of so many bytes.
pub(crate) fn encode(bytes: &[u8], width: usize, text: &mut String) {
    let mut number = bytes.to_vec();
    let mut digits = vec![0; width];
    for digit in digits.iter_mut().rev() {
        let mut rest = 0;
        for byte in &mut number {
            let value = rest << 8 | u16::from(*byte);
            // Both below 256: `rest` is below 36, so `value` is below 36 times 256.
            *byte = (value / RADIX).to_le_bytes()[0];
            rest = value % RADIX;
        }
        *digit = DIGITS[usize::from(rest)];
    }
    debug_assert!(number.iter().all(|&byte| byte == 0), "the width holds every value");
    text.extend(digits.iter().map(|&digit| char::from(digit)));
    // Tokens come this way too.
    digits.zeroize();
    number.zeroize();
}

/// The reverse, into `bytes`, whose content is lost on errors. `text` must have `width` characters.
pub(crate) fn decode(text: &str, width: usize, bytes: &mut [u8]) -> Result<(), Base36Error> {
    if text.len() != width {
        return Err(Base36Error::Length);
    }
    bytes.fill(0);
    for character in text.bytes() {
        let mut carry = match character {
            b'0'..=b'9' => u16::from(character - b'0'),
            b'a'..=b'z' => u16::from(character - b'a') + 10,
            _ => return Err(Base36Error::Digit),
        };
        for byte in bytes.iter_mut().rev() {
            let value = u16::from(*byte) * RADIX + carry;
            let [low, high] = value.to_le_bytes();
            *byte = low;
            carry = u16::from(high);
        }
        if carry != 0 {
            return Err(Base36Error::Range);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(bytes: &[u8], width: usize) -> String {
        let mut text = String::new();
        encode(bytes, width, &mut text);
        text
    }

    #[test]
    fn known_numbers() {
        assert_eq!(encoded(&[0, 35], 4), "000z");
        assert_eq!(encoded(&[0, 36], 4), "0010");
        // 2^128 - 1 and 2^256 - 1, by another program.
        assert_eq!(encoded(&[0xff; 16], 25), "f5lxx1zz5pnorynqglhzmsp33");
        assert_eq!(encoded(&[0xff; 32], 50), "6dp5qcb22im238nr3wvp0ic7q99w035jmy2iw7i6n43d37jtof");
    }

    #[test]
    fn one_more_than_the_largest_is_out_of_range() {
        let mut bytes = [0; 16];
        assert_eq!(decode("f5lxx1zz5pnorynqglhzmsp33", 25, &mut bytes), Ok(()));
        assert_eq!(bytes, [0xff; 16]);
        for text in ["f5lxx1zz5pnorynqglhzmsp34", "zzzzzzzzzzzzzzzzzzzzzzzzz"] {
            assert_eq!(decode(text, 25, &mut bytes), Err(Base36Error::Range), "{text}");
        }
    }

    #[test]
    fn other_lengths_and_characters_are_refused() {
        let mut bytes = [0; 16];
        for text in ["", "0", "00000000000000000000000000"] {
            assert_eq!(decode(text, 25, &mut bytes), Err(Base36Error::Length), "{text}");
        }
        for text in ["A", "-", " ", "{", "/", ":", "`", "\0"] {
            let text = format!("{}{text}", "0".repeat(24));
            assert_eq!(decode(&text, 25, &mut bytes), Err(Base36Error::Digit), "{text}");
        }
        // As long in bytes, not in characters.
        assert_eq!(decode(&format!("{}é", "0".repeat(23)), 25, &mut bytes), Err(Base36Error::Digit));
    }

    proptest! {
        #[test]
        fn round_trip(bytes: [u8; 32]) {
            let mut back = [0; 32];
            prop_assert_eq!(decode(&encoded(&bytes, 50), 50, &mut back), Ok(()));
            prop_assert_eq!(back, bytes);
        }
    }
}
