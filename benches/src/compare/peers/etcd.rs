//! etcd: three servers, and clients that put one key each, at the server that leads.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::compare::contender::Contender;
use crate::compare::drive::{Client, Order, drive};
use crate::compare::server::{Servers, is_installed};
use crate::compare::side::{Name, Side};
use crate::compare::{ETCD, PROCESSES};
use crate::groups::cpu_time;
use crate::lap::Lap;
use crate::patience;
use crate::process::Failure;
use crate::trio::{NODES, PATIENCE, free_port};

const PROGRAM: &str = "etcd";

/// The one call that is made, and the two fields of it that are used. (What is generated from etcd's
/// definitions would take a compiler of its own to build.)
const PUT: &str = "/etcdserverpb.KV/Put";

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: bytes::Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: bytes::Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// Clients that share a connection, and connections at most.
const CLIENTS_PER_CONNECTION: usize = 256;
const CONNECTIONS_MAX: usize = 4;

/// Where a server counts the fsyncs of its log. (Those of its database, ten times a second, are others.)
const FSYNCS: &str = "etcd_disk_wal_fsync_duration_seconds_count";

/// The servers, and where their clients find them.
struct Etcd {
    runtime: Rc<Runtime>,
    servers: Servers,
    addrs: Vec<SocketAddr>,
}

/// Starts the servers, if there is such a program.
pub(in crate::compare) fn start(
    runtime: &Rc<Runtime>,
    dir: &Path,
) -> Result<Option<Side>, Failure> {
    if !is_installed(PROGRAM, "etcd-server") {
        return Ok(None);
    }
    let name = Name { system: "etcd", mode: PROCESSES, what: ETCD };
    Ok(Some(Side::new(name, Etcd::start(runtime, dir)?)))
}

impl Etcd {
    fn start(runtime: &Rc<Runtime>, dir: &Path) -> Result<Etcd, Failure> {
        // Held until all are chosen, so that no port is chosen twice.
        let held: Vec<[TcpListener; 2]> =
            NODES.iter().map(|_| [free_port(), free_port()]).collect();
        let addrs = held
            .iter()
            .map(|[clients, peers]| Ok::<_, Failure>((clients.local_addr()?, peers.local_addr()?)));
        let addrs = addrs.collect::<Result<Vec<_>, _>>()?;
        drop(held);
        let named =
            NODES.iter().zip(&addrs).map(|(node, (_, peers))| format!("{node}=http://{peers}"));
        let cluster = named.collect::<Vec<_>>().join(",");
        let command = |(node, (clients, peers)): (&u64, &(SocketAddr, SocketAddr))| {
            let (clients, peers) = (format!("http://{clients}"), format!("http://{peers}"));
            let mut command = Command::new(PROGRAM);
            // What the environment says is about another etcd.
            command.env_clear();
            command
                .args(["--name", &node.to_string(), "--data-dir"])
                .arg(dir.join(node.to_string()));
            command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
            command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
            command.args(["--initial-cluster", &cluster, "--initial-cluster-state", "new"]);
            command
        };
        let servers = Servers::start(NODES.iter().zip(&addrs).map(command), dir)?;
        let addrs = addrs.into_iter().map(|(clients, _)| clients).collect();
        let mut etcd = Etcd { runtime: runtime.clone(), servers, addrs };
        let what = "an etcd that leads: see its log";
        patience::until(&mut etcd, PATIENCE, what, |etcd| Ok(etcd.leader()))?;
        Ok(etcd)
    }

    /// The server that leads, if one does by now.
    fn leader(&self) -> Option<SocketAddr> {
        let leads =
            |addr: &SocketAddr| metric(*addr, "etcd_server_is_leader").is_ok_and(|is| is == 1);
        self.addrs.iter().copied().find(leads)
    }
}

/// A count or gauge of a server.
fn metric(addr: SocketAddr, name: &str) -> Result<u64, Failure> {
    let metrics = http_get(addr, "/metrics")?;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value: f64 = value.ok_or_else(|| format!("etcd does not tell {name}"))?.parse()?;
    Ok(value as u64)
}

/// What is at a path of a server, by HTTP/1.0: with its headers before it.
fn http_get(addr: SocketAddr, path: &str) -> Result<String, Failure> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

impl Contender for Etcd {
    fn turn(&mut self, order: &Order) -> Result<Lap, Failure> {
        let leader = self.leader().ok_or("no etcd leads")?;
        let count = order.clients as usize;
        let connections = count.div_ceil(CLIENTS_PER_CONNECTION).min(CONNECTIONS_MAX);
        let value = bytes::Bytes::from(vec![0xa5; order.payload_bytes]);
        self.runtime.block_on(async {
            let mut channels = Vec::new();
            for _ in 0..connections {
                let endpoint = Endpoint::from_shared(format!("http://{leader}"))?;
                channels
                    .push(endpoint.tcp_nodelay(true).connect_timeout(PATIENCE).connect().await?);
            }
            let spread = channels.iter().cycle().take(count).enumerate();
            let client = |(number, channel): (usize, &Channel)| Putter {
                server: Grpc::new(channel.clone()),
                put: PutRequest { key: number.to_string().into(), value: value.clone() },
            };
            drive(spread.map(client).collect(), order).await
        })
    }

    fn fsyncs(&mut self) -> Result<Option<u64>, Failure> {
        let counts = self.addrs.iter().map(|addr| metric(*addr, FSYNCS));
        Ok(Some(counts.sum::<Result<u64, _>>()?))
    }

    fn cpu_time(&mut self) -> Result<Duration, Failure> {
        Ok(cpu_time() + self.servers.cpu_time()?)
    }
}

/// One client, which shares its connection with others.
struct Putter {
    server: Grpc<Channel>,
    put: PutRequest,
}

impl Client for Putter {
    async fn operate(&mut self) -> Result<(), String> {
        self.server.ready().await.map_err(|error| error.to_string())?;
        let codec = ProstCodec::<PutRequest, PutResponse>::default();
        let put = tonic::Request::new(self.put.clone());
        let done = self.server.unary(put, PathAndQuery::from_static(PUT), codec).await;
        done.map(drop).map_err(|status| status.to_string())
    }
}
