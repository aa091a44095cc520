//! Programs that call from inside: in the network of the node or of a container, and in the cgroup
//! below which socket calls are balanced.
//!
//! The agent of a test is told a cgroup of the test's own; nothing is ever attached to the root,
//! which would be every process of the machine.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{container::Container, names, process, world::World};

/// Runs `$@` in the cgroup `$0`.
const ENTER: &str = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;

/// A cgroup v2 of a test's own.
#[derive(Debug)]
pub struct Callers {
    cgroup: PathBuf,
    leaf: PathBuf,
    /// Set where the name is ours to remove; a Docker fixture removes its own.
    owned: Option<String>,
    /// Where `lb-dial` was built, if it was.
    dial: Option<PathBuf>,
}

/// What one call came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Called {
    /// It was answered.
    Answered {
        /// Who answered.
        name: String,
        /// The caller, as the server saw it.
        client: SocketAddr,
        /// The peer, as the caller's socket shows it.
        peer: SocketAddr,
    },
    /// It failed.
    Failed(i32),
}

impl Callers {
    /// The cgroup that holds the world's containers, and programs that are started here.
    pub fn of(world: &mut World) -> Result<Self> {
        let root = cgroup2_root().context("no cgroup v2 is mounted on this machine")?;
        let owned = world.docker_node().is_err().then(names::unique);
        let name = match &owned {
            Some(name) => name.clone(),
            None => world.docker_node()?.cgroup().to_owned(),
        };
        let cgroup = root.join(name);
        let leaf = cgroup.join("callers");
        fs::create_dir_all(&leaf).with_context(|| leaf.display().to_string())?;
        let own = std::env::current_exe()?;
        let dial = own.ancestors().map(|path| path.join("lb-dial")).find(|path| path.is_file());
        Ok(Self { cgroup, leaf, owned, dial })
    }

    /// For `[cgroup]` of the agent's configuration.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A program on the node's network.
    #[must_use]
    pub fn on_node(&self, world: &World, program: &str) -> Command {
        self.in_network(&world.node().path(), program)
    }

    /// A program on a container's network.
    pub fn in_container(&self, container: &Container, program: &str) -> Result<Command> {
        let network = PathBuf::from(format!("/proc/{}/ns/net", container.pid()?));
        Ok(self.in_network(&network, program))
    }

    fn in_network(&self, network: &Path, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "sh", "-c", ENTER]).arg(&self.leaf);
        command.arg("nsenter").arg(format!("--net={}", network.display())).arg(program);
        command
    }

    /// Calls of one kind, from the node or from a container.
    pub fn dial(
        &self,
        world: &World,
        from: Option<&Container>,
        way: &str,
        target: SocketAddr,
        count: usize,
    ) -> Result<Vec<Called>> {
        let mut command = self.dialer(world, from)?;
        command.args([way, &target.to_string(), &count.to_string()]);
        let output = process::run(&mut command)?;
        let calls: Vec<Called> = output.lines().map(parse).collect::<Result<_>>()?;
        ensure!(calls.len() == count, "{} of {count} calls: {output}", calls.len());
        Ok(calls)
    }

    /// Connections that wait; returns when all are open.
    pub fn hold(
        &self,
        world: &World,
        from: Option<&Container>,
        target: SocketAddr,
        count: usize,
        seconds: u64,
    ) -> Result<Held> {
        self.hold_of("hold", world, from, target, count, seconds)
    }

    /// The same with connected sockets of UDP.
    pub fn hold_datagrams(
        &self,
        world: &World,
        from: Option<&Container>,
        target: SocketAddr,
        count: usize,
        seconds: u64,
    ) -> Result<Held> {
        self.hold_of("hold-udp", world, from, target, count, seconds)
    }

    fn hold_of(
        &self,
        way: &str,
        world: &World,
        from: Option<&Container>,
        target: SocketAddr,
        count: usize,
        seconds: u64,
    ) -> Result<Held> {
        let mut command = self.dialer(world, from)?;
        command.args([way, &target.to_string(), &count.to_string(), &seconds.to_string()]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?);
        let mut first = String::new();
        lines.read_line(&mut first)?;
        ensure!(first == "open\n", "not open: `{first}`");
        Ok(Held { child, lines })
    }

    /// The dialer, for scripts.
    pub fn dial_path(&self) -> Result<&Path> {
        let path = self.dial.as_deref();
        path.context("lb-dial is not built: `cargo build -p lb-tests --bins`")
    }

    fn dialer(&self, world: &World, from: Option<&Container>) -> Result<Command> {
        let dial = self.dial_path()?.display().to_string();
        match from {
            None => Ok(self.on_node(world, &dial)),
            Some(container) => self.in_container(container, &dial),
        }
    }
}

/// Connections that wait.
#[derive(Debug)]
pub struct Held {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Held {
    /// Waits for the end, and says what became of each.
    pub fn end(mut self) -> Result<String> {
        let mut text = String::new();
        self.lines.read_to_string(&mut text)?;
        self.child.wait()?;
        Ok(text)
    }

    /// Waits for the end, and says when connections have ended, in milliseconds since the epoch: all of
    /// them with this error.
    pub fn ends(self, errno: i32) -> Result<Vec<f64>> {
        let text = self.end()?;
        let mut ends = Vec::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("ended=")) {
            let (how, at_ms) = line.split_once(" at_ms=").context("no time")?;
            ensure!(how == errno.to_string(), "one ended with {how} and not with {errno}");
            ends.push(at_ms.parse()?);
        }
        Ok(ends)
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        match &self.owned {
            Some(name) => names::remove_cgroups(name),
            // Else the fixture that made the cgroup could not remove it.
            None => drop(fs::remove_dir(&self.leaf)),
        }
    }
}

/// Where cgroup v2 is mounted.
fn cgroup2_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (target, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(target))
    })
}

fn parse(line: &str) -> Result<Called> {
    let field =
        |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    if let Some(errno) = field("errno") {
        return Ok(Called::Failed(errno.parse().with_context(|| line.to_owned())?));
    }
    let wanted = |key: &str| field(key).with_context(|| format!("no {key} in `{line}`"));
    Ok(Called::Answered {
        name: wanted("name")?.to_owned(),
        client: wanted("client")?.parse()?,
        peer: wanted("peer")?.parse()?,
    })
}
