//! Clients of a group whose state machine only counts and hashes what it is given.

use std::time::Duration;

use bytes::Bytes;
use quorate_loop::{Group, Session};
use quorate_statemachine::WINDOW;

use crate::compare::drive::{Client, Order};
use crate::process::Failure;
use crate::replica::ballast::Ballast;

/// Longest time that a command of a session is tried.
const WITHIN: Duration = Duration::from_secs(10);

/// Clients that share a session: half of what may be under way in one, so that none waits for a place.
const CLIENTS_PER_SESSION: usize = WINDOW as usize / 2;

/// A client that proposes what may be applied again if it is proposed again.
pub(crate) struct Opaque {
    group: Group<Ballast>,
    command: Bytes,
}

/// A client in a session: what it proposes is applied once.
pub(crate) struct InSession {
    session: Session<Ballast>,
    command: Bytes,
}

/// As many clients as are ordered.
pub(crate) fn clients(group: &Group<Ballast>, order: &Order) -> Vec<Opaque> {
    let command = Ballast::command(order.payload_bytes);
    let client = |_| Opaque { group: group.clone(), command: command.clone() };
    (0..order.clients).map(client).collect()
}

/// The same, in sessions. These are opened as they are needed, and kept in `sessions`.
pub(crate) async fn clients_in_sessions(
    group: &Group<Ballast>,
    sessions: &mut Vec<Session<Ballast>>,
    order: &Order,
) -> Result<Vec<InSession>, Failure> {
    let command = Ballast::command(order.payload_bytes);
    let clients = order.clients as usize;
    while sessions.len() < clients.div_ceil(CLIENTS_PER_SESSION) {
        sessions.push(group.open_session(WITHIN).await?);
    }
    let spread = sessions.iter().cycle().take(clients);
    let client =
        |session: &Session<_>| InSession { session: session.clone(), command: command.clone() };
    Ok(spread.map(client).collect())
}

impl Client for Opaque {
    async fn operate(&mut self) -> Result<(), String> {
        let applied = self.group.propose(self.command.clone()).await;
        applied.map(drop).map_err(|error| error.to_string())
    }
}

impl Client for InSession {
    async fn operate(&mut self) -> Result<(), String> {
        let applied = self.session.propose(self.command.clone(), WITHIN).await;
        applied.map(drop).map_err(|error| error.to_string())
    }
}
