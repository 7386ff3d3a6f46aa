//! The frame around every small thing on disk: kind, version, length, body, CRC32.
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | kind, so that one thing is never read as another |
//! | 2 | version of the body, little endian |
//! | 4 | length of the body in bytes, little endian |
//! | n | body |
//! | 4 | CRC32 (IEEE) of all that precedes, little endian |

use thiserror::Error;

/// Bytes before the body.
pub(crate) const HEADER_LEN: usize = 10;
/// Bytes after the body.
pub(crate) const FOOTER_LEN: usize = 4;

/// Why a frame is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum FrameError {
    #[error("it is of another kind or not of ours at all")]
    Kind,
    #[error("it is {found} bytes long, not {expected}")]
    Length { expected: u64, found: u64 },
    #[error("its CRC does not match its bytes")]
    Crc,
    #[error("its version {found} is newer than the {known} known here")]
    Version { found: u16, known: u16 },
    #[error("its body cannot be decoded: {0}")]
    Body(String),
}

/// The frame around `body`.
///
/// # Panics
///
/// If the body is 4 GiB or longer, which no frame of ours comes near.
pub(crate) fn seal(kind: [u8; 4], version: u16, body: &[u8]) -> Vec<u8> {
    seal_with(kind, version, body.len(), |bytes| bytes.extend_from_slice(body))
}

/// The frame around the encoding of `body`.
///
/// # Panics
///
/// As [`seal`].
pub(crate) fn seal_message(kind: [u8; 4], version: u16, body: &impl prost::Message) -> Vec<u8> {
    seal_with(kind, version, body.encoded_len(), |bytes| body.encode_raw(bytes))
}

fn seal_with(
    kind: [u8; 4],
    version: u16,
    body_len: usize,
    write_body: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    let len = u32::try_from(body_len).expect("a frame is small");
    let mut bytes = Vec::with_capacity(HEADER_LEN + body_len + FOOTER_LEN);
    bytes.extend_from_slice(&kind);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&len.to_le_bytes());
    write_body(&mut bytes);
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// The length of the body that a header announces, after its kind is checked.
pub(crate) fn body_len(kind: [u8; 4], header: &[u8; HEADER_LEN]) -> Result<u32, FrameError> {
    if header[..4] != kind {
        return Err(FrameError::Kind);
    }
    Ok(u32::from_le_bytes([header[6], header[7], header[8], header[9]]))
}

/// The body of a frame that is exactly `bytes`, verified; its version is at most `known`.
pub(crate) fn unseal(kind: [u8; 4], known: u16, bytes: &[u8]) -> Result<&[u8], FrameError> {
    let too_short = FrameError::Length {
        expected: (HEADER_LEN + FOOTER_LEN) as u64,
        found: bytes.len() as u64,
    };
    let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(too_short.clone())?;
    let expected = u64::from(body_len(kind, header)?) + (HEADER_LEN + FOOTER_LEN) as u64;
    if expected != bytes.len() as u64 {
        return Err(FrameError::Length { expected, found: bytes.len() as u64 });
    }
    let (content, crc) = bytes.split_last_chunk::<FOOTER_LEN>().ok_or(too_short)?;
    if crc32fast::hash(content) != u32::from_le_bytes(*crc) {
        return Err(FrameError::Crc);
    }
    // Only now: a flipped bit in the version is damage, not a newer release.
    let found = u16::from_le_bytes([header[4], header[5]]);
    if found == 0 || found > known {
        return Err(FrameError::Version { found, known });
    }
    Ok(&content[HEADER_LEN..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: [u8; 4] = *b"TEST";

    #[test]
    fn a_frame_gives_back_its_body() {
        for body in [&b""[..], b"x", &[7; 1000]] {
            assert_eq!(unseal(KIND, 1, &seal(KIND, 1, body)), Ok(body));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let bytes = seal(KIND, 1, b"hard state");
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(unseal(KIND, 1, &flipped).is_err(), "byte {at}, bit {bit}");
            }
            assert!(unseal(KIND, 1, &bytes[..at]).is_err(), "cut at {at}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(unseal(KIND, 1, &longer).is_err());
    }

    #[test]
    fn another_kind_and_a_newer_version_are_named() {
        assert_eq!(unseal(*b"ELSE", 1, &seal(KIND, 1, b"x")), Err(FrameError::Kind));
        assert_eq!(
            unseal(KIND, 1, &seal(KIND, 2, b"x")),
            Err(FrameError::Version { found: 2, known: 1 })
        );
    }
}
