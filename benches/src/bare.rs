//! The disk alone: append as many bytes as a batch has, and fdatasync.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Instant;

use crate::latency::Latencies;

/// A file that is only appended to, its space allocated beforehand as raft-engine does it.
pub(crate) struct BareLog {
    file: File,
    record: Vec<u8>,
}

impl BareLog {
    /// Makes the file for `records` of `record_bytes` each.
    pub(crate) fn create(path: &Path, record_bytes: usize, records: u64) -> io::Result<BareLog> {
        let file = File::create_new(path)?;
        let bytes = record_bytes as u64 * records;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
        file.sync_all()?;
        Ok(BareLog { file, record: vec![0xa5; record_bytes] })
    }

    /// Appends `count` records, each made durable by itself, and notes how long each took.
    pub(crate) fn measure(&mut self, count: u32, latencies: &mut Latencies) -> io::Result<()> {
        for _ in 0..count {
            let start = Instant::now();
            self.file.write_all(&self.record)?;
            self.file.sync_data()?;
            latencies.note(start.elapsed());
        }
        Ok(())
    }
}
