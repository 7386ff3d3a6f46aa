//! `quorate log dump`: the entries of a data directory, offline, as they stream by.

use std::io::{self, BufWriter, Write};

use quorate_engine::{GroupId, Inspection, ReadError};

use crate::args::{DumpArgs, Output};
use crate::directory::Directory;
use crate::entry::ShownEntry;
use crate::failure::Failure;

/// Prints what can be read, then says what cannot, and fails on damage.
pub(crate) fn run(output: Output, args: &DumpArgs) -> Result<(), Failure> {
    let (from, to) = args.range()?;
    let dir = &args.offline.data_dir;
    let directory = Directory::look_at(dir)?;
    let groups = chosen(&directory, args)?;
    let mut gaps = Vec::new();
    if let Some(inspection) = &directory.inspection {
        let mut dump = Dump {
            inspection,
            out: BufWriter::new(io::stdout().lock()),
            output,
            args,
            left: args.limit.unwrap_or(u64::MAX),
            gaps: Vec::new(),
        };
        let printed = dump.groups(&groups, from, to);
        // Not dropped as it is: that would write once more what could not be written.
        let Dump { out, gaps: found, .. } = dump;
        drop(out.into_parts());
        match printed {
            Ok(()) => {}
            // Whoever reads has seen enough. What is damaged is said all the same.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => {
                let text = format!("cannot write to standard output: {error}");
                return Err(Failure::Failed(text));
            }
        }
        gaps = found;
    }
    let mut stderr = io::stderr().lock();
    let told = gaps.iter().map(Gap::to_string);
    for line in told.chain(directory.damage.iter().map(ToString::to_string)) {
        // A stderr that nobody reads changes nothing about the exit status.
        drop(writeln!(stderr, "quorate: {line}"));
    }
    drop(stderr);
    directory.verdict(dir)?;
    match gaps.is_empty() {
        true => Ok(()),
        false => Err(Failure::Failed(format!(
            "{}: not every entry could be read: check the disk, and see 'quorate verify'",
            dir.display()
        ))),
    }
}

/// The groups that are asked for.
fn chosen(directory: &Directory, args: &DumpArgs) -> Result<Vec<GroupId>, Failure> {
    let all = directory.groups();
    let Some(number) = args.group else { return Ok(all.into_iter().collect()) };
    let wanted = GroupId::new(number).filter(|group| all.contains(group));
    // Of a directory that cannot be read nobody knows what groups are in it: its damage is said.
    if wanted.is_some() || directory.inspection.is_none() {
        return Ok(wanted.into_iter().collect());
    }
    let known: Vec<String> = all.iter().map(ToString::to_string).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Err(Failure::Failed(format!(
        "there is no group {number} in {}: choose one of those that are ({known}) with --group",
        args.offline.data_dir.display()
    )))
}

/// Entries in a row that cannot be read.
#[derive(Debug)]
struct Gap {
    group: GroupId,
    first: u64,
    last: u64,
    error: ReadError,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { group, first, last, error } = self;
        match first == last {
            true => write!(f, "group {group}, entry {first} is left out: ")?,
            false => write!(f, "group {group}, entries {first} to {last} are left out: ")?,
        }
        match error {
            // Its own words are for a node that runs.
            ReadError::Engine { source } => write!(f, "{source}"),
            error => write!(f, "{error}"),
        }
    }
}

/// A dump on its way.
struct Dump<'a, W: Write> {
    inspection: &'a Inspection,
    out: BufWriter<W>,
    output: Output,
    args: &'a DumpArgs,
    /// Entries that may still be printed.
    left: u64,
    gaps: Vec<Gap>,
}

impl<W: Write> Dump<'_, W> {
    fn groups(&mut self, groups: &[GroupId], from: u64, to: u64) -> io::Result<()> {
        if self.output == Output::Table {
            writeln!(self.out, "{}", ShownEntry::header())?;
        }
        for group in groups {
            if let Some((first, last)) = self.inspection.span(*group) {
                self.group(*group, first.max(from), last.min(to))?;
            }
        }
        self.out.flush()
    }

    /// Prints the entries of `group`, some at a time: a log may be longer than memory.
    fn group(&mut self, group: GroupId, first: u64, last: u64) -> io::Result<()> {
        let mut next = first;
        while next <= last && self.left > 0 {
            match self.inspection.entries(group, next, last.saturating_add(1)) {
                Ok(entries) => {
                    // By count, not by what a damaged one says of itself: so it always ends.
                    next = next.saturating_add(entries.len().max(1) as u64);
                    for entry in entries {
                        self.entry(&ShownEntry::of(group, &entry))?;
                    }
                }
                Err(error @ (ReadError::Disk { .. } | ReadError::Closed)) => {
                    self.gap(group, next, last, error);
                    return Ok(());
                }
                Err(error) => {
                    self.gap(group, next, next, error);
                    next = next.saturating_add(1);
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &ShownEntry) -> io::Result<()> {
        if self.left == 0 || self.args.kind.is_some_and(|kind| kind != entry.kind()) {
            return Ok(());
        }
        self.left -= 1;
        match self.output {
            Output::Json => serde_json::to_writer(&mut self.out, entry)?,
            Output::Table => write!(self.out, "{entry}")?,
        }
        writeln!(self.out)
    }

    fn gap(&mut self, group: GroupId, first: u64, last: u64, error: ReadError) {
        match self.gaps.last_mut() {
            Some(before) if before.group == group && before.last.checked_add(1) == Some(first) => {
                before.last = last;
            }
            _ => self.gaps.push(Gap { group, first, last, error }),
        }
    }
}
