//! `HAProxy` and nginx as TCP proxies on the node.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{World, process};
use nix::sys::signal::Signal;

/// The node's address on the front.
const NODE: &str = "192.0.2.1";
const START_LIMIT: Duration = Duration::from_secs(5);
const STOP_LIMIT: Duration = Duration::from_secs(3);
const NGINX_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A proxy, and how it is told what to do.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    program: &'static str,
    port: u16,
    carries_udp: bool,
    configuration: fn(&Path, SocketAddr, SocketAddr) -> String,
    arguments: &'static [&'static str],
}

/// All of them.
pub(crate) const ALL: [Kind; 2] = [
    Kind {
        name: "HAProxy",
        program: "haproxy",
        port: 8081,
        carries_udp: false,
        configuration: haproxy,
        arguments: &["-db", "-f"],
    },
    Kind {
        name: "nginx stream",
        program: "nginx",
        port: 8082,
        carries_udp: true,
        configuration: nginx,
        arguments: &["-c"],
    },
];

fn haproxy(_directory: &Path, listen: SocketAddr, server: SocketAddr) -> String {
    format!(
        "global\n maxconn 4096\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n \
         timeout server 60s\nlisten bench\n bind {listen}\n server web {server}\n"
    )
}

fn nginx(directory: &Path, listen: SocketAddr, server: SocketAddr) -> String {
    let module = if Path::new(NGINX_MODULE).exists() {
        format!("load_module {NGINX_MODULE};\n")
    } else {
        // Built in, or else nginx says what it lacks.
        String::new()
    };
    format!(
        "{module}daemon off;\nuser root;\nworker_processes auto;\npid {0}/nginx.pid;\n\
         error_log {0}/nginx.log;\nevents {{ worker_connections 4096; }}\n\
         stream {{ server {{ listen {listen}; proxy_pass {server}; }}\n\
         server {{ listen {listen} udp; proxy_pass {server}; }} }}\n",
        directory.display()
    )
}

/// A running proxy; ended on drop.
pub(crate) struct Proxy {
    child: Child,
    listen: SocketAddr,
    carries_udp: bool,
}

impl Proxy {
    /// Starts a proxy in the node's namespace, and waits until it serves.
    pub(crate) fn start(kind: Kind, world: &World, server: SocketAddr) -> Result<Self> {
        let listen = SocketAddr::new(NODE.parse()?, kind.port);
        let path = world.directory().join(format!("{}.conf", kind.program));
        fs::write(&path, (kind.configuration)(world.directory(), listen, server))?;
        let log = fs::File::create(world.directory().join(format!("{}.out", kind.program)))?;
        let child = world
            .node()
            .command(kind.program)
            .args(kind.arguments)
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", kind.program))?;
        let mut proxy = Self { child, listen, carries_udp: kind.carries_udp };
        let is_ready = process::poll(START_LIMIT, || {
            let connect = || TcpStream::connect_timeout(&listen, START_LIMIT).is_ok();
            world.client().enter(connect).unwrap_or(false)
        });
        let status = proxy.child.try_wait()?;
        ensure!(
            is_ready && status.is_none(),
            "it does not serve (the Debian packages haproxy and libnginx-mod-stream have it): {}",
            fs::read_to_string(world.directory().join(format!("{}.out", kind.program)))?.trim()
        );
        Ok(proxy)
    }

    /// Where clients connect to.
    pub(crate) const fn listens_at(&self) -> SocketAddr {
        self.listen
    }

    /// Whether it forwards UDP, too.
    pub(crate) const fn carries_udp(&self) -> bool {
        self.carries_udp
    }

    /// The process, or the parent of those that do the work.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(0)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        process::signal(&self.child, Signal::SIGTERM);
        process::wait_child(&mut self.child, STOP_LIMIT);
    }
}
