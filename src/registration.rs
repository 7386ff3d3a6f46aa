//! [`Registration`]: what a broker says of itself when it starts.

use quorate_engine::ClusterId;
use quorate_statemachine::{
    BrokerId, Command, DirectoryId, ErrorCode, FeatureRange, Incarnation, Listener, RegisterBroker,
    Rejection,
};
use uuid::Uuid;

use crate::wire::RegisterRequest;

/// What a broker says of itself when it starts (KIP-631).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The broker's id, chosen by its operator.
    pub broker: BrokerId,
    /// This start of the broker's process: random, new at every start. The quorum tells by it
    /// whether the process that acknowledged records is still the same.
    pub incarnation: Incarnation,
    /// The cluster that the broker's log directories belong to; `None` where they do not say. Another
    /// one than the quorum's is refused (INCONSISTENT_CLUSTER_ID), so that disks of two clusters are
    /// never mixed.
    pub cluster_id: Option<ClusterId>,
    /// Where clients and other brokers reach it; may be empty without a data plane.
    pub listeners: Vec<Listener>,
    /// The rack it stands in; placement spreads replicas over racks.
    pub rack: Option<String>,
    /// The broker's log directories; at least one, and never another broker's, nor the nil id.
    ///
    /// A broker that runs in the process of its node names the node's data directory among them. It is
    /// fenced as soon as the leader finds that process gone, where any other broker's session has to
    /// run out first.
    pub directories: Vec<DirectoryId>,
    /// What the broker can still answer for.
    pub vouch: Vouch,
}

/// What a broker says of the records that its earlier incarnations acknowledged.
///
/// A broker that vouches stays among those that may be elected when the ISR is empty (ELR); one that
/// does not, leaves them. A vouch that is not true loses acknowledged records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vouch {
    /// Nothing: a log directory is missing, or did not verify.
    Nothing,
    /// Everything that these incarnations acknowledged is still on its disks. The log directories
    /// alone say which these are, never the quorum's image: the image cannot know what a disk lost.
    Incarnations(Vec<Incarnation>),
    /// The broker stores nothing. The leader vouches for whichever incarnation is registered, for
    /// where nothing is stored nothing can be lost. This is right *only* without a data plane: with
    /// one it would vouch for disks that nobody looked at.
    StoresNothing,
}

impl Registration {
    /// A broker without data plane: a new incarnation, no listener, and `directory` (that of the
    /// node) in the place of a log directory.
    pub fn without_data_plane(broker: BrokerId, directory: quorate_engine::DirectoryId) -> Self {
        let directory = DirectoryId(Uuid::from_bytes(*directory.as_bytes()));
        Self {
            broker,
            incarnation: Incarnation(Uuid::new_v4()),
            cluster_id: None,
            listeners: Vec::new(),
            rack: None,
            directories: vec![directory],
            vouch: Vouch::StoresNothing,
        }
    }

    /// # Errors
    ///
    /// INCONSISTENT_CLUSTER_ID when the log directories belong to another cluster than `cluster`.
    pub(crate) fn check_cluster(&self, cluster: ClusterId) -> Result<(), Rejection> {
        match self.cluster_id {
            Some(own) if own != cluster => Err(Rejection::new(
                ErrorCode::InconsistentClusterId,
                format!(
                    "the log directories of broker {} belong to cluster {own}, and this is cluster \
                     {cluster}: give the broker the directories of this cluster, or empty ones",
                    self.broker
                ),
            )),
            _ => Ok(()),
        }
    }

    pub(crate) fn to_request(&self) -> RegisterRequest {
        let (vouched, always_vouch) = match &self.vouch {
            Vouch::Nothing => (Vec::new(), false),
            Vouch::Incarnations(incarnations) => (incarnations.clone(), false),
            Vouch::StoresNothing => (Vec::new(), true),
        };
        let command = Command::RegisterBroker(RegisterBroker {
            broker: self.broker,
            incarnation: self.incarnation,
            listeners: self.listeners.clone(),
            rack: self.rack.clone(),
            features: FeatureRange::SUPPORTED,
            directories: self.directories.clone(),
            vouched,
            // The leader knows.
            follows: None,
        });
        RegisterRequest { command: command.encode(), always_vouch }
    }
}

/// Checks on the leader that every directory has an id. The nil one is none: Kafka keeps it for a replica
/// whose directory is not known, and it would be that of every disk whose id was forgotten.
///
/// # Errors
///
/// INVALID_REGISTRATION, with the remedy.
pub(crate) fn check_directories(register: &RegisterBroker) -> Result<(), Rejection> {
    if register.directories.iter().any(|directory| directory.0.is_nil()) {
        return Err(Rejection::new(
            ErrorCode::InvalidRegistration,
            format!(
                "a log directory of broker {} has the nil id, which names none: give the directory a \
                 random one",
                register.broker
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_another_cluster_are_refused() {
        let directory = quorate_engine::DirectoryId::from_bytes([7; 16]);
        let unmarked = Registration::without_data_plane(BrokerId(1), directory);
        let (own, other) = (ClusterId::from_bytes([1; 16]), ClusterId::from_bytes([2; 16]));
        assert_eq!(unmarked.check_cluster(own), Ok(()));
        let marked = Registration { cluster_id: Some(other), ..unmarked };
        assert_eq!(marked.check_cluster(other), Ok(()));
        let refused = marked.check_cluster(own).unwrap_err();
        assert_eq!(refused.code, ErrorCode::InconsistentClusterId);
        assert!(refused.message.contains("give the broker the directories"), "{refused}");
    }
}
