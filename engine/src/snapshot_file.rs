//! Writing and reading one snapshot file, a block at a time.

use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mutation::Bug;

use crate::damage::Damage;
use crate::files::{Files, InFile, OutFile};
use crate::pace::Pace;
use crate::snapshot::{
    BLOCK_HEADER_LEN, BLOCK_LEN, FOOTER_LEN, REMEDY, SnapshotDigest, SnapshotError, SnapshotMeta,
    block_crc, footer, footer_crcs,
};
use crate::snapshot_parser::{Parsed, SnapshotParser};
use crate::temporary::Temporary;

/// Writes a snapshot: a stream of bytes that gets its name only when it is complete and durable.
///
/// Dropping it without [`finish`](Self::finish) leaves nothing behind. Holds one block in memory.
/// Blocks on the disk.
#[derive(Debug)]
pub struct SnapshotWriter {
    meta: SnapshotMeta,
    target: PathBuf,
    // Before the temporary, to be closed before it is removed.
    file: Box<dyn OutFile>,
    temporary: Temporary,
    header_crc: u32,
    /// Room for the block's header, and its data so far.
    block: Vec<u8>,
    blocks: u64,
    data_len: u64,
    pace: Pace,
    data_hasher: crc32fast::Hasher,
}

impl SnapshotWriter {
    pub(crate) fn create(
        files: &Arc<dyn Files>,
        meta: SnapshotMeta,
        temporary: &Path,
        target: PathBuf,
    ) -> Result<Self, SnapshotError> {
        let (temporary, mut file) =
            Temporary::create(files, temporary).map_err(SnapshotError::io(temporary))?;
        let header = meta.encode();
        file.write_all(&header).map_err(SnapshotError::io(temporary.path()))?;
        Ok(Self {
            meta,
            target,
            file,
            temporary,
            header_crc: crc32fast::hash(&header),
            block: empty_block(),
            blocks: 0,
            data_len: 0,
            pace: Pace::default(),
            data_hasher: crc32fast::Hasher::new(),
        })
    }

    /// Bytes of state written so far.
    pub fn data_bytes(&self) -> u64 {
        self.data_len + self.block_len() as u64
    }

    /// Bytes of data in the block so far.
    fn block_len(&self) -> usize {
        self.block.len() - BLOCK_HEADER_LEN
    }

    /// Bytes of memory held.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.block.capacity()
    }

    fn write_block(&mut self) -> io::Result<()> {
        let (header, data) = self.block.split_at_mut(BLOCK_HEADER_LEN);
        let len = u32::try_from(data.len()).expect("a block is small");
        header[..4].copy_from_slice(&len.to_le_bytes());
        let crc = block_crc(self.blocks, self.header_crc, data);
        header[4..].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all(&self.block)?;
        self.data_hasher.update(&self.block[BLOCK_HEADER_LEN..]);
        self.data_len += u64::from(len);
        self.blocks += 1;
        self.block.truncate(BLOCK_HEADER_LEN);
        self.pace.keep(self.file.as_ref(), self.data_len)
    }

    /// Completes the file, makes it and its name durable, and returns what it is of. Only then
    /// may the log be compacted, or a peer be offered it.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Full`], [`SnapshotError::Io`]; nothing is left behind, and the node goes
    /// on: a snapshot that is not finished acknowledges nothing. A file whose fsync failed is not
    /// synced again but removed, and the next attempt writes a new one.
    ///
    /// One failure leaves the file, complete, under its name: that of making the name durable.
    /// It may be gone after a power loss. That is harmless as long as it does not count as made:
    /// no record names it, and a later attempt at the same position makes the name durable.
    pub fn finish(mut self) -> Result<SnapshotMeta, SnapshotError> {
        self.write_end().map_err(SnapshotError::io(self.temporary.path()))?;
        let Self { meta, target, file, temporary, .. } = self;
        drop(file);
        temporary.keep_as(&target).map_err(SnapshotError::io(&target))?;
        Ok(meta)
    }

    fn write_end(&mut self) -> io::Result<()> {
        if self.block_len() > 0 {
            self.write_block()?;
        }
        let data_crc = self.data_hasher.clone().finalize();
        let footer = footer(self.blocks, self.data_len, data_crc, self.header_crc);
        self.file.write_all(&footer)?;
        if mutation::is(Bug::SnapshotNotSynced) {
            return Ok(());
        }
        self.pace.sync(self.file.as_ref())
    }
}

/// A block without data, with room for it.
fn empty_block() -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK_HEADER_LEN + BLOCK_LEN);
    block.resize(BLOCK_HEADER_LEN, 0);
    block
}

/// An error is of the kind of the disk's, around a [`SnapshotError`].
impl Write for SnapshotWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.block_len() == BLOCK_LEN {
            self.write_block().map_err(|error| {
                io::Error::new(error.kind(), SnapshotError::io(self.temporary.path())(error))
            })?;
        }
        let len = buf.len().min(BLOCK_LEN - self.block_len());
        self.block.extend_from_slice(&buf[..len]);
        Ok(len)
    }

    /// Does nothing: the bytes are durable after [`SnapshotWriter::finish`], and not before.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a snapshot as a stream of bytes, every block verified before any byte of it is given
/// out, and the whole before the end is reported.
///
/// Damage comes as an [`io::Error`] of kind `InvalidData` around a [`SnapshotError`], and stays.
/// Bytes given out before it are of verified blocks, but the snapshot as a whole is void. Holds
/// one block in memory. Blocks on the disk.
#[derive(Debug)]
pub struct SnapshotReader {
    meta: SnapshotMeta,
    path: PathBuf,
    file: Box<dyn InFile>,
    file_len: u64,
    parser: SnapshotParser,
    /// Bytes of the parser's block that are given out.
    given: usize,
}

impl SnapshotReader {
    /// Opens a file and verifies its header.
    pub(crate) fn open(files: &Arc<dyn Files>, path: PathBuf) -> Result<Self, SnapshotError> {
        let mut file = files.open(&path).map_err(SnapshotError::opening(&path))?;
        let file_len = file.len().map_err(SnapshotError::io(&path))?;
        let mut parser = SnapshotParser::new(path.clone(), REMEDY, file_len);
        let meta = loop {
            parse_some(&mut parser, file.as_mut(), &path)?;
            if let Some(meta) = parser.meta() {
                break meta.clone();
            }
        };
        Ok(Self { meta, path, file, file_len, parser, given: 0 })
    }

    /// What the snapshot is of.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Bytes of state that are read and verified.
    pub fn data_bytes(&self) -> u64 {
        self.parser.data_bytes()
    }

    /// Reads the file to its end and verifies all of it.
    pub(crate) fn verify(&mut self) -> Result<(), SnapshotError> {
        while !self.parser.is_at_end() {
            self.next_block()?;
        }
        Ok(())
    }

    /// Bytes of memory held.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.parser.capacity()
    }

    /// Reads and verifies the next block, or the footer.
    fn next_block(&mut self) -> Result<(), SnapshotError> {
        self.given = 0;
        loop {
            match parse_some(&mut self.parser, self.file.as_mut(), &self.path)? {
                Parsed::Block => return Ok(()),
                Parsed::End if self.parser.verified_bytes() == self.file_len => return Ok(()),
                Parsed::End => return Err(self.parser.goes_on()),
                Parsed::Partly | Parsed::Header => {}
            }
        }
    }
}

/// Reads what the parser wants, or a part of it.
fn parse_some(
    parser: &mut SnapshotParser,
    file: &mut dyn InFile,
    path: &Path,
) -> Result<Parsed, SnapshotError> {
    let wanted = parser.wanted()?;
    let is_at_end = wanted.is_empty();
    match file.read(wanted) {
        Ok(0) if !is_at_end => Err(parser.ends_early()),
        Ok(len) => parser.filled(len),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Parsed::Partly),
        Err(error) => Err(SnapshotError::io(path)(error)),
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if self.given == self.parser.block().len() && !self.parser.is_at_end() {
            self.next_block().map_err(|error| match error {
                SnapshotError::Io { source, .. } | SnapshotError::Full { source, .. } => source,
                error => io::Error::new(io::ErrorKind::InvalidData, error),
            })?;
        }
        let left = &self.parser.block()[self.given..];
        let len = buf.len().min(left.len());
        buf[..len].copy_from_slice(&left[..len]);
        self.given += len;
        Ok(len)
    }
}

/// A snapshot file as it is, to be sent to a peer, who verifies it.
///
/// It stays readable when the snapshot is superseded and removed meanwhile: an open file outlives
/// its name ([`Disk`](crate::Disk) promises that). Any number of them read the same file, each at
/// its own place. Blocks on the disk.
#[derive(Debug)]
pub struct SnapshotFile {
    file: Box<dyn InFile>,
    digest: SnapshotDigest,
}

impl SnapshotFile {
    pub(crate) fn open(files: &Arc<dyn Files>, path: &Path) -> Result<Self, SnapshotError> {
        let mut file = files.open(path).map_err(SnapshotError::opening(path))?;
        let len_bytes = file.len().map_err(SnapshotError::io(path))?;
        let Some(at) = len_bytes.checked_sub(FOOTER_LEN as u64) else {
            let what = "the file is shorter than a footer";
            return Err(SnapshotError::Damaged(Damage::of_file(path, what, REMEDY)));
        };
        let mut footer = [0; FOOTER_LEN];
        file.seek(SeekFrom::Start(at))
            .and_then(|_| file.read_exact(&mut footer))
            .and_then(|()| file.rewind())
            .map_err(SnapshotError::io(path))?;
        let digest = SnapshotDigest { len_bytes, crcs: footer_crcs(&footer) };
        Ok(Self { file, digest })
    }

    /// Bytes in the file.
    pub fn len_bytes(&self) -> u64 {
        self.digest.len_bytes
    }

    /// What tells this file from another of the same position.
    pub fn digest(&self) -> SnapshotDigest {
        self.digest
    }

    /// Goes on reading at `offset`.
    ///
    /// # Errors
    ///
    /// That of the disk.
    pub fn go_to(&mut self, offset: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(offset)).map(|_| ())
    }
}

impl Read for SnapshotFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read(buf)
    }
}

#[cfg(test)]
mod tests;
