//! Sizes and durations as people type them.
//!
//! Pure: text in, number or one clear sentence out. Nothing here rounds silently.

use std::time::Duration;

use jiff::SignedDuration;

/// A size that must hold something: `512M`, `1.5GiB`, `65536`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    match size_or_zero(text)? {
        0 => Err("must be more than zero".to_owned()),
        bytes => Ok(bytes),
    }
}

/// A size, of which zero is a meaningful one: `0`, `64M`.
pub(crate) fn size_or_zero(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let Some(shift) = shift(unit) else {
        return Err(wanted());
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || number.ends_with('.') || (shift == 0 && !fraction.is_empty()) {
        return Err(wanted());
    }
    // More decimals than these cannot change a byte of the largest unit.
    if fraction.len() > 18 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wanted());
    }
    let too_large = || "is more than the kernel can count (8 EiB)".to_owned();
    let whole: u64 = whole.parse().map_err(|_overflow| too_large())?;
    let scale = 10_u128.pow(fraction.len() as u32);
    let fraction: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().map_err(|_overflow| too_large())?
    };
    let bytes = (u128::from(whole) << shift) + ((fraction << shift) / scale);
    // The kernel keeps these numbers in signed 64 bits.
    i64::try_from(bytes)
        .map(i64::unsigned_abs)
        .map_err(|_overflow| too_large())
}

/// A length of time above zero: `10s`, `1h30m`, `500ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wanted = || "expected a time such as 500ms, 10s, 2m or 1h30m".to_owned();
    // jiff takes ISO 8601 as well; one notation is enough here.
    if text.starts_with(['P', 'p', '-', '+']) {
        return Err(wanted());
    }
    let signed: SignedDuration = text.parse().map_err(|_jiff_error| wanted())?;
    if signed.is_zero() {
        return Err("must be more than zero".to_owned());
    }
    Duration::try_from(signed).map_err(|_negative| wanted())
}

fn shift(unit: &str) -> Option<u32> {
    let unit = unit.trim_start().to_ascii_lowercase();
    Some(match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 10,
        "m" | "mb" | "mi" | "mib" => 20,
        "g" | "gb" | "gi" | "gib" => 30,
        "t" | "tb" | "ti" | "tib" => 40,
        _ => return None,
    })
}

fn wanted() -> String {
    "expected a size such as 512M, 1.5GiB or 65536 (K, M, G and T are powers of 1024)".to_owned()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use expect_test::expect;

    use super::*;

    #[test]
    fn sizes() {
        let mut table = String::new();
        for text in [
            "512M",
            "1G",
            "1.5GiB",
            "65536",
            "0",
            "64k",
            "2KB",
            "3 MiB",
            "1T",
            "0.5m",
            "",
            "M",
            "1.5",
            "1.",
            ".5G",
            "1..5G",
            "-1M",
            "1e9",
            "12X",
            "max",
            "8388608T",
            "8388607T",
            "99999999999999999999",
            "0x10",
        ] {
            let _ = writeln!(table, "{text:?} {:?}", size_or_zero(text));
        }
        expect![[r#"
            "512M" Ok(536870912)
            "1G" Ok(1073741824)
            "1.5GiB" Ok(1610612736)
            "65536" Ok(65536)
            "0" Ok(0)
            "64k" Ok(65536)
            "2KB" Ok(2048)
            "3 MiB" Ok(3145728)
            "1T" Ok(1099511627776)
            "0.5m" Ok(524288)
            "" Err("expected a size such as 512M, 1.5GiB or 65536 (K, M, G and T are powers of 1024)")
            "M" Err("expected a size such as 512M, 1.5GiB or 65536 (K, M, G and T are powers of 1024)")
            "1.5" Err("expected a size such as 512M, 1.5GiB or 65536 (K, M, G and T are powers of 1024)")
            "1." Err("expected a size such as 512M, 1.5GiB or 65536 (K, M, G and T are powers of 1024)")
            ".5G" Err("expected a size such as 512M, 1.5GiB or 65536 (K, M, G and T are powers of 1024)")
            "1..5G" Err("expected a size such as 512M, 1.5GiB or 65536 (K, M, G and T are powers of 1024)")
            "-1M" Err("expected a size such as 512M, 1.5GiB or 65536 (K, M, G and T are powers of 1024)")
            "1e9" Err("expected a size such as 512M, 1.5GiB or 65536 (K, M, G and T are powers of 1024)")
            "12X" Err("expected a size such as 512M, 1.5GiB or 65536 (K, M, G and T are powers of 1024)")
            "max" Err("expected a size such as 512M, 1.5GiB or 65536 (K, M, G and T are powers of 1024)")
            "8388608T" Err("is more than the kernel can count (8 EiB)")
            "8388607T" Ok(9223370937343148032)
            "99999999999999999999" Err("is more than the kernel can count (8 EiB)")
            "0x10" Err("expected a size such as 512M, 1.5GiB or 65536 (K, M, G and T are powers of 1024)")
        "#]]
        .assert_eq(&table);
        assert!(size("0").is_err());
        assert!(size("0.0000001K").is_err());
    }

    #[test]
    fn durations() {
        let mut table = String::new();
        for text in [
            "10s", "2m", "1h30m", "500ms", "1h 30m", "0s", "10", "-5s", "5s ago", "PT5S", "1mo",
            "1d", "soon", "",
        ] {
            let _ = writeln!(table, "{text:?} {:?}", duration(text));
        }
        expect![[r#"
            "10s" Ok(10s)
            "2m" Ok(120s)
            "1h30m" Ok(5400s)
            "500ms" Ok(500ms)
            "1h 30m" Ok(5400s)
            "0s" Err("must be more than zero")
            "10" Err("expected a time such as 500ms, 10s, 2m or 1h30m")
            "-5s" Err("expected a time such as 500ms, 10s, 2m or 1h30m")
            "5s ago" Err("expected a time such as 500ms, 10s, 2m or 1h30m")
            "PT5S" Err("expected a time such as 500ms, 10s, 2m or 1h30m")
            "1mo" Err("expected a time such as 500ms, 10s, 2m or 1h30m")
            "1d" Err("expected a time such as 500ms, 10s, 2m or 1h30m")
            "soon" Err("expected a time such as 500ms, 10s, 2m or 1h30m")
            "" Err("expected a time such as 500ms, 10s, 2m or 1h30m")
        "#]]
        .assert_eq(&table);
    }
}
