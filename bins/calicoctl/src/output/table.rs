//! Rows of text in columns.

/// Rows under a heading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) heading: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(heading: &[&str]) -> Self {
        Self { heading: heading.iter().map(|&name| name.to_owned()).collect(), rows: Vec::new() }
    }

    /// Left-aligned columns with three spaces between.
    pub(crate) fn aligned(&self) -> String {
        let widths = self.widths();
        let mut out = String::new();
        for row in std::iter::once(&self.heading).chain(&self.rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}   "));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    /// Cells in a frame, the heading centred.
    pub(crate) fn framed(&self) -> String {
        let widths = self.widths();
        let rule: String =
            widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect();
        let rule = format!("{rule}+\n");
        let mut out = rule.clone();
        for (cell, width) in self.heading.iter().zip(&widths) {
            out.push_str(&format!("| {cell:^width$} "));
        }
        out.push_str("|\n");
        out.push_str(&rule);
        for row in &self.rows {
            for (cell, width) in row.iter().zip(&widths) {
                out.push_str(&format!("| {cell:<width$} "));
            }
            out.push_str("|\n");
        }
        out.push_str(&rule);
        out
    }

    fn widths(&self) -> Vec<usize> {
        let rows = || std::iter::once(&self.heading).chain(&self.rows);
        let width = |column: usize| {
            let cells = rows().filter_map(move |row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        (0..self.heading.len()).map(width).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "CIDR"]);
        table.rows.push(vec!["a-long-name".to_owned(), "10.0.0.0/8".to_owned()]);
        table.rows.push(vec!["é".to_owned(), String::new()]);
        table
    }

    #[test]
    fn columns_are_aligned() {
        assert_eq!(table().aligned(), "NAME          CIDR\na-long-name   10.0.0.0/8\né\n");
    }

    #[test]
    fn frames_fit() {
        let expected = "\
+-------------+------------+
|    NAME     |    CIDR    |
+-------------+------------+
| a-long-name | 10.0.0.0/8 |
| é           |            |
+-------------+------------+
";
        assert_eq!(table().framed(), expected);
    }
}
