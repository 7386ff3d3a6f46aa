//! Rows as a page that needs nothing but itself: plots over the number of clients, and the table.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::plot::{Plot, Series};
use super::{Row, filled};

/// A figure of a row, where it was measured.
type Figure = fn(&Row) -> Option<f64>;

/// What is drawn of rows, and what it is called.
const FIGURES: [(&str, Figure); 3] = [
    ("operations a second", |row| row.ops_per_s),
    ("p50, microseconds", |row| row.p50_us),
    ("p99, microseconds", |row| row.p99_us),
];

/// How the page looks.
const STYLE: &str = "body{font:14px sans-serif;margin:2em;color:#222}table{border-collapse:collapse}\
    td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}\
    th{background:#f4f4f4}svg{display:block;margin:1em 0}svg text{font:12px sans-serif;fill:#222}";

/// The page.
pub(super) fn page(rows: &[Row]) -> String {
    let mut page = String::new();
    // A String takes whatever is written into it.
    let _ = write_page(&mut page, rows);
    page
}

fn write_page(page: &mut String, rows: &[Row]) -> fmt::Result {
    write!(page, "<!DOCTYPE html><html lang=\"en\"><meta charset=\"utf-8\">")?;
    write!(page, "<title>quorate-benches</title><style>{STYLE}</style><h1>quorate-benches</h1>")?;
    for (payload, rows) in by_payload(rows) {
        write!(page, "<h2>{payload} bytes</h2>")?;
        for (title, figure) in FIGURES {
            let series = series(&rows, figure);
            if !series.is_empty() {
                Plot { title, x: "clients", series }.draw(page)?;
            }
        }
    }
    write!(page, "<table><tr>")?;
    let columns = filled(rows);
    columns.iter().try_for_each(|(name, _)| write!(page, "<th>{}", escaped(name)))?;
    for row in rows {
        write!(page, "<tr>")?;
        for (_, cell) in &columns {
            write!(page, "<td>{}", escaped(&cell(row).unwrap_or_default()))?;
        }
    }
    writeln!(page, "</table></html>")
}

/// The rows of each payload; those whose operations have a size of their own are among each.
fn by_payload(rows: &[Row]) -> BTreeMap<usize, Vec<&Row>> {
    let payloads = rows.iter().filter_map(|row| row.payload_bytes);
    let mut groups: BTreeMap<usize, Vec<&Row>> =
        payloads.map(|payload| (payload, Vec::new())).collect();
    for (payload, group) in &mut groups {
        let is_its = |row: &&Row| row.payload_bytes.is_none_or(|bytes| bytes == *payload);
        group.extend(rows.iter().filter(is_its));
    }
    groups
}

/// One line for each that is compared, in the order of the rows.
fn series(rows: &[&Row], figure: Figure) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    for row in rows {
        let Some(y) = figure(row).filter(|y| *y > 0.0 && row.clients > 0) else { continue };
        let what = row.what.as_deref().unwrap_or_default();
        let name = escaped(&format!("{} {what} ({})", row.system, row.mode));
        let point = (f64::from(row.clients), y);
        match all.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => all.push(Series { name, points: vec![point] }),
        }
    }
    all
}

/// Without what HTML would take for its own.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_plot_for_each_figure_and_a_line_for_each_system() {
        let mut rows = Vec::new();
        for (system, what) in [("quorate", "opaque"), ("other", "a < b")] {
            for clients in [1, 64] {
                let mut row = Row::new(system, "processes", 3);
                row.what = Some(what.to_owned());
                row.clients = clients;
                row.payload_bytes = Some(128);
                row.ops_per_s = Some(1_000.0 * f64::from(clients));
                row.p50_us = Some(500.0);
                rows.push(row);
            }
        }
        let page = page(&rows);
        assert_eq!(page.matches("<svg").count(), 2, "{page}");
        assert_eq!(page.matches("<polyline").count(), 4, "{page}");
        assert!(page.contains("a &lt; b") && !page.contains("a < b"), "{page}");
        assert_eq!(page.matches("<tr>").count(), 5, "{page}");
    }
}
