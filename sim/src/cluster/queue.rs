//! [`Queue`]: what will happen, in the order of virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Virtual time, in microseconds since the run began.
pub(super) type Micros = u64;

/// Events by time; those of one moment in the order in which they were queued, so that a seed gives one
/// history.
pub(super) struct Queue<E> {
    heap: BinaryHeap<Reverse<Queued<E>>>,
    next: u64,
    now: Micros,
}

struct Queued<E> {
    at: (Micros, u64),
    event: E,
}

impl<E> PartialEq for Queued<E> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl<E> Eq for Queued<E> {}

impl<E> PartialOrd for Queued<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Queued<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl<E> Queue<E> {
    pub(super) fn new() -> Self {
        Queue { heap: BinaryHeap::new(), next: 0, now: 0 }
    }

    /// The time of the event that was taken last.
    pub(super) fn now(&self) -> Micros {
        self.now
    }

    /// Has `event` happen at `time`, or now where that has passed.
    pub(super) fn at(&mut self, time: Micros, event: E) {
        let at = (time.max(self.now), self.next);
        self.next += 1;
        self.heap.push(Reverse(Queued { at, event }));
    }

    /// Has `event` happen so much later.
    pub(super) fn after(&mut self, delay: Micros, event: E) {
        self.at(self.now + delay, event);
    }

    /// The next event; time goes on to it.
    pub(super) fn pop(&mut self) -> Option<E> {
        let Reverse(Queued { at: (time, _), event }) = self.heap.pop()?;
        self.now = time;
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_as_they_were_queued() {
        let mut queue = Queue::new();
        for (time, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (1, 'b')] {
            queue.at(time, event);
        }
        assert_eq!((queue.pop(), queue.now()), (Some('a'), 1));
        queue.at(0, 'x');
        queue.after(4, 'e');
        let rest: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(rest, ['b', 'x', 'c', 'd', 'e']);
        assert_eq!(queue.now(), 5);
    }
}
