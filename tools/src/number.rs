// SPDX-License-Identifier: GPL-2.0
//! Numbers as iproute2's `get_u32()` and its siblings read them: decimal, 0x hexadecimal, 0 octal.

/// Reads a number of at most `max`, which no sign, blank or suffix surrounds.
fn parse(word: &str, max: u64) -> Option<u64> {
    let (digits, radix) = match word.strip_prefix("0x").or(word.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if word.len() > 1 && word.starts_with('0') => (&word[1..], 8),
        None => (word, 10),
    };
    if digits.starts_with('+') {
        return None; // from_str_radix() would take it
    }
    let value = u64::from_str_radix(digits, radix).ok()?;
    (value <= max).then_some(value)
}

/// Reads a `__u8`.
pub fn parse_u8(word: &str) -> Option<u8> {
    parse(word, u8::MAX.into()).map(|value| value as u8)
}

/// Reads a `__u16`.
pub fn parse_u16(word: &str) -> Option<u16> {
    parse(word, u16::MAX.into()).map(|value| value as u16)
}

/// Reads a `__u32`.
pub fn parse_u32(word: &str) -> Option<u32> {
    parse(word, u32::MAX.into()).map(|value| value as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases() {
        assert_eq!(parse_u32("4096"), Some(4096));
        assert_eq!(parse_u32("0x1000"), Some(4096));
        assert_eq!(parse_u32("0XFF"), Some(255));
        assert_eq!(parse_u32("010"), Some(8));
        assert_eq!(parse_u32("0"), Some(0));
    }

    #[test]
    fn bounds() {
        assert_eq!(parse_u32("0xffffffff"), Some(u32::MAX));
        assert_eq!(parse_u32("0x100000000"), None);
        assert_eq!(parse_u16("65536"), None);
        assert_eq!(parse_u8("256"), None);
    }

    #[test]
    fn junk() {
        for word in ["", "0x", "08", "-1", "+1", "0x+1", " 1", "1 ", "1k", "0b1"] {
            assert_eq!(parse_u32(word), None, "{word:?}");
        }
    }
}
