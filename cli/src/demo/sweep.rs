//! The sweeper: a process that outlives the demo by a moment and leaves nothing behind.
//!
//! Nobody can clean up after its own SIGKILL. So the demo starts this process with a pipe as its
//! standard input and never writes to it: when the pipe closes, the demo is gone, however it ended.
//! The nodes notice the same way and end; then the directory goes. After an ordinary end the
//! directory is gone already, and there is nothing to do.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::wait;

/// How the demo's directory begins; nothing else is ever removed.
pub(crate) const DIRECTORY_PREFIX: &str = "quorate-demo-";

/// Nodes end within milliseconds; a machine that is busy gets more time than they ever need.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Waits for the end of standard input, then removes the directory.
pub(crate) fn run(directory: &Path) -> Result<(), Failure> {
    let ours = directory.file_name().and_then(|name| name.to_str());
    if !ours.is_some_and(|name| name.starts_with(DIRECTORY_PREFIX)) {
        return Err(Failure::Usage(format!(
            "{} is no directory of the demo: it is left alone",
            directory.display()
        )));
    }
    // Nothing is ever written to the pipe; an error means as well that nobody holds it.
    drop(io::copy(&mut io::stdin().lock(), &mut io::sink()));
    wait::until(Instant::now() + TIME_MAX, || {
        let gone = match std::fs::remove_dir_all(directory) {
            Ok(()) => false,
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        };
        // Seen twice: a node that was just about to end may have written once more in between.
        gone.then_some(())
    })
    .ok_or_else(|| Failure::Failed(format!("cannot remove {}", directory.display())))
}
