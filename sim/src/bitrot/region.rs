//! What the bytes of a file are.

use std::path::Path;

/// Bytes of the header of a log file of raft-engine.
const LOG_HEADER: u64 = 53 + 8 + 8;
/// Bytes of the header of a record of raft-engine: its length with the compression, and where its
/// entries end; big endian.
const BATCH_HEADER: u64 = 16;
/// Bytes of the footer of a snapshot file.
const SNAPSHOT_FOOTER: u64 = 28;

/// The region of a byte in a file of the data directory.
pub(super) fn region_of(file: &Path, content: &[u8], offset: u64) -> &'static str {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("raftlog" | "rewrite") => log_region(content, offset),
        Some("snap") => snapshot_region(content, offset),
        _ => "all",
    }
}

fn number(content: &[u8], at: u64) -> Option<u64> {
    let bytes = content.get(at as usize..)?.first_chunk::<8>()?;
    Some(u64::from_be_bytes(*bytes))
}

fn log_region(content: &[u8], offset: u64) -> &'static str {
    if offset < LOG_HEADER {
        return "file header";
    }
    let mut start = LOG_HEADER;
    while let (Some(len), Some(items)) = (number(content, start), number(content, start + 8)) {
        let len = len >> 8;
        if len < BATCH_HEADER {
            break;
        }
        if offset < start + len {
            return match offset - start {
                at if at < BATCH_HEADER => "record header",
                at if at < items => "entries",
                _ => "record items",
            };
        }
        start += len;
    }
    "rest"
}

/// A frame (kind, version, length, body, CRC), then blocks, then the footer.
fn snapshot_region(content: &[u8], offset: u64) -> &'static str {
    let body = content.get(6..10).and_then(|bytes| bytes.first_chunk::<4>());
    let header = 14 + body.map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)));
    if offset < header {
        "header"
    } else if offset + SNAPSHOT_FOOTER >= content.len() as u64 {
        "footer"
    } else {
        "blocks"
    }
}
