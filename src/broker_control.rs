//! What an operator may ask of a broker that does not do it itself: that it is fenced, or forgotten.

use quorate_statemachine::{BrokerId, Command, Reply};

use crate::caller::Repeat;
use crate::error::WriteError;
use crate::quorum::{Quorum, unreadable};
use crate::wire::RequestKind;

/// A broker that was fenced or unregistered: committed, and in this node's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerChanged {
    /// The broker.
    pub broker: BrokerId,
    /// How many partitions it left, or lost their leader or got another one.
    pub partitions_changed: u64,
    /// The log index at which it was so.
    pub index: u64,
}

impl Quorum {
    /// Fences a broker, whatever its session says: it leaves every ISR, and others lead its partitions.
    /// One that is fenced already is left as it is.
    ///
    /// A broker that goes on sending heartbeats is let in again with the next of them, so this moves the
    /// leaders of a live broker for a moment, and those of a broker that hangs for as long as it hangs.
    ///
    /// Not cancel safe: the broker may be fenced afterwards.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: BROKER_ID_NOT_REGISTERED, and STALE_BROKER_EPOCH when it registers anew at the same
    /// time.
    pub async fn fence_broker(&self, broker: BrokerId) -> Result<BrokerChanged, WriteError> {
        // Never twice: in between it may have come back.
        let request = RequestKind::FenceBroker(broker.get());
        let done = self.write(request, Repeat::Never).await?;
        match done.reply {
            Reply::BrokerFenced { partitions_changed } => {
                Ok(BrokerChanged { broker, partitions_changed, index: done.index })
            }
            _ => Err(unreadable()),
        }
    }

    /// Removes the registration of a broker that has stopped and will not come back, from every ISR and
    /// ELR too. Its partitions keep it as a replica until they are reassigned.
    ///
    /// A broker that is alive is refused, also while it is fenced: its session would end by it, and with
    /// that its process, which may be a voter's. One that was silent for a whole session, and is only cut
    /// off, ends when it hears of it. What goes is the registration that the leader of the quorum knew: one
    /// that the broker made at the same time stays.
    ///
    /// Not cancel safe: the broker may be unregistered afterwards.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: INVALID_REQUEST while the broker's session lives or it is not fenced;
    /// STALE_BROKER_EPOCH when it registered anew at the same time; BROKER_ID_NOT_REGISTERED, also when it was this that was asked for before.
    pub async fn unregister_broker(&self, broker: BrokerId) -> Result<BrokerChanged, WriteError> {
        let done = self.propose_as_is(&Command::UnregisterBroker { broker, epoch: None }).await?;
        match done.reply {
            Reply::BrokerUnregistered { partitions_changed } => {
                Ok(BrokerChanged { broker, partitions_changed, index: done.index })
            }
            _ => Err(unreadable()),
        }
    }
}
