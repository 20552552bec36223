//! Just enough of JSON to take a few values out of a line that oomtrace wrote.
//!
//! Values stay the text that they are. Nothing is checked: what is no JSON yields nothing or nonsense.

/// The value of a key of an object.
pub(super) fn member<'a>(object: &'a str, key: &str) -> Option<&'a str> {
    let name = format!("\"{key}\":");
    parts(object)
        .into_iter()
        .find_map(|part| part.strip_prefix(name.as_str()))
}

/// How many elements an array has.
pub(super) fn count(array: &str) -> usize {
    parts(array).len()
}

/// What the commas of the outermost brackets separate.
fn parts(value: &str) -> Vec<&str> {
    let inner = value
        .trim()
        .strip_prefix(['[', '{'])
        .and_then(|rest| rest.strip_suffix([']', '}']))
        .unwrap_or("");
    let mut parts = Vec::new();
    let (mut depth, mut quoted, mut escaped, mut start) = (0_u32, false, false, 0);
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                parts.push(inner[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inner.trim().is_empty() {
        parts.push(inner[start..].trim());
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::{count, member};

    #[test]
    fn values_are_found_at_their_own_level() {
        let line = r#"{"a":{"n":1,"s":"],\",{"},"n":22,"list":[{"n":3},{"n":4}],"none":[]}"#;
        assert_eq!(member(line, "n"), Some("22"));
        let inner = member(line, "a").and_then(|inner| member(inner, "s"));
        assert_eq!(inner, Some(r#""],\",{""#));
        assert_eq!(member(line, "list").map(count), Some(2));
        assert_eq!(member(line, "none").map(count), Some(0));
        assert_eq!(member(line, "s"), None);
        assert_eq!(member("nonsense", "s"), None);
    }
}
