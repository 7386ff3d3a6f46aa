//! SIGINT and SIGTERM, turned into a flag that every wait of the demo looks at.
//!
//! The first signal lets the demo end its children and remove its directory; the second one ends it
//! at once, and the children and the sweeper notice that their parent is gone.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::signals::Signals;

/// Whether somebody wants the demo to end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt {
    raised: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes over both signals for the rest of the process's life, on a thread of its own.
    pub(crate) fn listen() -> io::Result<Interrupt> {
        let interrupt = Interrupt::default();
        let raised = Arc::clone(&interrupt.raised);
        let waiter = std::thread::current();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut signals = {
            let _context = runtime.enter();
            Signals::listen()?
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async move {
                loop {
                    signals.next().await;
                    if raised.swap(true, Ordering::SeqCst) {
                        std::process::exit(1);
                    }
                    waiter.unpark();
                }
            })
        })?;
        Ok(interrupt)
    }

    /// True from the first signal on.
    pub(crate) fn raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }
}
