//! The leash: a process that must not outlive the one that started it.
//!
//! Whoever starts it holds the other end of its standard input, and writes nothing. However that
//! process ends, by SIGKILL too, the pipe closes; nothing else is needed, on any Unix.

use std::io;

/// Ends this process at once when standard input closes, as if it had been killed: what is on disk
/// is all that counts, and the next start is a restart after a crash.
pub(crate) fn end_with_stdin() -> io::Result<()> {
    let watch = || {
        drop(io::copy(&mut io::stdin().lock(), &mut io::sink()));
        std::process::exit(1);
    };
    std::thread::Builder::new().name("leash".to_owned()).spawn(watch).map(drop)
}
