//! Tables for people: columns as wide as their widest cell, two spaces apart. Cells are made [`printable`].

use std::fmt;

use super::printable::printable;

/// Rows of text under a head.
#[derive(Debug)]
pub(super) struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(super) fn new(head: [&str; COLUMNS]) -> Self {
        Self { rows: vec![head.map(String::from)] }
    }

    pub(super) fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells.map(|cell| printable(&cell)));
    }
}

impl<const COLUMNS: usize> fmt::Display for Table<COLUMNS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; COLUMNS] = std::array::from_fn(width);
        for row in &self.rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let mut table = Table::new(["ID", "NAME"]);
        table.row(["1".into(), "zürich".into()]);
        table.row(["12345".into(), String::new()]);
        assert_eq!(table.to_string(), "ID     NAME\n1      zürich\n12345\n");
    }

    #[test]
    fn cells_stay_in_their_lines() {
        let mut table = Table::new(["NAME"]);
        table.row(["a\nb\u{1b}".into()]);
        assert_eq!(table.to_string(), "NAME\na\\u{a}b\\u{1b}\n");
    }
}
