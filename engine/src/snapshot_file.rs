//! Writing and reading one snapshot file, a block at a time.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::damage::Damage;
use crate::directory;
use crate::frame;
use crate::ids::LogId;
use crate::snapshot::{
    BLOCK_HEADER_LEN, BLOCK_LEN, FOOTER_LEN, KIND, META_BYTES_MAX, REMEDY, SnapshotError,
    SnapshotMeta, block_crc, footer,
};

/// A file that is removed when dropped, unless it is given its final name.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    is_kept: bool,
}

impl Temporary {
    /// Creates the file; there must be none of this name.
    pub(crate) fn create(path: PathBuf) -> Result<(Self, File), SnapshotError> {
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(SnapshotError::io(&path))?;
        Ok((Self { path, is_kept: false }, file))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file, which is synced, its final name, and makes the name durable.
    pub(crate) fn keep_as(mut self, path: &Path) -> Result<(), SnapshotError> {
        std::fs::rename(&self.path, path).map_err(SnapshotError::io(path))?;
        self.is_kept = true;
        let dir = directory::parent_of(path);
        directory::sync_dir(&dir).map_err(SnapshotError::io(&dir))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_kept {
            // What cannot be removed now is removed at the next open.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes a snapshot: a stream of bytes that gets its name only when it is complete and durable.
///
/// Dropping it without [`finish`](Self::finish) leaves nothing behind. Holds one block in memory.
/// Blocks on the disk.
#[derive(Debug)]
pub struct SnapshotWriter {
    meta: SnapshotMeta,
    target: PathBuf,
    temporary: Temporary,
    file: BufWriter<File>,
    header_crc: u32,
    block: Vec<u8>,
    blocks: u64,
    data_len: u64,
    data_hasher: crc32fast::Hasher,
}

impl SnapshotWriter {
    pub(crate) fn create(
        meta: SnapshotMeta,
        temporary: PathBuf,
        target: PathBuf,
    ) -> Result<Self, SnapshotError> {
        let (temporary, file) = Temporary::create(temporary)?;
        let mut file = BufWriter::with_capacity(BLOCK_LEN, file);
        let header = meta.encode();
        file.write_all(&header).map_err(SnapshotError::io(temporary.path()))?;
        Ok(Self {
            meta,
            target,
            temporary,
            file,
            header_crc: crc32fast::hash(&header),
            block: Vec::with_capacity(BLOCK_LEN),
            blocks: 0,
            data_len: 0,
            data_hasher: crc32fast::Hasher::new(),
        })
    }

    fn write_block(&mut self) -> io::Result<()> {
        let len = u32::try_from(self.block.len()).expect("a block is small");
        let crc = block_crc(self.blocks, self.header_crc, &self.block);
        self.file.write_all(&len.to_le_bytes())?;
        self.file.write_all(&crc.to_le_bytes())?;
        self.file.write_all(&self.block)?;
        self.data_hasher.update(&self.block);
        self.data_len += u64::from(len);
        self.blocks += 1;
        self.block.clear();
        Ok(())
    }

    /// Completes the file, makes it and its name durable, and returns what it is of. Only then
    /// may the log be compacted, or a peer be offered it.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`]; nothing is left behind.
    pub fn finish(mut self) -> Result<SnapshotMeta, SnapshotError> {
        let path = self.temporary.path().to_owned();
        self.write_end().map_err(SnapshotError::io(&path))?;
        drop(self.file);
        self.temporary.keep_as(&self.target)?;
        Ok(self.meta)
    }

    fn write_end(&mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            self.write_block()?;
        }
        let data_crc = self.data_hasher.clone().finalize();
        let footer = footer(self.blocks, self.data_len, data_crc, self.header_crc);
        self.file.write_all(&footer)?;
        self.file.flush()?;
        self.file.get_ref().sync_all()
    }
}

impl Write for SnapshotWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.block.len() == BLOCK_LEN {
            self.write_block()?;
        }
        let len = buf.len().min(BLOCK_LEN - self.block.len());
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
    file: BufReader<File>,
    file_len: u64,
    header_crc: u32,
    block: Vec<u8>,
    /// Bytes of the block that are given out.
    given: usize,
    /// Bytes of the file that are read.
    offset: u64,
    blocks: u64,
    data_len: u64,
    data_hasher: crc32fast::Hasher,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Reading,
    Verified,
    Damaged(Damage),
}

impl SnapshotReader {
    /// Opens a file and verifies its header.
    pub(crate) fn open(path: PathBuf) -> Result<Self, SnapshotError> {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SnapshotError::Missing { path });
            }
            Err(source) => return Err(SnapshotError::Io { path, source }),
        };
        let file_len = file.metadata().map_err(SnapshotError::io(&path))?.len();
        let mut file = BufReader::with_capacity(BLOCK_LEN, file);
        let header = read_header(&mut file, &path, file_len)?;
        let meta = SnapshotMeta::decode(&header).map_err(|error| {
            SnapshotError::Damaged(Damage::of_frame(&path, "the header", &error))
        })?;
        Ok(Self {
            meta,
            path,
            file,
            file_len,
            header_crc: crc32fast::hash(&header),
            block: Vec::new(),
            given: 0,
            offset: header.len() as u64,
            blocks: 0,
            data_len: 0,
            data_hasher: crc32fast::Hasher::new(),
            state: State::Reading,
        })
    }

    /// What the snapshot is of.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Whether the whole file was read and verified.
    pub(crate) fn is_verified(&self) -> bool {
        self.state == State::Verified
    }

    /// Reads the file to its end and verifies all of it.
    pub(crate) fn verify(&mut self) -> Result<(), SnapshotError> {
        while !self.is_verified() {
            self.next_block()?;
        }
        Ok(())
    }

    fn damaged(&mut self, what: impl Into<String>) -> SnapshotError {
        let damage = Damage {
            group: Some(self.meta.group),
            ..Damage::of_file(&self.path, what, REMEDY).at_offset(self.offset)
        };
        self.state = State::Damaged(damage.clone());
        SnapshotError::Damaged(damage)
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), SnapshotError> {
        match self.file.read_exact(buf) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("the file ends too early"))
            }
            Err(source) => Err(SnapshotError::Io { path: self.path.clone(), source }),
        }
    }

    /// Reads and verifies the next block, or the footer.
    fn next_block(&mut self) -> Result<(), SnapshotError> {
        if let State::Damaged(damage) = &self.state {
            return Err(SnapshotError::Damaged(damage.clone()));
        }
        let is_short = self.blocks > 0 && self.block.len() < BLOCK_LEN;
        (self.given, self.block) = (0, std::mem::take(&mut self.block));
        let mut len = [0; 4];
        self.read_exact(&mut len)?;
        let len = u32::from_le_bytes(len) as usize;
        if len == 0 {
            self.block.clear();
            return self.read_footer();
        }
        if len > BLOCK_LEN || is_short {
            self.block.clear();
            return Err(self.damaged(format!("a block of {len} bytes cannot be here")));
        }
        let mut crc = [0; 4];
        self.read_exact(&mut crc)?;
        let mut block = std::mem::take(&mut self.block);
        block.resize(len, 0);
        self.read_exact(&mut block)?;
        if block_crc(self.blocks, self.header_crc, &block) != u32::from_le_bytes(crc) {
            return Err(self.damaged(format!("the CRC of block {} does not match", self.blocks)));
        }
        self.data_hasher.update(&block);
        self.data_len += len as u64;
        self.offset += (BLOCK_HEADER_LEN + len) as u64;
        self.blocks += 1;
        self.block = block;
        Ok(())
    }

    fn read_footer(&mut self) -> Result<(), SnapshotError> {
        let mut found = [0; FOOTER_LEN];
        self.read_exact(&mut found[4..])?;
        let data_crc = self.data_hasher.clone().finalize();
        if found != footer(self.blocks, self.data_len, data_crc, self.header_crc) {
            return Err(self.damaged("the footer does not match the file"));
        }
        if self.offset + FOOTER_LEN as u64 != self.file_len {
            return Err(self.damaged("there is something behind the footer"));
        }
        self.state = State::Verified;
        Ok(())
    }
}

fn read_header(file: &mut impl Read, path: &Path, file_len: u64) -> Result<Vec<u8>, SnapshotError> {
    let damaged = |what: &str| SnapshotError::Damaged(Damage::of_file(path, what, REMEDY));
    let eof = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("the file ends within its header"),
        _ => SnapshotError::Io { path: path.to_owned(), source: error },
    };
    let mut head = [0; frame::HEADER_LEN];
    file.read_exact(&mut head).map_err(eof)?;
    let body_len = frame::body_len(KIND, &head)
        .map_err(|error| SnapshotError::Damaged(Damage::of_frame(path, "the header", &error)))?;
    // Before the memory is reserved: the length is not verified yet.
    if body_len > META_BYTES_MAX || u64::from(body_len) > file_len {
        return Err(damaged("the header announces a length that cannot be"));
    }
    let mut header = head.to_vec();
    header.resize(frame::HEADER_LEN + body_len as usize + frame::FOOTER_LEN, 0);
    file.read_exact(&mut header[frame::HEADER_LEN..]).map_err(eof)?;
    Ok(header)
}

impl Read for SnapshotReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if self.given == self.block.len() && !self.is_verified() {
            self.next_block().map_err(|error| match error {
                SnapshotError::Io { source, .. } => source,
                error => io::Error::new(io::ErrorKind::InvalidData, error),
            })?;
        }
        let len = buf.len().min(self.block.len() - self.given);
        buf[..len].copy_from_slice(&self.block[self.given..self.given + len]);
        self.given += len;
        Ok(len)
    }
}

/// Receives a peer's snapshot file, byte for byte.
///
/// It gets its name only after all of it is verified. Dropping it leaves nothing behind. Blocks
/// on the disk.
#[derive(Debug)]
pub struct SnapshotReceiver {
    expected: (crate::ids::GroupId, LogId),
    announced: u64,
    received: u64,
    target: PathBuf,
    temporary: Temporary,
    file: File,
}

impl SnapshotReceiver {
    pub(crate) fn create(
        expected: (crate::ids::GroupId, LogId),
        announced: u64,
        temporary: PathBuf,
        target: PathBuf,
    ) -> Result<Self, SnapshotError> {
        let (temporary, file) = Temporary::create(temporary)?;
        Ok(Self { expected, announced, received: 0, target, temporary, file })
    }

    /// Bytes received so far.
    pub fn received_bytes(&self) -> u64 {
        self.received
    }

    /// Adds the next bytes of the file.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Length`] when they are more than announced; [`SnapshotError::Io`]. Drop
    /// the receiver then.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let received = self.received + bytes.len() as u64;
        if received > self.announced {
            return Err(SnapshotError::Length { announced: self.announced, received });
        }
        self.file.write_all(bytes).map_err(SnapshotError::io(self.temporary.path()))?;
        self.received = received;
        Ok(())
    }

    /// Verifies every block, the footer, and that it is the snapshot announced; makes the file
    /// and its name durable. Only then may it be installed.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]; nothing is left behind.
    pub fn finish(self) -> Result<SnapshotMeta, SnapshotError> {
        let Self { expected, announced, received, target, temporary, file } = self;
        if received != announced {
            return Err(SnapshotError::Length { announced, received });
        }
        let mut reader = SnapshotReader::open(temporary.path().to_owned())?;
        reader.verify()?;
        let meta = reader.meta;
        let found = (meta.group, meta.id);
        if found != expected {
            return Err(SnapshotError::Mismatch { expected, found });
        }
        file.sync_all().map_err(SnapshotError::io(temporary.path()))?;
        temporary.keep_as(&target)?;
        Ok(meta)
    }
}

#[cfg(test)]
mod tests;
