//! [`SnapshotParser`]: verifies a snapshot file as its bytes come, from the disk or from a peer.

use std::path::PathBuf;

use crate::damage::Damage;
use crate::frame::{self, FrameError};
use crate::snapshot::{
    BLOCK_HEADER_LEN, BLOCK_LEN, FOOTER_LEN, KIND, META_BYTES_MAX, SnapshotError, SnapshotMeta,
    block_crc, footer, footer_crcs,
};

/// A part of the file, which is verified when all of it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// The fixed beginning of the header.
    Head,
    /// All of the header, beginning with the head.
    Header,
    /// Length and CRC of a block, or the beginning of the footer.
    BlockHeader,
    /// The data of a block.
    Block { crc: u32 },
    /// All of the footer.
    Footer,
    /// The footer was the last.
    End,
    /// What is wrong with the file; it stays.
    Damaged(Damage),
}

/// What the bytes that came last have completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// Nothing that concerns anybody else.
    Partly,
    /// The header: the metadata are known.
    Header,
    /// A block, which is in [`SnapshotParser::block`] now.
    Block,
    /// The footer: the whole file is verified.
    End,
}

/// Parses a snapshot file front to back. Whoever has its bytes puts them into
/// [`wanted`](Self::wanted) and says so with [`filled`](Self::filled). Holds the header until it is
/// parsed, then one block.
#[derive(Debug)]
pub(crate) struct SnapshotParser {
    /// For findings: the file, and what is to be done about it.
    path: PathBuf,
    remedy: &'static str,
    /// Of which the header must be a part.
    file_len: u64,
    part: Part,
    /// The part as far as it is there, `filled` bytes of `needed`.
    bytes: Vec<u8>,
    filled: usize,
    needed: usize,
    /// Bytes of the file that are verified: where the part begins.
    offset: u64,
    meta: Option<SnapshotMeta>,
    header_crc: u32,
    /// Bytes of the verified block that `bytes` begins with.
    block_len: usize,
    /// After a block that is not full there is no other.
    is_last_block: bool,
    blocks: u64,
    data_len: u64,
    data_hasher: crc32fast::Hasher,
    /// Those of the footer, when it is verified.
    crcs: Option<u64>,
}

impl SnapshotParser {
    /// Begins a file of `file_len` bytes. `path` and `remedy` go into findings.
    pub(crate) fn new(path: PathBuf, remedy: &'static str, file_len: u64) -> Self {
        Self {
            path,
            remedy,
            file_len,
            part: Part::Head,
            bytes: Vec::new(),
            filled: 0,
            needed: frame::HEADER_LEN,
            offset: 0,
            meta: None,
            header_crc: 0,
            block_len: 0,
            is_last_block: false,
            blocks: 0,
            data_len: 0,
            data_hasher: crc32fast::Hasher::new(),
            crcs: None,
        }
    }

    /// Bytes of state in the blocks that are verified.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.data_len
    }

    /// Room for the next bytes of the file; none after the footer. The block before is gone.
    ///
    /// # Errors
    ///
    /// The damage that was found before.
    pub(crate) fn wanted(&mut self) -> Result<&mut [u8], SnapshotError> {
        if let Part::Damaged(damage) = &self.part {
            return Err(SnapshotError::Damaged(damage.clone()));
        }
        self.block_len = 0;
        self.bytes.resize(self.needed, 0);
        Ok(&mut self.bytes[self.filled..])
    }

    /// Takes the first `len` bytes of what was wanted as the next ones of the file.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Damaged`], which stays.
    pub(crate) fn filled(&mut self, len: usize) -> Result<Parsed, SnapshotError> {
        self.filled += len;
        assert!(self.filled <= self.needed, "no more than what was wanted");
        if self.filled < self.needed {
            return Ok(Parsed::Partly);
        }
        match self.part {
            Part::Head => self.head(),
            Part::Header => self.header(),
            Part::BlockHeader => self.block_header(),
            Part::Block { crc } => self.data(crc),
            Part::Footer => self.footer(),
            Part::End => Ok(Parsed::End),
            Part::Damaged(ref damage) => Err(SnapshotError::Damaged(damage.clone())),
        }
    }

    /// Takes `bytes`, however many, as the next ones of the file.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Damaged`], which stays.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), SnapshotError> {
        while !bytes.is_empty() {
            let wanted = self.wanted()?;
            let len = wanted.len().min(bytes.len());
            if len == 0 {
                return Err(self.goes_on());
            }
            wanted[..len].copy_from_slice(&bytes[..len]);
            bytes = &bytes[len..];
            self.filled(len)?;
        }
        Ok(())
    }

    /// What the snapshot is of, when the header is parsed.
    pub(crate) fn meta(&self) -> Option<&SnapshotMeta> {
        self.meta.as_ref()
    }

    /// The data of the block that was completed last, until more is wanted.
    pub(crate) fn block(&self) -> &[u8] {
        &self.bytes[..self.block_len]
    }

    /// Bytes of the file that are verified.
    pub(crate) fn verified_bytes(&self) -> u64 {
        self.offset
    }

    /// Whether the whole file is verified.
    pub(crate) fn is_at_end(&self) -> bool {
        self.part == Part::End
    }

    /// The CRCs of the footer, when the whole file is verified.
    pub(crate) fn crcs(&self) -> Option<u64> {
        self.crcs
    }

    /// Bytes of memory held.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// There are no more bytes, and some are wanted.
    pub(crate) fn ends_early(&mut self) -> SnapshotError {
        self.damaged(match self.meta {
            None => "the file ends within its header",
            Some(_) => "the file ends too early",
        })
    }

    /// There are more bytes, and none are wanted.
    pub(crate) fn goes_on(&mut self) -> SnapshotError {
        self.damaged("there is something behind the footer")
    }

    /// All of it is verified, and of another file than was announced.
    pub(crate) fn is_another(&mut self) -> SnapshotError {
        self.damaged("it is another file of the same position than was announced")
    }

    fn damaged(&mut self, what: impl Into<String>) -> SnapshotError {
        let damage = Damage::of_file(&self.path, what, self.remedy).at_offset(self.offset);
        self.void(damage)
    }

    fn damaged_header(&mut self, error: &FrameError) -> SnapshotError {
        let damage = Damage::of_frame(&self.path, "the header", error);
        // Only a newer release has a remedy of its own.
        let is_newer = matches!(error, FrameError::Version { .. });
        let remedy = if is_newer { damage.remedy } else { self.remedy };
        self.void(Damage { remedy, ..damage })
    }

    fn void(&mut self, damage: Damage) -> SnapshotError {
        let group = self.meta.as_ref().map(|meta| meta.group);
        let damage = Damage { group, ..damage };
        self.part = Part::Damaged(damage.clone());
        SnapshotError::Damaged(damage)
    }

    /// Goes on with a part of `needed` bytes, the first `filled` of which are there.
    fn expect(&mut self, part: Part, filled: usize, needed: usize) {
        (self.part, self.filled, self.needed) = (part, filled, needed);
    }

    /// The part is verified: goes on with the next block.
    fn expect_block(&mut self) {
        self.expect(Part::BlockHeader, 0, BLOCK_HEADER_LEN);
    }

    fn head(&mut self) -> Result<Parsed, SnapshotError> {
        let mut head = [0; frame::HEADER_LEN];
        head.copy_from_slice(&self.bytes);
        let body_len = frame::body_len(KIND, &head).map_err(|error| self.damaged_header(&error))?;
        // Before the memory is reserved: the length is not verified yet.
        if body_len > META_BYTES_MAX || u64::from(body_len) > self.file_len {
            return Err(self.damaged("the header announces a length that cannot be"));
        }
        let needed = frame::HEADER_LEN + body_len as usize + frame::FOOTER_LEN;
        self.expect(Part::Header, frame::HEADER_LEN, needed);
        Ok(Parsed::Partly)
    }

    fn header(&mut self) -> Result<Parsed, SnapshotError> {
        let meta =
            SnapshotMeta::decode(&self.bytes).map_err(|error| self.damaged_header(&error))?;
        self.header_crc = crc32fast::hash(&self.bytes);
        self.offset = self.bytes.len() as u64;
        self.meta = Some(meta);
        // A header can be far larger than what is needed from here on.
        self.bytes = Vec::with_capacity(BLOCK_LEN);
        self.expect_block();
        Ok(Parsed::Header)
    }

    fn block_header(&mut self) -> Result<Parsed, SnapshotError> {
        let word = |at: usize| {
            let bytes = &self.bytes[at..];
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        let (len, crc) = (word(0) as usize, word(4));
        if len == 0 {
            self.expect(Part::Footer, BLOCK_HEADER_LEN, FOOTER_LEN);
        } else if len > BLOCK_LEN || self.is_last_block {
            return Err(self.damaged(format!("a block of {len} bytes cannot be here")));
        } else {
            self.expect(Part::Block { crc }, 0, len);
        }
        Ok(Parsed::Partly)
    }

    fn data(&mut self, crc: u32) -> Result<Parsed, SnapshotError> {
        if block_crc(self.blocks, self.header_crc, &self.bytes) != crc {
            return Err(self.damaged(format!("the CRC of block {} does not match", self.blocks)));
        }
        let len = self.bytes.len();
        self.data_hasher.update(&self.bytes);
        self.data_len += len as u64;
        self.offset += (BLOCK_HEADER_LEN + len) as u64;
        self.blocks += 1;
        self.block_len = len;
        self.is_last_block = len < BLOCK_LEN;
        self.expect_block();
        Ok(Parsed::Block)
    }

    fn footer(&mut self) -> Result<Parsed, SnapshotError> {
        let data_crc = self.data_hasher.clone().finalize();
        let footer = footer(self.blocks, self.data_len, data_crc, self.header_crc);
        if self.bytes != footer {
            return Err(self.damaged("the footer does not match the file"));
        }
        self.crcs = Some(footer_crcs(&footer));
        self.offset += FOOTER_LEN as u64;
        self.expect(Part::End, 0, 0);
        Ok(Parsed::End)
    }
}
