//! Connects to backends, from the node or from inside a container's network namespace.
//!
//! Every connection is closed by a reset, so that thousands of probes leave no heap of connections
//! in `TIME_WAIT` behind, and no unsent data that anybody waits for.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdTcpStream},
    sync::Arc,
};

use tokio::net::{TcpSocket, TcpStream};

use super::{super::book::Job, Containers};
use crate::{
    health::outcome::{Failure, FailureKind, Outcome, describe},
    model::ProbePlace,
    netlink::{Process, SocketWorker},
};

pub(super) struct Connector {
    containers: Arc<dyn Containers>,
    sockets: SocketWorker,
}

impl Connector {
    pub(super) fn new(containers: Arc<dyn Containers>) -> Self {
        Self { containers, sockets: SocketWorker::default() }
    }

    /// Connects to a port of a target; without one, to that of the traffic.
    pub(super) async fn connect(&self, job: &Job, port: Option<u16>) -> Result<TcpStream, Outcome> {
        let target = &job.target;
        let address = SocketAddr::new(target.address.ip(), port.unwrap_or(target.address.port()));
        let process = match job.probe.place {
            ProbePlace::Node => None,
            ProbePlace::Auto | ProbePlace::Container => self.containers.process(&target.instance),
        };
        match (job.probe.place, process) {
            (ProbePlace::Container, Some(process)) => self.reach_inside(&process, address).await,
            (ProbePlace::Container, None) if target.instance.is_empty() => {
                let text = "it is no container that could be probed from inside; probe it from the \
                            node";
                Err(Outcome::Inconclusive(text.to_owned()))
            }
            (ProbePlace::Container, None) => {
                let text = "its container is not known well enough to be probed from inside";
                Err(Outcome::Inconclusive(text.to_owned()))
            }
            (ProbePlace::Node, _) | (ProbePlace::Auto, None) => reach_from_node(address).await,
            (ProbePlace::Auto, Some(process)) => {
                let failure = match reach_from_node(address).await {
                    Ok(connection) => return Ok(connection),
                    Err(failure) => failure,
                };
                if is_worth_a_look_inside(&failure, address.port() == target.address.port()) {
                    self.reach_inside(&process, address).await
                } else {
                    Err(failure)
                }
            }
        }
    }

    /// To the container's own address, which everything but a listener on loopback answers at; then
    /// to its loopback.
    async fn reach_inside(
        &self,
        process: &Arc<Process>,
        address: SocketAddr,
    ) -> Result<TcpStream, Outcome> {
        let loopback: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let mut outcome = Outcome::Inconclusive(String::new());
        for address in [address, SocketAddr::new(loopback, address.port())] {
            let made = self.sockets.tcp_socket(Arc::clone(process), address.is_ipv6()).await;
            let socket = made.map(|socket| TcpSocket::from_std_stream(StdTcpStream::from(socket)));
            let socket = socket.map_err(|error| {
                let text = format!("cannot look inside the container: {}", describe(&error));
                Outcome::Inconclusive(text)
            })?;
            outcome = match connect(Ok(socket), address).await {
                Ok(connection) => return Ok(connection),
                Err(error) => Outcome::of_connect_error(&error),
            };
            if !outcome.is_refused() {
                break;
            }
        }
        Err(outcome)
    }
}

/// A port that only the container's own loopback listens on refuses the node, which says nothing;
/// but the port of the traffic has to be there for the node. A network that the node is not on, or
/// not allowed into, is seen from inside only.
fn is_worth_a_look_inside(outcome: &Outcome, is_port_of_traffic: bool) -> bool {
    match outcome {
        Outcome::Failed(Failure { kind: FailureKind::Refused, .. }) => !is_port_of_traffic,
        Outcome::Failed(Failure { kind: FailureKind::Unreachable, .. }) => true,
        _ => false,
    }
}

async fn reach_from_node(address: SocketAddr) -> Result<TcpStream, Outcome> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    connect(socket, address).await.map_err(|error| Outcome::of_connect_error(&error))
}

async fn connect(socket: io::Result<TcpSocket>, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket?;
    socket.set_zero_linger()?;
    socket.connect(address).await
}
