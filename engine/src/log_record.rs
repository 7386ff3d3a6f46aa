//! raft-engine's records, read from its files without raft-engine, and without changing anything.
//!
//! | bytes | what (raft-engine 0.4, format version 2, as our settings have it written) |
//! | --- | --- |
//! | 69, once | file header: magic text (53), version 2 (8, big endian), alignment 0 (8) |
//! | 16 | record header, big endian: its length (7), compression, always 0 (1), offset of the footer (8) |
//! | n | entries, encoded one after the other, then CRC32 of them (4, little endian); nothing if there are none |
//! | m | footer: number of items, items, then CRC32 of these (4, little endian) XORed with the file's number |
//!
//! An item is a group's number, a type, and: (1) a row of entry lengths, (2) a command, (3) a key
//! with its value. Numbers in items are varints.

use std::ops::RangeInclusive;

/// Bytes of a record's header.
pub(crate) const RECORD_HEADER_LEN: usize = 16;
const CRC_LEN: usize = 4;

const ITEM_ENTRIES: u8 = 1;
const ITEM_COMMAND: u8 = 2;
const ITEM_KEY_VALUE: u8 = 3;
const COMMAND_CLEAN: u8 = 1;
const COMMAND_COMPACT: u8 = 2;
const OP_PUT: u8 = 1;
const OP_DELETE: u8 = 2;

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    /// Bytes of the whole record.
    pub len: u64,
    /// Where its footer begins.
    pub footer_at: u64,
}

impl RecordHeader {
    /// The header in `bytes`, if it can be one of a record that is not longer than `len_max`.
    pub(crate) fn decode(bytes: &[u8; RECORD_HEADER_LEN], len_max: u64) -> Option<Self> {
        let (head, footer_at) = bytes.split_at(8);
        let head = u64::from_be_bytes(head.try_into().ok()?);
        let footer_at = u64::from_be_bytes(footer_at.try_into().ok()?);
        let (len, compression) = (head >> 8, head & 0xFF);
        let has_footer = footer_at >= RECORD_HEADER_LEN as u64
            && footer_at.checked_add(CRC_LEN as u64).is_some_and(|end| end < len);
        (compression == 0 && has_footer && len <= len_max).then_some(Self { len, footer_at })
    }
}

/// Checks a block of bytes that ends with its CRC, which is XORed with `signature`.
fn without_crc(bytes: &[u8], signature: u32) -> Option<&[u8]> {
    let (content, crc) = bytes.split_last_chunk::<CRC_LEN>()?;
    let matches = crc32fast::hash(content) == u32::from_le_bytes(*crc) ^ signature;
    (!content.is_empty() && matches).then_some(content)
}

/// What a record says of one group's entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntrySpan {
    /// raft-engine's number of the group.
    pub region: u64,
    /// The indexes.
    pub indexes: RangeInclusive<u64>,
}

/// One record, its footer verified.
#[derive(Debug)]
pub(crate) struct LogRecord<'a> {
    /// The entries that it holds.
    pub spans: Vec<EntrySpan>,
    /// The value of the key that was asked for, if it is there; the last one counts.
    pub value: Option<&'a [u8]>,
    /// Whether the CRC over its entries matches.
    pub are_entries_whole: bool,
    /// Whether it drops all of a group.
    pub cleans: bool,
}

impl<'a> LogRecord<'a> {
    /// The record in `bytes`, which are exactly it, in the file with this number. Looks out for
    /// the value of `key` in `region`.
    pub(crate) fn decode(
        bytes: &'a [u8],
        header: RecordHeader,
        file_number: u64,
        (region, key): (u64, &[u8]),
    ) -> Result<Self, &'static str> {
        let footer_at = usize::try_from(header.footer_at).map_err(|_| "a footer beyond memory")?;
        let (entries, footer) = bytes.split_at(footer_at);
        let mut items = Items::of(footer, file_number).ok_or("the CRC of its footer is wrong")?;
        let entries = &entries[RECORD_HEADER_LEN..];
        let mut record = Self {
            spans: Vec::new(),
            value: None,
            are_entries_whole: entries.is_empty() || without_crc(entries, 0).is_some(),
            cleans: false,
        };
        let count = items.varint().ok_or(ITEMS)?;
        for _ in 0..count {
            match items.next().ok_or(ITEMS)? {
                Item::Entries(span) => record.spans.push(span),
                Item::Put(at, name, value) if at == region && name == key => {
                    record.value = Some(value);
                }
                Item::Clean => record.cleans = true,
                Item::Put(..) | Item::Other => {}
            }
        }
        if !items.0.is_empty() {
            return Err("there is something behind its items");
        }
        Ok(record)
    }

    /// Whether `footer`, with its CRC, can be the footer of a record in the file with this
    /// number.
    pub(crate) fn is_footer(footer: &[u8], file_number: u64) -> bool {
        Items::of(footer, file_number).is_some()
    }
}

const ITEMS: &str = "its items cannot be decoded";

enum Item<'a> {
    Entries(EntrySpan),
    Put(u64, &'a [u8], &'a [u8]),
    Clean,
    Other,
}

/// The items that are left of a footer.
struct Items<'a>(&'a [u8]);

impl<'a> Items<'a> {
    fn of(footer: &'a [u8], file_number: u64) -> Option<Self> {
        // As raft-engine does it: the low half of the number.
        without_crc(footer, (file_number & u64::from(u32::MAX)) as u32).map(Self)
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn varint(&mut self) -> Option<u64> {
        prost::encoding::decode_varint(&mut self.0).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn next(&mut self) -> Option<Item<'a>> {
        let region = self.varint()?;
        match self.byte()? {
            ITEM_ENTRIES => {
                let count = self.varint()?;
                if count == 0 {
                    return Some(Item::Other);
                }
                let first = self.varint()?;
                // Where each entry ends: what the lengths are does not matter here.
                for _ in 0..count {
                    self.varint()?;
                }
                let indexes = first..=first.checked_add(count - 1)?;
                Some(Item::Entries(EntrySpan { region, indexes }))
            }
            ITEM_COMMAND => match self.byte()? {
                COMMAND_CLEAN => Some(Item::Clean),
                COMMAND_COMPACT => self.varint().map(|_| Item::Other),
                _ => None,
            },
            ITEM_KEY_VALUE => {
                let op = self.byte()?;
                let key = self.bytes()?;
                match op {
                    OP_PUT => self.bytes().map(|value| Item::Put(region, key, value)),
                    OP_DELETE => Some(Item::Other),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}
