//! The witness: a small file beside the log that knows where the log must end.
//!
//! raft-engine takes a log whose end was cut off for one that was never longer (trap E07). The
//! witness holds the highest batch sequence that was made durable, and is compared with the log
//! at every open, before anything is written.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0 to 4095 | slot 0: a frame of kind `QWIT` around directory id (16) and sequence (8, little endian); then zeros |
//! | 4096 to 8191 | slot 1: as slot 0 |
//!
//! **Order of effects.** A batch is synced; then its sequence is written here, without a sync, so
//! that it is exact after a kill; then the batch is released. It is synced before a new term or
//! vote is released, at the latest a bounded time after other batches, and at a clean close.
//!
//! **Why one slot is always whole.** Between two syncs only one slot is written, and never the one
//! that was synced last; so a power loss can tear one at most, and the other holds a sequence that
//! was durable. The sequence never goes back: whichever slot is read, a log that ends below it
//! has lost what was durable. At a clean close both slots are made the same, so that a slot that
//! rots at rest takes nothing with it.

use std::io::{self, Read as _};
use std::path::Path;

use crate::files::{Files, OutFile};
use crate::frame;
use crate::ids::DirectoryId;

const KIND: [u8; 4] = *b"QWIT";
const VERSION: u16 = 1;
/// Bytes of a slot: no disk tears two of them with one write.
const SLOT_LEN: usize = 4096;
/// Bytes of the file.
const FILE_LEN: usize = 2 * SLOT_LEN;
/// Bytes of a frame in a slot.
const FRAME_LEN: usize = frame::HEADER_LEN + 24 + frame::FOOTER_LEN;

/// What a witness file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Testimony {
    /// The highest sequence that was durable.
    pub sequence: u64,
    /// The slot that says so.
    slot: usize,
    /// Whether the other slot is unreadable: torn by a power loss, or rotten.
    pub is_half: bool,
}

/// Why there is no testimony.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WitnessFault {
    #[error("it is missing")]
    Missing,
    #[error("it is {0} bytes long, not {FILE_LEN}")]
    Length(u64),
    #[error("neither of its slots can be read: {0}; {1}")]
    Slots(String, String),
}

/// The content of a fresh witness: nothing was durable yet.
pub(crate) fn fresh(directory: DirectoryId) -> Vec<u8> {
    let mut bytes = vec![0; FILE_LEN];
    for slot in bytes.chunks_exact_mut(SLOT_LEN) {
        slot[..FRAME_LEN].copy_from_slice(&encode(directory, 0));
    }
    bytes
}

fn encode(directory: DirectoryId, sequence: u64) -> Vec<u8> {
    let mut body = directory.as_bytes().to_vec();
    body.extend_from_slice(&sequence.to_le_bytes());
    frame::seal(KIND, VERSION, &body)
}

fn decode(directory: DirectoryId, slot: &[u8]) -> Result<u64, String> {
    let (bytes, padding) = slot.split_at(FRAME_LEN);
    let body = frame::unseal(KIND, VERSION, bytes).map_err(|error| error.to_string())?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err("there is something behind it".to_owned());
    }
    let (found, sequence) = body.split_at(16);
    if found != directory.as_bytes() {
        return Err("it is of another directory".to_owned());
    }
    match sequence.try_into() {
        Ok(sequence) => Ok(u64::from_le_bytes(sequence)),
        Err(_) => Err("its sequence is no number of 8 bytes".to_owned()),
    }
}

/// Reads the witness of `directory`, and changes nothing.
///
/// # Errors
///
/// Of the file system, but for a file that is missing.
pub(crate) fn read(
    files: &dyn Files,
    path: &Path,
    directory: DirectoryId,
) -> io::Result<Result<Testimony, WitnessFault>> {
    let mut file = match files.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Err(WitnessFault::Missing));
        }
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    if len != FILE_LEN as u64 {
        return Ok(Err(WitnessFault::Length(len)));
    }
    let mut bytes = vec![0; FILE_LEN];
    file.read_exact(&mut bytes)?;
    let (first, second) = bytes.split_at(SLOT_LEN);
    Ok(testimony(decode(directory, first), decode(directory, second)))
}

fn testimony(
    first: Result<u64, String>,
    second: Result<u64, String>,
) -> Result<Testimony, WitnessFault> {
    match (first, second) {
        (Ok(first), Ok(second)) => {
            let (sequence, slot) = if first >= second { (first, 0) } else { (second, 1) };
            Ok(Testimony { sequence, slot, is_half: false })
        }
        (Ok(sequence), Err(_)) => Ok(Testimony { sequence, slot: 0, is_half: true }),
        (Err(_), Ok(sequence)) => Ok(Testimony { sequence, slot: 1, is_half: true }),
        (Err(first), Err(second)) => Err(WitnessFault::Slots(first, second)),
    }
}

/// The witness, open to be written.
#[derive(Debug)]
pub(crate) struct Witness {
    directory: DirectoryId,
    file: Box<dyn OutFile>,
    /// The slot that is written until the next sync.
    slot: usize,
    sequence: u64,
    is_synced: bool,
}

impl Witness {
    /// Opens the file that `testimony` was read from.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub(crate) fn open(
        files: &dyn Files,
        path: &Path,
        directory: DirectoryId,
        testimony: &Testimony,
    ) -> io::Result<Self> {
        let file = files.open_to_write(path)?;
        // After a kill the slot that speaks may be in memory only. Synced, it is the one to fall
        // back to, and the other is the one to write.
        file.sync()?;
        let Testimony { slot, sequence, .. } = *testimony;
        Ok(Self { directory, file, slot: 1 - slot, sequence, is_synced: true })
    }

    /// Whether something was written since the last sync.
    pub(crate) fn is_synced(&self) -> bool {
        self.is_synced
    }

    /// Writes that `sequence` is durable, without a sync.
    ///
    /// # Errors
    ///
    /// Of the file system. Fatal: the slot may be torn.
    ///
    /// # Panics
    ///
    /// If the sequence goes back.
    pub(crate) fn write(&mut self, sequence: u64) -> io::Result<()> {
        assert!(
            sequence >= self.sequence,
            "sequence {sequence} after {}: the witness never goes back",
            self.sequence
        );
        self.sequence = sequence;
        let frame = encode(self.directory, sequence);
        self.write_slot(&frame)
    }

    fn write_slot(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.is_synced = false;
        self.file.write_at((self.slot * SLOT_LEN) as u64, bytes)
    }

    /// Makes durable what was written, if anything was.
    ///
    /// # Errors
    ///
    /// Of the file system. Fatal, and never to be tried again.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if !self.is_synced {
            self.file.sync()?;
            self.is_synced = true;
            self.slot = 1 - self.slot;
        }
        Ok(())
    }

    /// Makes both slots say the same, durably: at a clean close.
    ///
    /// # Errors
    ///
    /// As [`Self::sync`].
    pub(crate) fn close(&mut self) -> io::Result<()> {
        let mut slot = encode(self.directory, self.sequence);
        slot.resize(SLOT_LEN, 0);
        for _ in 0..2 {
            self.write_slot(&slot)?;
            self.sync()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raft_engine::env::DefaultFileSystem;

    use super::*;
    use crate::files::DiskFiles;

    fn files() -> Arc<dyn Files> {
        DiskFiles::over(Arc::new(DefaultFileSystem))
    }

    fn directory() -> DirectoryId {
        DirectoryId::from_bytes([7; 16])
    }

    fn read_from(bytes: &[u8]) -> Result<Testimony, WitnessFault> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        read(files().as_ref(), file.path(), directory()).unwrap()
    }

    struct File {
        file: tempfile::NamedTempFile,
        witness: Witness,
    }

    fn open(bytes: &[u8]) -> File {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let testimony = read(files().as_ref(), file.path(), directory()).unwrap().unwrap();
        let witness =
            Witness::open(files().as_ref(), file.path(), directory(), &testimony).unwrap();
        File { file, witness }
    }

    impl File {
        fn sequences(&self) -> (u64, u64) {
            let bytes = std::fs::read(self.file.path()).unwrap();
            let (first, second) = bytes.split_at(SLOT_LEN);
            (decode(directory(), first).unwrap(), decode(directory(), second).unwrap())
        }
    }

    #[test]
    fn only_the_slot_that_was_not_synced_last_is_written() {
        let mut file = open(&fresh(directory()));
        for sequence in 1..=3 {
            file.witness.write(sequence).unwrap();
        }
        assert_eq!(file.sequences(), (0, 3));
        file.witness.sync().unwrap();
        file.witness.sync().unwrap();
        file.witness.write(4).unwrap();
        assert_eq!(file.sequences(), (4, 3));
        file.witness.sync().unwrap();
        file.witness.write(5).unwrap();
        assert_eq!(file.sequences(), (4, 5));
        file.witness.close().unwrap();
        assert_eq!(file.sequences(), (5, 5));
    }

    #[test]
    fn after_a_kill_the_slot_that_speaks_is_kept() {
        for slots in [(8, 10), (10, 8)] {
            let mut bytes = fresh(directory());
            bytes[..FRAME_LEN].copy_from_slice(&encode(directory(), slots.0));
            bytes[SLOT_LEN..][..FRAME_LEN].copy_from_slice(&encode(directory(), slots.1));
            let mut file = open(&bytes);
            file.witness.write(11).unwrap();
            let (first, second) = file.sequences();
            assert_eq!(first.min(second), 10, "{slots:?}");
        }
    }

    #[test]
    fn a_torn_slot_leaves_the_other_one_to_speak() {
        let mut file = open(&fresh(directory()));
        file.witness.write(7).unwrap();
        file.witness.sync().unwrap();
        file.witness.write(9).unwrap();
        let bytes = std::fs::read(file.file.path()).unwrap();
        assert_eq!(read_from(&bytes).unwrap().sequence, 9);
        for at in 0..FRAME_LEN {
            let mut torn = bytes.clone();
            torn[at] ^= 0x20;
            let testimony = read_from(&torn).unwrap();
            assert_eq!((testimony.sequence, testimony.is_half), (7, true), "byte {at}");
        }
    }

    /// To see it fail: let `testimony` answer `Err`s with sequence 0, or leave the directory out of
    /// `decode`.
    #[test]
    fn trap_E07_a_witness_that_is_missing_cut_or_of_another_directory_says_nothing() {
        let bytes = fresh(directory());
        assert_eq!(read_from(&bytes).unwrap().sequence, 0);
        assert_eq!(read_from(&bytes[1..]), Err(WitnessFault::Length(FILE_LEN as u64 - 1)));
        assert_eq!(read_from(&[]), Err(WitnessFault::Length(0)));
        let mut both = bytes.clone();
        (both[3], both[FILE_LEN - 1]) = (1, 1);
        assert!(matches!(read_from(&both), Err(WitnessFault::Slots(..))));
        let other = fresh(DirectoryId::from_bytes([8; 16]));
        assert!(matches!(read_from(&other), Err(WitnessFault::Slots(..))));
        let missing = Path::new("/nowhere/witness");
        let found = read(files().as_ref(), missing, directory()).unwrap();
        assert_eq!(found, Err(WitnessFault::Missing));
    }

    #[test]
    #[should_panic(expected = "never goes back")]
    fn the_sequence_never_goes_back() {
        let mut file = open(&fresh(directory()));
        file.witness.write(2).unwrap();
        file.witness.write(1).unwrap();
    }
}
