//! NATS with JetStream: three servers, and publishers that wait for the stream's answer.
//!
//! JetStream answers when a majority of servers has the message in its log; version 2.9 syncs its files
//! every two minutes, so that a power loss takes what was acknowledged.

mod connection;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tokio::runtime::Runtime;

use crate::compare::contender::Contender;
use crate::compare::drive::{Client, Order, drive};
use crate::compare::server::{Servers, is_installed};
use crate::compare::side::{Name, Side};
use crate::compare::{NATS, PROCESSES};
use crate::groups::cpu_time;
use crate::lap::Lap;
use crate::patience;
use crate::process::Failure;
use crate::trio::{NODES, PATIENCE, free_port};

use connection::{Answers, Connection};

const PROGRAM: &str = "nats-server";

/// The stream, the subject that it stores, and how it is asked for.
const SUBJECT: &str = "compare";
const CREATE: &str = "$JS.API.STREAM.CREATE.compare";
const STREAM: &str = r#"{"name":"compare","subjects":["compare"],"storage":"file","num_replicas":3,"retention":"limits","discard":"old"}"#;

/// Clients that share a connection, and connections at most.
const CLIENTS_PER_CONNECTION: usize = 256;
const CONNECTIONS_MAX: usize = 4;

/// The servers, and where the one is that leads the stream.
struct Nats {
    runtime: Rc<Runtime>,
    servers: Servers,
    leader: SocketAddr,
}

/// The part of the answer to [`CREATE`] that is wanted.
#[derive(Deserialize)]
struct Created {
    cluster: Option<StreamCluster>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct StreamCluster {
    leader: Option<String>,
}

/// Starts the servers, if there is such a program.
pub(super) fn start(runtime: &Rc<Runtime>, dir: &Path) -> Result<Option<Side>, Failure> {
    if !is_installed(PROGRAM, PROGRAM) {
        return Ok(None);
    }
    let name = Name { system: "nats", mode: PROCESSES, what: NATS };
    Ok(Some(Side::new(name, Nats::start(runtime, dir)?).not_durable()))
}

impl Nats {
    fn start(runtime: &Rc<Runtime>, dir: &Path) -> Result<Nats, Failure> {
        // Held until all are chosen, so that no port is chosen twice.
        let held: Vec<[TcpListener; 2]> =
            NODES.iter().map(|_| [free_port(), free_port()]).collect();
        let addrs = held.iter().map(|[clients, routes]| {
            Ok::<_, Failure>((clients.local_addr()?, routes.local_addr()?))
        });
        let addrs = addrs.collect::<Result<Vec<_>, _>>()?;
        drop(held);
        let routes: Vec<String> =
            addrs.iter().map(|(_, route)| format!("\"nats://{route}\"")).collect();
        let mut commands = Vec::new();
        for (node, (clients, route)) in NODES.iter().zip(&addrs) {
            let config = dir.join(format!("{node}.conf"));
            let store = dir.join(node.to_string());
            std::fs::write(
                &config,
                format!(
                    "server_name: \"{node}\"\nlisten: \"{clients}\"\n\
                     jetstream {{ store_dir: {store:?} }}\n\
                     cluster {{ name: compare, listen: \"{route}\", routes: [{}] }}\n",
                    routes.join(", ")
                ),
            )?;
            let mut command = Command::new(PROGRAM);
            command.arg("--config").arg(config);
            commands.push(command);
        }
        let servers = Servers::start(commands, dir)?;
        let clients: Vec<SocketAddr> = addrs.iter().map(|(clients, _)| *clients).collect();
        let mut nats = Nats { runtime: runtime.clone(), servers, leader: clients[0] };
        let what = "a JetStream that creates a stream: see its log";
        let leader = patience::until(&mut nats, PATIENCE, what, |nats| {
            // Until the servers have found each other they refuse, or do not answer.
            let created = nats.runtime.block_on(create(clients[0]));
            Ok(created.ok().and_then(|leader| leader.checked_sub(1)))
        })?;
        nats.leader =
            *clients.get(leader).ok_or("a server that nobody started leads the stream")?;
        Ok(nats)
    }
}

/// Asks for the stream, and tells the number of the server that leads it.
async fn create(addr: SocketAddr) -> Result<usize, Failure> {
    const WITHIN: Duration = Duration::from_secs(2);
    let (connection, mut answers) =
        tokio::time::timeout(WITHIN, Connection::open(addr, 1)).await??;
    connection.publish(CREATE, 0, Bytes::from_static(STREAM.as_bytes())).await?;
    let answer = tokio::time::timeout(WITHIN, answers.remove(0).recv()).await?;
    let created: Created = serde_json::from_slice(&answer.ok_or("the connection was closed")?)?;
    if let Some(error) = created.error {
        return Err(error.to_string().into());
    }
    let leader = created.cluster.and_then(|cluster| cluster.leader);
    Ok(leader.ok_or("nobody leads the stream yet")?.parse()?)
}

impl Contender for Nats {
    fn turn(&mut self, order: &Order) -> Result<Lap, Failure> {
        let count = order.clients as usize;
        let connections = count.div_ceil(CLIENTS_PER_CONNECTION).min(CONNECTIONS_MAX);
        let payload = Bytes::from(vec![0xa5; order.payload_bytes]);
        self.runtime.block_on(async {
            let mut clients = Vec::with_capacity(count);
            for at in 0..connections {
                let share = count / connections + usize::from(at < count % connections);
                let (connection, answers) = Connection::open(self.leader, share).await?;
                let publisher = |(number, answers)| Publisher {
                    connection: connection.clone(),
                    number,
                    answers,
                    payload: payload.clone(),
                };
                clients.extend(answers.into_iter().enumerate().map(publisher));
            }
            drive(clients, order).await
        })
    }

    fn fsyncs(&mut self) -> Result<Option<u64>, Failure> {
        // It counts none, and makes none for a message.
        Ok(None)
    }

    fn cpu_time(&mut self) -> Result<Duration, Failure> {
        Ok(cpu_time() + self.servers.cpu_time()?)
    }
}

/// One publisher, which shares its connection with others.
struct Publisher {
    connection: Connection,
    /// Among the clients of its connection.
    number: usize,
    answers: Answers,
    payload: Bytes,
}

impl Client for Publisher {
    async fn operate(&mut self) -> Result<(), String> {
        let published = self.connection.publish(SUBJECT, self.number, self.payload.clone());
        published.await.map_err(|error| error.to_string())?;
        let ack = self.answers.recv().await.ok_or("the connection was closed")?;
        // {"stream":"compare","seq":1}, or an object with `error`.
        match ack.windows(7).any(|word| word == b"\"error\"") {
            true => Err(String::from_utf8_lossy(&ack).into_owned()),
            false => Ok(()),
        }
    }
}
