//! The broker that a node registers: one without a data plane, kept for as long as the node runs.

use std::time::Duration;

use quorate::{
    BrokerId, BrokerSession, ErrorKind, Listener, MetadataOnly, Quorum, RegisterError,
    Registration, SessionEnd, SessionState,
};
use tokio::sync::oneshot;

use crate::failure::Failure;
use crate::hostport::HostPort;

/// First and longest pause between two attempts to register.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Under which name a broker without data plane registers its address.
const LISTENER: &str = "QUORUM";

/// What this node says of its broker. A new incarnation each time the node starts.
pub(crate) fn registration(
    quorum: &Quorum,
    advertised: &HostPort,
) -> Result<Registration, Failure> {
    let identity = quorum.identity();
    let id = u32::try_from(identity.node_id.get()).map(BrokerId);
    let id = id.ok().filter(|id| *id <= BrokerId::MAX).ok_or_else(|| {
        Failure::Failed(format!(
            "node id {} is no broker id, for those end at {}: run this node with --no-broker",
            identity.node_id,
            BrokerId::MAX
        ))
    })?;
    let mut registration = Registration::without_data_plane(id, identity.directory_id);
    registration.cluster_id = Some(identity.cluster_id);
    registration.listeners = vec![Listener {
        name: LISTENER.to_owned(),
        host: advertised.host().to_owned(),
        port: advertised.port(),
    }];
    Ok(registration)
}

/// Registers the broker, keeps it, and shuts it down when `stop` says so.
///
/// There may be no leader yet, and none for hours: it is tried until it succeeds. It fails when
/// the quorum refuses this broker, or when somebody else has taken its place.
pub(crate) async fn keep(
    quorum: Quorum,
    registration: Registration,
    mut stop: oneshot::Receiver<()>,
) -> Result<(), Failure> {
    let session = tokio::select! {
        // A registration that is under way may succeed later: its session runs out by itself.
        _ = &mut stop => return Ok(()),
        session = register(&quorum, &registration) => session?,
    };
    tracing::info!(broker = %session.broker(), epoch = %session.epoch(), "the broker is registered");
    let leading = tokio::spawn(MetadataOnly::run(quorum, &session));
    let ended = tokio::select! {
        _ = &mut stop => None,
        end = end_of(&session) => Some(end),
    };
    let Some(end) = ended else {
        if let Err(error) = session.shut_down().await {
            tracing::warn!(%error, "the broker leaves all the same");
        }
        leading.abort();
        return Ok(());
    };
    match end {
        SessionEnd::Superseded => Err(Failure::Failed(format!(
            "another process has registered broker {}: stop it, or give it a node id of its own",
            session.broker()
        ))),
        SessionEnd::Unregistered => Err(Failure::Failed(format!(
            "broker {} was unregistered: restart this node if it shall come back",
            session.broker()
        ))),
        // Whoever ended those knows why, and says so.
        SessionEnd::ShutDown | SessionEnd::NodeStopped => Ok(()),
    }
}

/// Tries until the broker is registered, or until the quorum says that it never will be.
async fn register(quorum: &Quorum, registration: &Registration) -> Result<BrokerSession, Failure> {
    let mut pause = PAUSE_MIN;
    loop {
        // The same incarnation each time, so that twice is as good as once.
        let error = match quorum.register_broker(registration.clone()).await {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::Rejected => {
                return Err(Failure::Failed(format!("the broker cannot be registered: {error}")));
            }
            ErrorKind::Fatal => std::future::pending::<()>().await,
            ErrorKind::Retryable | ErrorKind::Unknown => {
                let waits = matches!(error, RegisterError::SessionAlive { .. });
                match waits {
                    true => tracing::warn!(%error, "the broker is not registered yet"),
                    false => tracing::info!(%error, "the broker is not registered yet"),
                }
                // Some failures come at once; a leader that has too much to do gets time.
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

async fn end_of(session: &BrokerSession) -> SessionEnd {
    let mut states = session.watch();
    let ended = states.wait_for(|state| matches!(state, SessionState::Ended(_))).await;
    match ended.map(|state| *state) {
        Ok(SessionState::Ended(end)) => end,
        Ok(_) | Err(_) => SessionEnd::NodeStopped,
    }
}
