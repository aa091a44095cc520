//! What the demo says: headings, small tables, promises kept or broken. Colours on terminals only.

use std::{io::IsTerminal as _, process::ExitCode, time::Duration};

/// Writes to standard output and counts promises.
#[derive(Debug)]
pub(crate) struct Printer {
    colours: bool,
    indent: &'static str,
    scenes: u32,
    kept: u32,
    broken: Vec<String>,
}

impl Printer {
    pub(crate) fn new() -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { colours, indent: "   ", scenes: 0, kept: 0, broken: Vec::new() }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Opens a scene.
    pub(crate) fn scene(&mut self, title: &str) {
        self.scenes += 1;
        println!("\n{}", self.paint("1", &format!("{}. {title}", self.scenes)));
    }

    /// A line of plain text.
    pub(crate) fn line(&self, text: &str) {
        println!("{}{text}", self.indent);
    }

    /// Text that another program printed.
    pub(crate) fn quote(&self, command: &str, output: &str) {
        println!("{}{}", self.indent, self.paint("36", &format!("$ {command}")));
        for line in output.trim_end().lines() {
            println!("{}{line}", self.indent);
        }
        println!();
    }

    /// A table; the first row is the heading.
    pub(crate) fn table(&self, rows: &[Vec<String>]) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for (index, row) in rows.iter().enumerate() {
            let cells = row.iter().zip(&widths);
            let cells: Vec<_> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
            let line = cells.join("  ");
            let line = line.trim_end();
            let line = if index == 0 { self.paint("2", line) } else { line.to_owned() };
            println!("{}{line}", self.indent);
        }
    }

    /// Something that the product promises.
    pub(crate) fn promise(&mut self, is_kept: bool, text: &str) {
        if is_kept {
            self.kept += 1;
            println!("{}{} {text}", self.indent, self.paint("32", "ok"));
        } else {
            self.broken.push(text.to_owned());
            println!("{}{} {text}", self.indent, self.paint("31;1", "BROKEN"));
        }
    }

    /// Whether nothing was promised.
    pub(crate) fn is_empty(&self) -> bool {
        self.kept == 0 && self.broken.is_empty()
    }

    /// The demo itself failed.
    pub(crate) fn failed(&self, error: &anyhow::Error) {
        println!("\n{} {error:#}", self.paint("31;1", "The demo failed:"));
    }

    /// Last line and exit status.
    pub(crate) fn summary(&self, took: Duration) -> ExitCode {
        let seconds = took.as_secs_f64();
        println!();
        if self.broken.is_empty() {
            let text = format!("All {} promises kept, in {seconds:.0} s.", self.kept);
            println!("{}", self.paint("32;1", &text));
            return ExitCode::SUCCESS;
        }
        let count = self.broken.len();
        let text = format!("{count} promises broken, {} kept, in {seconds:.0} s:", self.kept);
        println!("{}", self.paint("31;1", &text));
        for text in &self.broken {
            println!("{}{text}", self.indent);
        }
        ExitCode::FAILURE
    }
}
