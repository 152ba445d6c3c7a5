//! Tables for people: columns as wide as their widest cell, two spaces apart. Cells are made [`printable`].

use std::fmt;

use super::printable::printable;

/// Rows of text under a head.
#[derive(Debug)]
pub(super) struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
    /// From this column on those in which no row has anything are left out.
    optional: usize,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(super) fn new(head: [&str; COLUMNS]) -> Self {
        Self { rows: vec![head.map(String::from)], optional: COLUMNS }
    }

    /// The same with columns, from this one on, that are there only if there is something in them.
    pub(super) fn optional_from(self, optional: usize) -> Self {
        Self { optional, ..self }
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
        let is_shown = |column: &usize| {
            *column < self.optional || self.rows.iter().skip(1).any(|row| !row[*column].is_empty())
        };
        let shown: Vec<usize> = (0..COLUMNS).filter(is_shown).collect();
        for row in &self.rows {
            let cells =
                shown.iter().map(|&column| format!("{:<width$}", row[column], width = widths[column]));
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
    fn columns_may_be_there_only_with_something_in_them() {
        let mut table = Table::new(["A", "B", "C", "D"]).optional_from(2);
        table.row(["1", "", "", "x"].map(String::from));
        table.row(["2", "", "", ""].map(String::from));
        assert_eq!(table.to_string(), "A  B  D\n1     x\n2\n");
    }

    #[test]
    fn cells_stay_in_their_lines() {
        let mut table = Table::new(["NAME"]);
        table.row(["a\nb\u{1b}".into()]);
        assert_eq!(table.to_string(), "NAME\na\\u{a}b\\u{1b}\n");
    }
}
