//! SIGINT and SIGTERM, which ask a process to end cleanly.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Both signals, taken over for the rest of the process's life.
#[derive(Debug)]
pub(crate) struct Signals {
    int: Signal,
    term: Signal,
}

impl Signals {
    /// Takes them over. Must be called on a tokio runtime.
    pub(crate) fn listen() -> io::Result<Signals> {
        let int = signal(SignalKind::interrupt())?;
        let term = signal(SignalKind::terminate())?;
        Ok(Signals { int, term })
    }

    /// Waits for the next one. Cancel safe.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}
