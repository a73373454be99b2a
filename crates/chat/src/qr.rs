//! A link as a QR code of half blocks: two rows of the code in one row of the terminal.

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// The code's lines with the quiet zone around it; none if the text is too long for a code. The
/// blocks are the dark parts: they are to be shown in black on white.
pub fn half_blocks(text: &str) -> Option<Vec<String>> {
    // Nothing soils a screen, and a smaller code fits into 24 lines.
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let drawn = code.render::<Dense1x2>().quiet_zone(true).build();
    Some(drawn.lines().map(str::to_owned).collect())
}

/// The code to be printed. With colours it is right on every terminal. Without, the terminal's own
/// have to do, and the blocks are the light parts, for most terminals are dark; readers for phones
/// take the inverse of a code too.
pub fn for_terminal(text: &str, has_colours: bool) -> Option<String> {
    let lines = half_blocks(text)?.into_iter();
    Some(if has_colours {
        lines.map(|line| format!("\x1b[30;107m{line}\x1b[0m\n")).collect()
    } else {
        lines.map(|line| line.chars().map(inverse).chain(['\n']).collect::<String>()).collect()
    })
}

fn inverse(block: char) -> char {
    match block {
        '█' => ' ',
        '▀' => '▄',
        '▄' => '▀',
        _ => '█',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of an invite at a host with a name of so many characters.
    fn link(host: usize) -> String {
        format!("valise://{}:65535/{}#{}", "h".repeat(host), "r".repeat(32), "s".repeat(26))
    }

    #[test]
    fn an_invite_is_a_small_code() {
        for (host, version) in [(15, 5), (26, 5), (55, 6)] {
            let code = QrCode::with_error_correction_level(link(host), EcLevel::L).unwrap();
            assert_eq!(code.version(), qrcode::Version::Normal(version), "{host}");
        }
    }

    #[test]
    fn the_quiet_zone_is_light_and_four_wide() {
        let lines = half_blocks(&link(15)).unwrap();
        let modules: usize = 17 + 4 * 5 + 2 * 4;
        assert_eq!(lines.len(), modules.div_ceil(2));
        assert!(lines.iter().all(|line| line.chars().count() == modules));
        assert!(lines[..2].iter().all(|line| line.trim().is_empty()));
        assert!(lines.iter().all(|line| line.starts_with("    ") && line.ends_with("    ")));
    }

    #[test]
    fn without_colours_the_light_parts_are_blocks() {
        let plain = for_terminal(&link(15), false).unwrap();
        assert!(plain.lines().all(|line| line.starts_with("████") && line.ends_with("████")));
        let coloured = for_terminal(&link(15), true).unwrap();
        assert_eq!(plain.lines().count(), coloured.lines().count());
        assert!(coloured.lines().all(|line| line.starts_with("\x1b[30;107m    ")));
    }

    #[test]
    fn what_does_not_fit_is_no_code() {
        assert_eq!(half_blocks(&"x".repeat(5_000)), None);
    }
}
