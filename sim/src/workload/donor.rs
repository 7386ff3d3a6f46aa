//! A peer that has the snapshots which are received.

use std::io::Write;

use bytes::Bytes;
use quorate_engine::{DefaultFileSystem, Engine, Formatted, SnapshotMeta};
use tempfile::TempDir;

use super::{WorkloadError, config, found};
use crate::scratch::scratch;

/// An engine of its own, for its snapshot files.
pub(super) struct Donor {
    engine: Engine<DefaultFileSystem>,
    dir: TempDir,
}

impl Donor {
    pub(super) fn new() -> Result<Self, WorkloadError> {
        let dir = scratch()?;
        found(dir.path())?;
        let engine = Engine::open(Formatted::open(dir.path())?, &config())?;
        Ok(Self { engine, dir })
    }

    /// The file of a snapshot, byte for byte.
    pub(super) fn snapshot(
        &self,
        meta: SnapshotMeta,
        content: &[u8],
    ) -> Result<Bytes, WorkloadError> {
        let (group, id) = (meta.group, meta.id);
        let mut writer = self.engine.snapshots.create(meta)?;
        writer.write_all(content)?;
        writer.finish()?;
        let dir = self.dir.path().join("snapshots").join(group.to_string());
        Ok(std::fs::read(dir.join(format!("{}-{}.snap", id.index, id.term)))?.into())
    }
}
