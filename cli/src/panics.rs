//! Panics say nothing on stderr: those of dependencies are caught where they may happen, and told
//! as what they mean; one of our own is told by `main` as a sentence.

use std::sync::{Mutex, PoisonError};

/// Where the last panic happened, and its message.
static LAST: Mutex<Option<String>> = Mutex::new(None);

/// From now on a panic is remembered, and logged at debug level, instead of printed.
pub(crate) fn silence() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(String::new, |at| format!(" at {at}"));
        let message = info.payload_as_str().unwrap_or("no message");
        let text = format!("{message}{place}");
        tracing::debug!(panic = text, "a panic was caught");
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }));
}

/// The last panic, in one line.
pub(crate) fn last() -> String {
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner).clone();
    last.map_or_else(|| "nothing is known".to_owned(), |text| text.replace('\n', " "))
}
