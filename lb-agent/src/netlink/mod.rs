//! What the node and its containers look like to the kernel: processes, network namespaces, links,
//! addresses, routes, connections.
//!
//! It only reads, apart from [`end_session`] and [`end_sockets`]; whatever changes links, filters or maps belongs to `datapath`. Only
//! [`namespace`] enters network namespaces, on threads that end there or come back before they wait. Nothing here is kept:
//! sockets and namespace handles are closed before a function returns, because a namespace handle
//! that is kept would keep the network of a dead container alive. All functions but
//! [`egress_interface`] block for some hundred microseconds; async code calls them on a blocking
//! thread.

mod container;
mod cookie;
mod diag_parts;
mod link;
mod local;
mod namespace;
mod node;
mod process;
mod route;
mod session;
mod sock_diag;
mod socket;
mod socket_worker;
mod sockets;

pub use container::{
    ContainerNetwork, ContainerWay, NetworkError, NetworkRefusal, container_network,
};
pub use cookie::Cookies;
pub(crate) use cookie::of_socket as netns_cookie_of;
pub use diag_parts::{DiagPart, missing_diag_parts};
pub use local::{local_networks, local_prefixes};
pub use namespace::Namespace;
pub use node::{default_route_interfaces, forwarding_enabled, link_index, link_name, newest_port};
pub use process::{BootTicks, Process};
pub use route::egress_interfaces;
pub use session::end_session;
pub use sock_diag::{Found, end_sockets};
pub use socket_worker::SocketWorker;
pub use sockets::established;
