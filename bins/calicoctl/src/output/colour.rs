//! Colours, for terminals only.

use std::io::IsTerminal;

/// Whether text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Always,
    Never,
}

impl Colour {
    /// For the standard output: only if it is a terminal that can, and nobody set `NO_COLOR`
    /// (<https://no-color.org>).
    pub(crate) fn of_stdout() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        if std::io::stdout().is_terminal() && !dumb && set("NO_COLOR").is_none() {
            Self::Always
        } else {
            Self::Never
        }
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.paint(31, text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.paint(32, text)
    }

    pub(crate) fn cyan(self, text: &str) -> String {
        self.paint(36, text)
    }

    fn paint(self, code: u8, text: &str) -> String {
        match self {
            Self::Always => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Never => text.to_owned(),
        }
    }
}
