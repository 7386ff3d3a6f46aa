//! [`Canonical`]: protobuf that is as it is written here, read in one pass and without memory of its own.
//!
//! In a replicated log every byte must be understood, so what prost has read is encoded again and compared
//! ([`wire`](crate::wire)). Of a few messages, which make up nearly all of a log and which every node
//! reads, that is most of the work. They are read here instead, field by field in the order of their
//! numbers: only what encodes to the very same bytes is taken, and everything else is left to prost,
//! which says what is wrong with it.

/// What is left to read of a message. Field numbers are below 16, so that a tag has one byte.
#[derive(Debug, Clone, Copy)]
pub struct Canonical<'a>(&'a [u8]);

/// How a field is encoded: the low bits of its tag.
const VARINT: u8 = 0;
const LENGTH_DELIMITED: u8 = 2;

/// Bytes of the longest varint.
const VARINT_BYTES_MAX: usize = 10;

impl<'a> Canonical<'a> {
    /// The whole of a message.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// A number, or a flag: 0 where the next field is another, as that is how 0 is written. `None` if it
    /// is not written as here.
    #[inline]
    pub fn number(&mut self, field: u8) -> Option<u64> {
        match self.tag(field, VARINT) {
            true => self.varint().filter(|number| *number != 0),
            false => Some(0),
        }
    }

    /// The same of at most 32 bits.
    #[inline]
    pub fn number_32(&mut self, field: u8) -> Option<u32> {
        self.number(field)?.try_into().ok()
    }

    /// Bytes, or a message in the message: `None` if the next field is another, or is not written as
    /// here.
    #[inline]
    pub fn bytes(&mut self, field: u8) -> Option<&'a [u8]> {
        if !self.tag(field, LENGTH_DELIMITED) {
            return None;
        }
        let len = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Whether the next field is this one, with bytes or a message.
    #[must_use]
    pub fn is_bytes(&self, field: u8) -> bool {
        self.0.first() == Some(&(field << 3 | LENGTH_DELIMITED))
    }

    /// Whether all is read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    fn tag(&mut self, field: u8, kind: u8) -> bool {
        debug_assert!(field < 16, "the tag of field {field} is longer than a byte");
        match self.0.split_first() {
            Some((tag, rest)) if *tag == field << 3 | kind => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    /// No longer than it need be.
    #[inline]
    fn varint(&mut self) -> Option<u64> {
        match self.0 {
            [byte @ ..0x80, rest @ ..] => {
                let number = u64::from(*byte);
                self.0 = rest;
                Some(number)
            }
            _ => self.long_varint(),
        }
    }

    /// One of several bytes, of which the last is not 0, or a shorter one would do.
    fn long_varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for (at, byte) in self.0.iter().take(VARINT_BYTES_MAX).enumerate() {
            let bits = u64::from(byte & 0x7f);
            if at == VARINT_BYTES_MAX - 1 && bits > 1 {
                return None;
            }
            number |= bits << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return (*byte != 0).then_some(number);
            }
        }
        None
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use prost::Message;

    use super::*;

    /// Everything that is a bit, a byte or a length away from some bytes: what a lax reader takes for them.
    pub(crate) fn others_of(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut others = Vec::new();
        for at in 0..=bytes.len() {
            let (before, after) = bytes.split_at(at);
            others.push(before.to_vec());
            others.push([before, after.get(1..).unwrap_or_default()].concat());
            others.push([before, before, after].concat());
            for byte in 0..=u8::MAX {
                others.push([before, &[byte], after].concat());
                others.push([before, &[byte], after.get(1..).unwrap_or_default()].concat());
            }
        }
        others
    }

    #[derive(Clone, PartialEq, Message)]
    struct Wire {
        #[prost(uint64, tag = "1")]
        number: u64,
        #[prost(bytes = "vec", tag = "2")]
        bytes: Vec<u8>,
        #[prost(uint32, tag = "15")]
        small: u32,
    }

    fn read(bytes: &[u8]) -> Option<Wire> {
        let mut rest = Canonical::new(bytes);
        let number = rest.number(1)?;
        // Prost leaves out bytes that are none.
        let bytes = if rest.is_bytes(2) { rest.bytes(2).filter(|it| !it.is_empty())? } else { &[] };
        let small = rest.number_32(15)?;
        rest.is_empty().then(|| Wire { number, bytes: bytes.to_vec(), small })
    }

    /// To see it fail: take a varint that is longer than it need be, or a 0 that is written.
    #[test]
    fn it_takes_what_encodes_to_the_same_bytes_and_nothing_else() {
        let numbers = (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit]).chain([u64::MAX]);
        for number in numbers {
            for (bytes, small) in [(&b""[..], 0), (b"\x00", 1), (&[7; 200], u32::MAX)] {
                let wire = Wire { number, bytes: bytes.to_vec(), small };
                assert_eq!(read(&wire.encode_to_vec()), Some(wire));
            }
        }
        let wire = Wire { number: 300, bytes: b"ab".to_vec(), small: 1 << 28 };
        for other in others_of(&wire.encode_to_vec()) {
            let whole = Wire::decode(&other[..]).ok().filter(|it| it.encode_to_vec() == other);
            assert_eq!(read(&other), whole, "{other:?}");
        }
    }
}
