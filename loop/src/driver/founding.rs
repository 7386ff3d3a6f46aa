//! The founding of the first group, which the loop thread brings to its end before it serves.

use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use quorate_engine::{Disk, NodeId};
use quorate_statemachine::StateMachine;

use super::Driver;
use crate::bootstrap::{Bootstrap, Founded};
use crate::founding::Founding;
use crate::frame::Frame;
use crate::inbox::Event;
use crate::slot::{is_request, refuse};
use crate::transport::LinkEvent;

impl<S: StateMachine> Driver<S> {
    /// Brings the founding to its end, however long the other voters take. `None`: stopped.
    pub(super) fn found<F: Disk + 'static>(
        &mut self,
        bootstrap: &mut Bootstrap<F>,
    ) -> Result<Option<Founded>, String> {
        let mut next_tick = Instant::now();
        loop {
            bootstrap.advance::<S>(&self.snapshots)?;
            let Some(founding) = &mut bootstrap.founding else {
                return Err("a directory that joins founds nothing".to_owned());
            };
            if let Some(bindings) = founding.bindings() {
                self.roster.store(Arc::new(self.roster.load().bound(bindings)));
            }
            if founding.is_complete() {
                self.tell_all(founding, false);
                return bootstrap.take_founded().map(Some);
            }
            let now = Instant::now();
            if now >= next_tick {
                self.tell_all(founding, true);
                next_tick = now + Duration::from_millis(self.config.tick_ms);
            }
            match self.events.recv_timeout(next_tick.saturating_duration_since(now)) {
                Ok(Event::Founding { from, directory, news, permit }) => {
                    drop(permit);
                    let heard = founding.hear(from, directory, &news);
                    heard.map_err(|error| error.to_string())?;
                    if news.asks {
                        self.tell(from, founding, false);
                    }
                }
                // By somebody who knows the members: the cluster was founded long ago. Another
                // cluster's, found at a wrong address, has nothing to say about this one.
                Ok(Event::Link(LinkEvent::Refused { by, code, message, members_index: 1.. }))
                    if code.is_about_membership() =>
                {
                    return Err(format!("refused by node {by}: {message}"));
                }
                Ok(Event::Input(_, input)) => {
                    if is_request(&input) {
                        self.inbox.taken();
                    }
                    refuse(input);
                }
                Ok(Event::LastAnswers(..)) => self.inbox.taken(),
                Ok(Event::Failed(group, reason)) if group == self.first => return Err(reason),
                Ok(Event::Fault(reason)) => return Err(reason),
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn tell_all(&self, founding: &Founding, asks: bool) {
        for peer in self.transport.peers() {
            self.tell(peer, founding, asks);
        }
    }

    pub(super) fn tell(&self, peer: NodeId, founding: &Founding, asks: bool) {
        // One that is not connected asks when it is.
        let _ = self.transport.send(peer, Frame::Founding(founding.news(asks)));
    }
}
