//! [`Admin`]: the HTTP server of one node.

use std::net::SocketAddr;

use quorate::Quorum;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::access::Access;
use crate::connection::{Caller, Connections};
use crate::limits::{DRAIN_MAX, SILENCE_SLACK, request_max};
use crate::routes;
use crate::turns::Turns;

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody else listens there.
    #[error("address in use: {addr} has another listener; stop it or choose another address")]
    InUse {
        /// The address.
        addr: SocketAddr,
    },
    /// The address is not one of this machine.
    #[error("{addr} is not an address of this machine: choose one that is, or 127.0.0.1")]
    NotOurs {
        /// The address.
        addr: SocketAddr,
    },
    /// Others reach the address, and nothing keeps them from changing what they like.
    #[error(
        "{addr} is not a loopback address: give the admin API a certificate with its key, and an \
         authority for clients or a token; or use 127.0.0.1"
    )]
    Exposed {
        /// The address.
        addr: SocketAddr,
    },
    /// The system refused for another reason.
    #[error("cannot listen on {addr}: {source}; choose an address that this user may listen on")]
    Io {
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

/// The HTTP server of one node, bound to its address.
///
/// Binding and serving are two steps, so that a node knows that its addresses are free before it takes
/// part in anything.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    addr: SocketAddr,
    access: Access,
    pub(crate) turns: Turns,
}

impl Admin {
    /// Takes a loopback address, for plain HTTP of everybody on this machine. As
    /// [`Admin::bind_with`].
    ///
    /// # Errors
    ///
    /// [`BindError`].
    pub async fn bind(addr: SocketAddr) -> Result<Self, BindError> {
        Self::bind_with(addr, Access::default()).await
    }

    /// Takes the address. From now on connections wait there; nothing is answered before
    /// [`Admin::serve`]. One that is not loopback needs encryption, and certificates of clients or
    /// a token for whatever changes something.
    ///
    /// Must be called within a tokio runtime. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`BindError`].
    pub async fn bind_with(addr: SocketAddr, access: Access) -> Result<Self, BindError> {
        if !access.suits(addr) {
            return Err(BindError::Exposed { addr });
        }
        let failed = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AddrInUse => BindError::InUse { addr },
            std::io::ErrorKind::AddrNotAvailable => BindError::NotOurs { addr },
            _ => BindError::Io { addr, source },
        };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, addr, access, turns: Turns::new() })
    }

    /// The address, with the port that the system chose when it was asked for any.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers requests until `stop` is ready; then takes no more, and lets the open ones end within
    /// two seconds.
    ///
    /// Cancelling it ends all of its connections once they are idle.
    pub async fn serve(self, quorum: Quorum, stop: impl Future<Output = ()> + Send + 'static) {
        let (stopping, stopped) = oneshot::channel();
        let until = async move {
            stop.await;
            let _ = stopping.send(());
        };
        let silence_max = request_max(quorum.config().operation_timeout()) + SILENCE_SLACK;
        let connections = Connections::new(self.listener, silence_max, self.access.clone());
        let router = routes::router(quorum, self.access, self.turns);
        let server =
            axum::serve(connections, router.into_make_service_with_connect_info::<Caller>())
                .with_graceful_shutdown(until)
                .into_future();
        let drained = async {
            let _ = stopped.await;
            tokio::time::sleep(DRAIN_MAX).await;
        };
        tokio::select! {
            // It ends when the last connection does, and never with an error.
            _ = server => {}
            () = drained => tracing::debug!("open admin connections were left behind"),
        }
    }
}
