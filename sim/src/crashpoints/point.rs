//! Where a history is cut off, and what is left of what was not synced.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::disk::Survival;

/// On which side of an operation, or where within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// Nothing of it has happened.
    Before,
    /// Of a write, only this many bytes have.
    Torn(usize),
    /// It is done.
    After,
}

/// What is left of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subset {
    /// A power loss leaves this.
    PowerLoss(Survival),
    /// The process is killed, and another opens all that was written; then a power loss takes all
    /// that is not synced *then*. What the second process recovered, it may have told: it must
    /// still be there.
    Kill,
    /// A power loss, and a second one while the next process opens what the first has left. The
    /// seed decides what both take, and when the second comes.
    Twice(u64),
}

/// One crash of one history. As text `SEED:OPERATION:VARIANT:SUBSET`, as in
/// `1:73:torn=20:random=9`: what replays it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CrashPoint {
    /// Seed of the history.
    pub seed: u64,
    /// Number of the operation on the disk, from 1.
    pub operation: u64,
    /// Where at this operation.
    pub variant: Variant,
    /// What is left.
    pub subset: Subset,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Before => f.write_str("before"),
            Self::Torn(len) => write!(f, "torn={len}"),
            Self::After => f.write_str("after"),
        }
    }
}

impl fmt::Display for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerLoss(Survival::LoseAll) => f.write_str("lose"),
            Self::PowerLoss(Survival::KeepAll) => f.write_str("keep"),
            Self::PowerLoss(Survival::Random(seed)) => write!(f, "random={seed}"),
            Self::Kill => f.write_str("kill"),
            Self::Twice(seed) => write!(f, "twice={seed}"),
        }
    }
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.seed, self.operation, self.variant, self.subset)
    }
}

impl Serialize for CrashPoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text is no [`CrashPoint`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "SEED:OPERATION:VARIANT:SUBSET is expected, with before, after or torn=BYTES, and lose, keep, \
     kill, random=SEED or twice=SEED: as in 1:73:torn=20:random=9"
)]
pub struct PointError;

impl FromStr for CrashPoint {
    type Err = PointError;

    fn from_str(text: &str) -> Result<Self, PointError> {
        let parts: Vec<_> = text.split(':').collect();
        let [seed, operation, variant, subset] = parts[..] else { return Err(PointError) };
        let number = |text: &str| text.parse::<u64>().map_err(|_| PointError);
        let variant = match variant.split_once('=') {
            None if variant == "before" => Variant::Before,
            None if variant == "after" => Variant::After,
            Some(("torn", len)) => Variant::Torn(len.parse().map_err(|_| PointError)?),
            _ => return Err(PointError),
        };
        let subset = match subset.split_once('=') {
            None if subset == "lose" => Subset::PowerLoss(Survival::LoseAll),
            None if subset == "keep" => Subset::PowerLoss(Survival::KeepAll),
            None if subset == "kill" => Subset::Kill,
            Some(("random", seed)) => Subset::PowerLoss(Survival::Random(number(seed)?)),
            Some(("twice", seed)) => Subset::Twice(number(seed)?),
            _ => return Err(PointError),
        };
        Ok(Self { seed: number(seed)?, operation: number(operation)?, variant, subset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_read_as_it_is_written() {
        for text in [
            "1:73:torn=20:random=9",
            "0:1:before:lose",
            "2:3:after:kill",
            "2:3:after:twice=8",
            "2:3:after:keep",
        ] {
            assert_eq!(text.parse::<CrashPoint>().unwrap().to_string(), text);
        }
        for bad in ["", "1:2:before", "1:2:before:lose:", "x:2:before:lose", "1:2:torn:lose"] {
            assert_eq!(bad.parse::<CrashPoint>(), Err(PointError), "{bad}");
        }
    }
}
