//! How things look. With colour, the sixteen that every terminal lets its user choose; without, only
//! bold, underline and reverse. No meaning is in a colour alone.

use ratatui::style::{Color, Modifier, Style};

/// The looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Theme {
    colour: bool,
}

impl Theme {
    pub(crate) fn new(colour: bool) -> Self {
        Self { colour }
    }

    /// What matters less.
    pub(crate) fn quiet(self) -> Style {
        if self.colour { Style::new().add_modifier(Modifier::DIM) } else { Style::new() }
    }

    /// One's own, and where one is.
    pub(crate) fn accent(self) -> Style {
        self.foreground(Color::Cyan)
    }

    /// Names, titles, new things.
    pub(crate) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(crate) fn good(self) -> Style {
        self.foreground(Color::Green)
    }

    pub(crate) fn warn(self) -> Style {
        self.foreground(Color::Yellow)
    }

    pub(crate) fn bad(self) -> Style {
        self.foreground(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// The line under the mark in a list.
    pub(crate) fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// Read by everyone: it must differ from delivered without colour too.
    pub(crate) fn read(self) -> Style {
        self.accent().add_modifier(Modifier::BOLD | Modifier::UNDERLINED)
    }

    /// The same colour for the same person.
    pub(crate) fn person(self, account: &str) -> Style {
        const COLOURS: [Color; 5] =
            [Color::Green, Color::Yellow, Color::Magenta, Color::Blue, Color::LightRed];
        let sum = account
            .bytes()
            .fold(7_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
        self.foreground(COLOURS[sum % COLOURS.len()]).add_modifier(Modifier::BOLD)
    }

    /// A QR code: dark on light, whatever the terminal's own colours are. Without colours the
    /// terminal is taken for a dark one, as most are.
    pub(crate) fn code(self) -> Style {
        if self.colour { Style::new().fg(Color::Black).bg(Color::White) } else { self.chosen() }
    }

    fn foreground(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }
}
