//! Output for people: numbered steps with their time, colours on a terminal only.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Instant;

/// Columns that lines keep to.
const WIDTH: usize = 100;

/// How a piece of text is to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Plain,
    Title,
    Good,
    Bad,
    Dim,
}

impl Look {
    /// SGR parameters (ECMA-48).
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Title => "1",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Dim => "2",
        }
    }
}

/// Standard output.
#[derive(Debug)]
pub(crate) struct Screen {
    coloured: bool,
    started: Instant,
    step: Option<(usize, Instant)>,
}

impl Screen {
    /// Colours on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
    pub(crate) fn new() -> Self {
        let coloured = io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { coloured, started: Instant::now(), step: None }
    }

    /// Ends the step before with its time, and begins another.
    pub(crate) fn step(&mut self, title: &str) {
        self.end_step();
        let number = self.step.map_or(1, |(number, _)| number + 1);
        self.step = Some((number, Instant::now()));
        println!();
        self.line(Look::Title, format_args!("{number}. {title}"));
    }

    /// Ends the last step.
    pub(crate) fn end_step(&self) {
        if let Some((_, started)) = self.step {
            let time = format!("{:.2} s", started.elapsed().as_secs_f64());
            self.line(Look::Dim, format_args!("{time:>WIDTH$}"));
        }
    }

    /// Seconds since the beginning.
    pub(crate) fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    pub(crate) fn line(&self, look: Look, text: impl Display) {
        println!("{}", self.paint(look, text));
        self.flush();
    }

    /// A line below a step's title.
    pub(crate) fn item(&self, text: impl Display) {
        println!("   {text}");
        self.flush();
    }

    /// Lines below a step's title, such as a program's output.
    pub(crate) fn block(&self, text: &str) {
        for line in text.lines() {
            self.item(line.trim_end());
        }
    }

    pub(crate) fn paint(&self, look: Look, text: impl Display) -> String {
        if self.coloured && look != Look::Plain {
            format!("\x1b[{}m{text}\x1b[0m", look.code())
        } else {
            text.to_string()
        }
    }

    /// What was done shows at once, also through a pipe; a reader that left is no error.
    fn flush(&self) {
        let _ = io::stdout().flush();
    }
}

/// Rows with columns as wide as their widest cell.
pub(crate) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".into(), "bb".into(), "c".into()], vec!["aaa".into(), "b".into()]];
        assert_eq!(table(&rows), ["a    bb  c", "aaa  b"]);
    }

    #[test]
    fn without_a_terminal_there_are_no_colours() {
        let screen = Screen { coloured: false, started: Instant::now(), step: None };
        assert_eq!(screen.paint(Look::Good, "yes"), "yes");
        let screen = Screen { coloured: true, ..screen };
        assert_eq!(screen.paint(Look::Good, "yes"), "\x1b[32myes\x1b[0m");
    }
}
