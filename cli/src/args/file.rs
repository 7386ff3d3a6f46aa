//! [`JsonFile`]: what is too long for a command line.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// The longest file that is read, in bytes; a node takes no longer request.
const BYTES_MAX: u64 = 4 << 20;

/// A file in JSON that the command line names.
pub(super) struct JsonFile<'a> {
    /// What it is to the user, such as `the plan`.
    pub(super) what: &'static str,
    /// How one may look, such as `{"version":1}`.
    pub(super) example: &'static str,
    /// Where it is.
    pub(super) path: &'a Path,
}

impl JsonFile<'_> {
    /// Reads all of it.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let text =
            self.text().map_err(|error| self.bad(format!("{error}; name a readable file")))?;
        if text.len() as u64 > BYTES_MAX {
            return Err(self.bad(format!("it has more than {BYTES_MAX} bytes; split it")));
        }
        serde_json::from_str(&text)
            .map_err(|error| self.bad(format!("{error}; one looks like {}", self.example)))
    }

    /// Not its length first and then its bytes: a pipe has no length.
    fn text(&self) -> io::Result<String> {
        let mut text = String::new();
        File::open(self.path)?.take(BYTES_MAX + 1).read_to_string(&mut text)?;
        Ok(text)
    }

    /// It cannot be obeyed, for this reason.
    pub(super) fn bad(&self, why: impl Display) -> Failure {
        Failure::Usage(format!("{} {}: {why}", self.what, self.path.display()))
    }
}
