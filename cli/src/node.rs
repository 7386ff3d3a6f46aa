//! `quorate node`: runs a node until a signal, or until it has stopped for good.

use std::net::SocketAddr;
use std::time::Duration;

use quorate::{Founding, OpenError, Quorum, QuorumConfig};
use quorate_admin::{Access, Admin};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::args::NodeArgs;
use crate::broker;
use crate::failure::Failure;
use crate::hostport::HostPort;
use crate::settings::Settings;
use crate::signals::Signals;
use crate::{leash, log, output};

/// How long a clean shutdown may take altogether.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// The part of it that the broker may use: without a majority nobody can grant its shutdown, and
/// the node still has to close its log.
const BROKER_SHUTDOWN_MAX: Duration = Duration::from_secs(7);

/// Runs the node. Returns after a clean shutdown, or with the reason why the node cannot go on.
pub(crate) fn run(args: &NodeArgs) -> Result<(), Failure> {
    let settings = Settings::of(args)?;
    let access = Access::load(&settings.access).map_err(|e| Failure::Failed(e.to_string()))?;
    log::start();
    if args.exit_with_stdin {
        leash::end_with_stdin().map_err(|e| failed("cannot start a thread", &e))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| failed("cannot start the runtime", &e))?;
    let outcome = runtime.block_on(serve(settings, access));
    // What still runs has nothing to say any more, and must not hold up the exit.
    runtime.shutdown_background();
    outcome
}

/// The others look for this node where it was formatted to be, which a relay may well cover; if
/// nothing does, the cluster waits for it in vain.
fn warn_of_another_address(quorum: &Quorum) {
    let identity = quorum.identity();
    let Founding::Voters(voters) = &identity.founding else { return };
    let own = voters.iter().find(|voter| voter.node_id == identity.node_id);
    let listen = quorum.listen_addr();
    if let Some(voter) = own
        && !voter.addr.ends_with(&format!(":{}", listen.port()))
    {
        tracing::warn!(
            listen = %listen,
            formatted = voter.addr,
            "this node listens on another port than its voters look for it on: they reach it only \
             if something forwards that address here; otherwise give it with --listen"
        );
    }
}

#[cfg(not(feature = "faults"))]
async fn open(config: QuorumConfig) -> Result<Quorum, OpenError> {
    Quorum::open(config).await
}

/// On a disk that fails when a test says so.
#[cfg(feature = "faults")]
async fn open(config: QuorumConfig) -> Result<Quorum, OpenError> {
    Quorum::open_with(config, std::sync::Arc::new(crate::faults::FaultyDisk::of_environment()))
        .await
}

async fn serve(settings: Settings, access: Access) -> Result<(), Failure> {
    // Before anything else: a signal that comes early is not lost.
    let mut signals = Signals::listen().map_err(|e| failed("cannot listen for signals", &e))?;
    let addr = settings.admin.resolve().map_err(|e| Failure::Failed(e.to_string()))?;
    // Both addresses are taken before the node takes part in anything.
    let admin = Admin::bind_with(addr, access).await.map_err(|e| Failure::Failed(e.to_string()))?;
    let quorum = tokio::select! {
        opened = open(settings.quorum) => opened.map_err(refused)?,
        // A long log takes its time to verify; nothing has begun that would have to be ended.
        () = signals.next() => return Ok(()),
    };
    warn_of_another_address(&quorum);
    let admin = AdminServer::start(admin, quorum.clone());
    let (stop_broker, mut broker) = if settings.broker {
        let advertised = settings.advertise.unwrap_or_else(|| HostPort::from(quorum.listen_addr()));
        let registration = broker::registration(&quorum, &advertised)?;
        let (stop, stopped) = oneshot::channel();
        (Some(stop), tokio::spawn(broker::keep(quorum.clone(), registration, stopped)))
    } else {
        (None, tokio::spawn(std::future::pending()))
    };
    output::print_text(&format!(
        "ready node={} listen={} admin={}",
        quorum.identity().node_id,
        quorum.listen_addr(),
        admin.addr
    ))?;
    tokio::select! {
        () = signals.next() => {}
        reason = stopped_for_good(&quorum) => return Err(Failure::Failed(reason)),
        outcome = &mut broker => match outcome {
            Ok(Ok(())) => {
                let reason = stopped_for_good(&quorum).await;
                return Err(Failure::Failed(reason));
            }
            Ok(Err(failure)) => {
                tracing::error!("the broker cannot go on, and this node stops with it");
                // In order, for the node may lead, and has a vote.
                close(&quorum, admin, Instant::now()).await;
                return Err(failure);
            }
            Err(error) => return Err(failed("the broker's task ended", &error)),
        },
    }
    tracing::info!("shutting down");
    tokio::select! {
        () = shut_down(&quorum, stop_broker, broker, admin) => match quorum.status().fatal {
            // The log could not be closed.
            Some(reason) => Err(Failure::Failed(reason)),
            None => Ok(()),
        },
        // Whoever asks twice does not want to wait; what is acknowledged is on disk anyway.
        () = signals.next() => Ok(()),
    }
}

/// In order: the broker hands its partitions over, the node its leadership; then the log closes.
async fn shut_down(
    quorum: &Quorum,
    stop_broker: Option<oneshot::Sender<()>>,
    mut broker: JoinHandle<Result<(), Failure>>,
    admin: AdminServer,
) {
    let begun = Instant::now();
    if let Some(stop) = stop_broker {
        // It fails when the broker's task has ended already.
        let _ = stop.send(());
        if timeout_at(begun + BROKER_SHUTDOWN_MAX, &mut broker).await.is_err() {
            broker.abort();
            tracing::warn!("nobody granted the broker's shutdown: its session will run out");
        }
    }
    close(quorum, admin, begun).await;
}

/// Hands leadership over, where this node leads and somebody can take it, and closes the log.
async fn close(quorum: &Quorum, admin: AdminServer, begun: Instant) {
    let closed = timeout_at(begun + SHUTDOWN_MAX, async {
        quorum.shut_down().await;
        admin.stop().await;
    });
    if closed.await.is_err() {
        tracing::warn!("the node did not close in time: its next start is one after a crash");
    }
}

/// Waits until the node has stopped, and says why.
async fn stopped_for_good(quorum: &Quorum) -> String {
    let mut status = quorum.watch_status();
    let fatal = match status.wait_for(|status| status.fatal.is_some()).await {
        Ok(status) => status.fatal.clone(),
        Err(_) => None,
    };
    fatal.unwrap_or_else(|| "the node's loop has ended: see the log, and restart it".to_owned())
}

/// The admin API while it is served.
struct AdminServer {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl AdminServer {
    fn start(admin: Admin, quorum: Quorum) -> AdminServer {
        let addr = admin.addr();
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            // An error means that whoever could say so is gone: that is a stop as well.
            let _ = stopped.await;
        };
        AdminServer { addr, stop, task: tokio::spawn(admin.serve(quorum, stopped)) }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// Settings that cannot be are wrong usage; everything else has failed.
fn refused(error: OpenError) -> Failure {
    match error {
        OpenError::Config(faults) => Failure::Usage(faults.join("; ")),
        other => Failure::Failed(other.to_string()),
    }
}

fn failed(what: &str, why: &dyn std::fmt::Display) -> Failure {
    Failure::Failed(format!("{what}: {why}"))
}
