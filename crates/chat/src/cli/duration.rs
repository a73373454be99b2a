//! Lengths of time as people write them.

/// The seconds of `30s`, `5m`, `8h`, `7d`, `4w`, a plain number, or `off`.
///
/// # Errors
/// What to write instead.
pub(super) fn seconds(text: &str) -> Result<u32, String> {
    let expected = || "write a number with a unit (30s, 5m, 8h, 7d, 4w), or off".to_owned();
    if text == "off" {
        return Ok(0);
    }
    let (number, unit) = match text.char_indices().last() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => (&text[..at], unit),
        _ => (text, 's'),
    };
    let unit: u32 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        'w' => 7 * 24 * 60 * 60,
        _ => return Err(expected()),
    };
    // `u32::from_str` would take a plus sign.
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(expected());
    }
    let number: u32 = number.parse().map_err(|_| expected())?;
    number.checked_mul(unit).ok_or_else(|| "that is more than a century".to_owned())
}

/// The other way: the largest unit that fits.
pub(super) fn words(seconds: u32) -> String {
    let units = [(7 * 24 * 60 * 60, 'w'), (24 * 60 * 60, 'd'), (60 * 60, 'h'), (60, 'm')];
    if seconds == 0 {
        return "off".to_owned();
    }
    let unit = units.into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{seconds}s"), |(unit, name)| format!("{}{name}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_and_written() {
        for (text, number) in [("30s", 30), ("5m", 300), ("8h", 28_800), ("1d", 86_400), ("off", 0)]
        {
            assert_eq!(seconds(text), Ok(number), "{text}");
            assert_eq!(words(number), text);
        }
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(words(90), "90s");
        for text in ["", "s", "-1s", "+1s", "1y", "1.5h", "soon", "99999999999s", "9999999w", "5é"]
        {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
