use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that somebody else chose: a `comm`, a command line, a cgroup path, a host name.
///
/// The kernel lets these hold any byte but NUL. Kept exactly as they were, shown only escaped:
/// [`Display`](fmt::Display) writes nothing that a terminal could act on or be confused by (control
/// characters, bidirectional overrides, zero-width and private-use characters, invalid UTF-8), each
/// as `\xNN` or `\u{NNNN}`, and a backslash as `\\`.
///
/// In JSON it is a string: valid UTF-8 as it is, each invalid byte as `\xNN`, each backslash doubled,
/// so that no two values look alike and every value can be had back.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Vec<u8>);

impl Text {
    /// Takes bytes as they are.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Takes a NUL-padded array, up to the first NUL.
    pub fn from_padded(bytes: &[u8]) -> Self {
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        Self(bytes[..end].to_vec())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    c if c.is_ascii_control() => write!(f, "\\x{:02x}", u32::from(c))?,
                    c if is_treacherous(c) => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                    c => fmt::Write::write_char(f, c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Characters above ASCII that change how other text is shown, or show nothing themselves.
fn is_treacherous(c: char) -> bool {
    matches!(u32::from(c),
        0x80..=0x9f                 // C1 controls
        | 0xad                      // soft hyphen
        | 0x034f | 0x061c           // grapheme joiner, Arabic letter mark
        | 0x115f..=0x1160 | 0x17b4..=0x17b5 | 0x3164 | 0xffa0 // fillers
        | 0x180b..=0x180f           // Mongolian selectors
        | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f // zero width, separators, bidi
        | 0xfe00..=0xfe0f | 0xfeff  // variation selectors, BOM
        | 0xfff0..=0xfffb           // specials
        | 0xe000..=0xf8ff | 0xf0000..=0x10ffff // private use
        | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff) // musical controls, tags
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = String::with_capacity(self.0.len());
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c == '\\' {
                    out.push('\\');
                }
                out.push(c);
            }
            for byte in chunk.invalid() {
                out.push_str(&format!("\\x{byte:02x}"));
            }
        }
        serializer.serialize_str(&out)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = text.as_bytes();
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at..] {
                [b'\\', b'x', high, low, ..] => {
                    let digits = [high, low];
                    let byte = std::str::from_utf8(&digits)
                        .ok()
                        .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                        .ok_or_else(|| serde::de::Error::custom("a bad \\x escape in a name"))?;
                    out.push(byte);
                    at += 4;
                }
                [b'\\', b'\\', ..] => {
                    out.push(b'\\');
                    at += 2;
                }
                [byte, ..] => {
                    out.push(byte);
                    at += 1;
                }
                [] => break,
            }
        }
        Ok(Self(out))
    }
}

#[cfg(test)]
mod tests {
    use super::Text;

    #[test]
    fn every_pair_of_bytes_is_shown_inert_and_survives_json() {
        let mut shown = 0;
        for high in 0..=255u8 {
            for low in 0..=255u8 {
                let text = Text::new([b'a', high, low, b'b']);
                let display = text.to_string();
                assert!(
                    display.chars().all(|c| !c.is_control()),
                    "{display:?} holds a control character"
                );
                let json = serde_json::to_string(&text).expect("a string");
                assert_eq!(
                    serde_json::from_str::<Text>(&json).expect("what was written"),
                    text
                );
                shown += 1;
            }
        }
        assert_eq!(shown, 65_536);
    }

    #[test]
    fn overrides_and_zero_width_are_spelled_out() {
        let text = Text::from("a\u{202e}b\u{200b}c\\d\x1b[31m\n\u{feff}");
        assert_eq!(
            text.to_string(),
            "a\\u{202e}b\\u{200b}c\\\\d\\x1b[31m\\x0a\\u{feff}"
        );
    }

    #[test]
    fn a_padded_name_ends_at_its_first_nul() {
        assert_eq!(Text::from_padded(b"java\0\0x"), Text::from("java"));
        assert_eq!(Text::from_padded(b"java"), Text::from("java"));
    }
}
