//! What `lbctl` is told on its command line. Asks nobody.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use lb_agent::{
    api::{
        trace::{Prefix, TRACE_SECONDS},
        types::DEFAULT_SOCKET,
    },
    model::Protocol,
};

/// Shows what the lb agent on this node does.
#[derive(Parser)]
#[command(
    name = "lbctl",
    version,
    infer_subcommands = true,
    after_help = "Exit codes: 0 done, 1 the agent could not answer, or the doctor found an error, \
                  2 wrong usage, 3 no agent there, 4 no permission to use its socket."
)]
pub(crate) struct Cli {
    /// The agent's socket.
    #[arg(long, global = true, env = "LB_SOCKET", default_value = DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs: the API's own JSON.
    Json,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Virtual addresses and what answers at them.
    Vip {
        #[command(subcommand)]
        command: List,
    },
    /// Services: frontends, ring, backends by state.
    Service {
        #[command(subcommand)]
        command: ServiceCommand,
    },
    /// Backends: address, weight, share of new flows, traffic.
    Backend {
        #[command(subcommand)]
        command: BackendCommand,
    },
    /// Drop reasons: packets, what happened, where to look.
    Drop {
        #[command(subcommand)]
        command: DropCommand,
    },
    /// What the data path would decide on a packet now, step by step.
    Explain(ExplainArguments),
    /// Packets and the decisions on them, as they come.
    Trace(TraceArguments),
    /// What has changed, when and why.
    Event {
        #[command(subcommand)]
        command: EventCommand,
    },
    /// Services that want what another has.
    Conflict {
        #[command(subcommand)]
        command: List,
    },
    /// The agent itself: providers, front interfaces, drops, what it could not grant and why.
    Status,
    /// What is wrong with this node, or may surprise; works without the agent as far as it can.
    Doctor {
        /// The agent's configuration [default: /etc/lb/lb.toml if it exists].
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The same as `-o json`.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub(crate) enum List {
    /// All of them.
    List,
}

#[derive(Subcommand)]
pub(crate) enum ServiceCommand {
    /// All of them.
    List,
    /// One of them: every setting, and where its value comes from.
    Show {
        /// Its name, as `lbctl service list` prints it.
        name: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum BackendCommand {
    /// All of them, or those of one service.
    List(BackendListArguments),
    /// No new connections; it keeps its own for the service's `drain_seconds`.
    Drain(Whom),
    /// Takes `drain` back; one that was told to end takes new connections until it is told again.
    Undrain(Whom),
    /// No connections at all: those that it has are reset.
    Disable(Whom),
    /// Takes `disable` back.
    Enable(Whom),
    /// Its share of new connections, relative to the others.
    Weight {
        #[command(flatten)]
        whom: Whom,
        /// 0 to 65535, or `reset` for the weight that was asked for.
        #[arg(value_parser = parse_weight)]
        weight: Weight,
    },
}

/// Of a backend; `None`: the one that was asked for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Weight(pub(crate) Option<u16>);

pub(crate) fn parse_weight(text: &str) -> Result<Weight, String> {
    if text == "reset" {
        return Ok(Weight(None));
    }
    let weight = text.parse().map_err(|_| "expected 0 to 65535, or `reset`".to_owned())?;
    Ok(Weight(Some(weight)))
}

#[derive(Args)]
pub(crate) struct Whom {
    /// Name or address of the backend, as `lbctl backend list` prints them.
    #[arg(value_name = "NAME|ADDRESS")]
    pub(crate) backend: String,
    /// Only in this service, named as `lbctl service list` does; else in all that have it.
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
}

#[derive(Subcommand)]
pub(crate) enum EventCommand {
    /// The latest, up to 1,000.
    List,
    /// All that come from now on, until interrupted.
    Follow,
}

#[derive(Subcommand)]
pub(crate) enum DropCommand {
    /// Those that occurred, or all of them.
    List {
        /// Also those that never occurred.
        #[arg(long)]
        all: bool,
    },
}

#[derive(Args)]
pub(crate) struct BackendListArguments {
    /// Only backends of this service, named as `lbctl service list` does.
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
}

#[derive(Args)]
pub(crate) struct TraceArguments {
    /// Only packets from and to clients with this address, or in this network.
    #[arg(long, value_name = "ADDRESS[/BITS]")]
    pub(crate) client: Option<Prefix>,
    /// Only socket calls of this container of this node, or of `node`.
    #[arg(long, value_name = "CONTAINER|node", conflicts_with = "client")]
    pub(crate) from: Option<String>,
    /// Only packets from and to this virtual address.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) vip: Option<IpAddr>,
    /// Only packets from and to this port of a virtual address.
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// Only packets to and from this backend, named as `lbctl backend list` does, or by its address.
    #[arg(long, value_name = "NAME")]
    pub(crate) backend: Option<String>,
    /// Only packets with this drop reason, see `lbctl drop list --all`.
    #[arg(long, value_name = "NAME")]
    pub(crate) reason: Option<String>,
    /// Only what is dropped, or answered in place of a backend.
    #[arg(long)]
    pub(crate) dropped: bool,
    /// End after so many packets.
    #[arg(long, value_name = "PACKETS")]
    pub(crate) count: Option<u64>,
    /// End after so many seconds, at most 600.
    #[arg(long, default_value_t = TRACE_SECONDS)]
    pub(crate) seconds: u32,
}

#[derive(Args)]
pub(crate) struct ExplainArguments {
    /// The client, and where it sends to; with `--reply`, the backend that sends to it. Without a
    /// port of the client, 40000 stands for any.
    #[arg(value_names = ["CLIENT[:PORT]", "VIP:PORT"], num_args = 2, required_unless_present = "from", conflicts_with = "from")]
    pub(crate) packet: Vec<String>,
    /// A socket call instead of a packet: who calls, a container of this node or `node`, and where.
    #[arg(long, value_names = ["CONTAINER|node", "VIP:PORT"], num_args = 2, conflicts_with_all = ["reply", "kind"])]
    pub(crate) from: Vec<String>,
    /// Of the other direction: what a backend sends, at its own address, to the client.
    #[arg(long)]
    pub(crate) reply: bool,
    /// By which protocol.
    #[arg(long, value_enum, default_value_t = ProtocolArgument::Tcp)]
    pub(crate) protocol: ProtocolArgument,
    /// What is sent, by TCP; without it a SYN, of a backend data.
    #[arg(long, value_enum)]
    pub(crate) kind: Option<PacketArgument>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ProtocolArgument {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl ProtocolArgument {
    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Self::Tcp => Protocol::Tcp,
            Self::Udp => Protocol::Udp,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum PacketArgument {
    /// The first packet of a connection.
    Syn,
    /// The answer to it.
    Synack,
    /// An acknowledgement or data.
    Data,
    /// The end of the sender's direction.
    Fin,
    /// The end of the connection.
    Rst,
}

/// What to explain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Explained {
    /// A packet of a client, and where it goes.
    Packet(SocketAddr, SocketAddr),
    /// A socket call of somebody, and where to.
    Call(String, SocketAddr),
}

impl ExplainArguments {
    pub(crate) fn what(&self) -> Result<Explained, String> {
        let address =
            |text: &String| text.parse().map_err(|_| format!("`{text}` is no address with a port"));
        match (self.packet.as_slice(), self.from.as_slice()) {
            ([client, vip], _) => Ok(Explained::Packet(client_address(client)?, address(vip)?)),
            (_, [from, vip]) => Ok(Explained::Call(from.clone(), address(vip)?)),
            _ => Err("expected CLIENT[:PORT] VIP:PORT, or --from NAME VIP:PORT".to_owned()),
        }
    }
}

/// Of a client whose port nobody knows.
pub(crate) const ANY_CLIENT_PORT: u16 = 40_000;

pub(crate) fn client_address(text: &str) -> Result<SocketAddr, String> {
    let bare = text.parse().map(|address: IpAddr| SocketAddr::new(address, ANY_CLIENT_PORT));
    bare.or_else(|_| text.parse())
        .map_err(|_| format!("`{text}` is no address, with a port or without"))
}

#[cfg(test)]
mod tests;
