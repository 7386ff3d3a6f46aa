//! The log writer's thread: everything that waits, in one record, with one fsync.

use std::sync::mpsc;

use quorate_engine::{Disk, GroupWrite, LogWriter};
use quorate_statemachine::StateMachine;

use crate::core::Input;
use crate::inbox::{Event, Inbox};

/// Writes merged into one record. The loop gives out a bounded number of bytes; this bounds how
/// long the first of them waits for the last.
const WRITES_PER_BATCH: usize = 1_024;

/// Writes until the loop drops its end of the queue. A failure ends it: nothing that was not
/// acknowledged is, and the loop stops.
pub(crate) fn run<F: Disk + 'static, S: StateMachine>(
    mut writer: LogWriter<F>,
    writes: &mpsc::Receiver<GroupWrite>,
    inbox: &Inbox<S>,
) {
    while let Ok(first) = writes.recv() {
        let mut batch = vec![first];
        batch.extend(writes.try_iter().take(WRITES_PER_BATCH - 1));
        match writer.write(batch) {
            Ok(receipts) => {
                for durable in receipts {
                    inbox.send(Event::Input(Input::Durable(durable)));
                }
            }
            Err(error) => return inbox.send(Event::Fault(error.to_string())),
        }
    }
}
