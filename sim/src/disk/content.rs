//! The bytes of one file, in pages that copies share until one of them writes.

use std::io;
use std::sync::Arc;

/// Bytes of a page: what a write to a shared content copies.
const PAGE_BYTES: usize = 4096;
/// Files beyond this are refused, as by any file system: a wild offset must not take the memory.
const FILE_BYTES_MAX: u64 = 16 << 30;

/// The bytes of a file. Cloning it shares the pages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    len: u64,
    /// `None` is a page of zeros.
    pages: Vec<Option<Arc<[u8; PAGE_BYTES]>>>,
}

impl Content {
    /// Its length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Reads from `offset` on, as far as there is something; returns how much.
    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> usize {
        let len = buf.len().min(usize::try_from(self.len.saturating_sub(offset)).unwrap_or(0));
        for (page, within, range) in pieces(offset, len) {
            let target = &mut buf[range.clone()];
            match self.pages.get(page).and_then(Option::as_ref) {
                Some(bytes) => target.copy_from_slice(&bytes[within..within + range.len()]),
                None => target.fill(0),
            }
        }
        len
    }

    /// Writes at `offset`; a gap before it becomes zeros.
    pub(crate) fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.extend_to(offset.saturating_add(data.len() as u64))?;
        for (page, within, range) in pieces(offset, data.len()) {
            let page = self.pages[page].get_or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(page)[within..within + range.len()].copy_from_slice(&data[range]);
        }
        Ok(())
    }

    /// Makes it at least `len` bytes long, with zeros.
    pub(crate) fn extend_to(&mut self, len: u64) -> io::Result<()> {
        if len > FILE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if len > self.len {
            self.len = len;
            let pages = len.div_ceil(PAGE_BYTES as u64);
            self.pages.resize(usize::try_from(pages).unwrap_or(usize::MAX), None);
        }
        Ok(())
    }

    /// Cuts it off at `len`, or makes it that long with zeros.
    pub(crate) fn set_len(&mut self, len: u64) -> io::Result<()> {
        if len >= self.len {
            return self.extend_to(len);
        }
        self.len = len;
        let pages = len.div_ceil(PAGE_BYTES as u64);
        self.pages.truncate(usize::try_from(pages).unwrap_or(usize::MAX));
        let rest = usize::try_from(len % PAGE_BYTES as u64).unwrap_or(0);
        if let Some(Some(page)) = self.pages.last_mut().filter(|_| rest > 0) {
            // What is beyond the end must read as zeros when the file grows again.
            Arc::make_mut(page)[rest..].fill(0);
        }
        Ok(())
    }

    /// All of it.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or(usize::MAX)];
        self.read_at(0, &mut bytes);
        bytes
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
        self.len == other.len
            && self.pages.iter().zip(&other.pages).all(|(a, b)| match (a, b) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
                (None, None) => true,
                (Some(page), None) | (None, Some(page)) => **page == ZEROS,
            })
    }
}

/// The pages that `len` bytes at `offset` touch: page number, offset in the page, and the range
/// of the bytes.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done;
        let within = at % PAGE_BYTES;
        let piece = (len - done).min(PAGE_BYTES - within);
        done += piece;
        Some((at / PAGE_BYTES, within, done - piece..done))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn copies_do_not_see_each_other() {
        let mut first = Content::default();
        first.write_at(4000, b"across a page border, across it").unwrap();
        let (before, mut second) = (first.to_vec(), first.clone());
        second.write_at(4090, &[7; 10_000]).unwrap();
        second.set_len(4095).unwrap();
        assert_eq!(first.to_vec(), before);
        assert_eq!(second.len(), 4095);
        assert!(first != second);
    }

    #[test]
    fn a_wild_length_is_refused() {
        let mut content = Content::default();
        assert!(content.write_at(u64::MAX, b"x").is_err());
        assert!(content.set_len(u64::MAX).is_err());
        assert_eq!(content.len(), 0);
    }

    proptest! {
        #[test]
        fn it_is_as_a_plain_vector(
            steps in prop::collection::vec((0..3_u8, 0..9_000_usize, 0..9_000_usize), 1..20),
        ) {
            let (mut content, mut plain) = (Content::default(), Vec::<u8>::new());
            for (number, (what, at, len)) in steps.into_iter().enumerate() {
                let data = vec![number as u8 + 1; len];
                match what {
                    0 if len > 0 => {
                        content.write_at(at as u64, &data).unwrap();
                        plain.resize(plain.len().max(at + len), 0);
                        plain[at..at + len].copy_from_slice(&data);
                    }
                    1 => {
                        content.set_len(at as u64).unwrap();
                        plain.resize(at, 0);
                    }
                    _ => {
                        content.extend_to(at as u64).unwrap();
                        plain.resize(plain.len().max(at), 0);
                    }
                }
                prop_assert_eq!(&content.to_vec(), &plain);
                let mut fresh = Content::default();
                fresh.extend_to(plain.len() as u64).unwrap();
                fresh.write_at(0, &plain).unwrap();
                prop_assert!(fresh == content);
            }
        }
    }
}
