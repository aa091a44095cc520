//! Programs that call from inside: in the network of the node or of a container, and in the cgroup
//! below which socket calls are balanced.
//!
//! The agent of a test is told a cgroup of the test's own; nothing is ever attached to the root,
//! which would be every process of the machine.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
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

    /// Where programs that are started here run: below it, with no cgroup in it.
    #[must_use]
    pub fn leaf(&self) -> &Path {
        &self.leaf
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
    ) -> Result<Held> {
        self.hold_of("hold", world, from, target, count)
    }

    /// The same with connected sockets of UDP.
    pub fn hold_datagrams(
        &self,
        world: &World,
        from: Option<&Container>,
        target: SocketAddr,
        count: usize,
    ) -> Result<Held> {
        self.hold_of("hold-udp", world, from, target, count)
    }

    fn hold_of(
        &self,
        way: &str,
        world: &World,
        from: Option<&Container>,
        target: SocketAddr,
        count: usize,
    ) -> Result<Held> {
        let mut command = self.dialer(world, from)?;
        command.args([way, &target.to_string(), &count.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let mut first = String::new();
        output.read_line(&mut first)?;
        ensure!(first == "open\n", "not open: `{first}`");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            // Whoever has gone wants to hear no more.
            output
                .lines()
                .map_while(Result::ok)
                .all(|line| sender.send((Instant::now(), line)).is_ok())
        });
        Ok(Held { child, input, lines, count })
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

/// So many of them are asked in the end, by `lb-dial`.
const ASKED_MAX: usize = 200;
/// Longest wait for the first of them to end.
const FIRST_END: Duration = Duration::from_secs(20);
/// When so long none has ended, the others go on: the agent looks twice in the second after something
/// has gone.
const QUIET: Duration = Duration::from_secs(2);

/// Connections that wait, until this is dropped.
#[derive(Debug)]
pub struct Held {
    child: Child,
    input: Option<ChildStdin>,
    /// Each with the moment when it came.
    lines: Receiver<(Instant, String)>,
    count: usize,
}

impl Held {
    /// Lets them go, and checks that every one is alive, and that those of them which are asked answer.
    pub fn all_answer(self) -> Result<()> {
        let count = self.count;
        let output = self.let_go()?;
        let expected = [format!("alive={count}"), format!("answered={}", count.min(ASKED_MAX))];
        ensure!(output == expected, "of {count}: {output:?}");
        Ok(())
    }

    /// Waits until no more of them end, and says when they have, in milliseconds since the epoch: all
    /// with this error. Those that have not are let go, and have to answer.
    pub fn ends(self, errno: i32) -> Result<Vec<f64>> {
        let mut output = Vec::new();
        let mut deadline = Instant::now() + FIRST_END;
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        while let Ok((came_at, line)) = self.lines.recv_timeout(left(deadline)) {
            output.push(line);
            deadline = came_at + QUIET;
        }
        let count = self.count;
        output.extend(self.let_go()?);
        let mut ends = Vec::new();
        for line in output.iter().filter_map(|line| line.strip_prefix("ended=")) {
            let (how, at_ms) = line.split_once(" at_ms=").context("no time")?;
            ensure!(how == errno.to_string(), "one ended with {how} and not with {errno}");
            ends.push(at_ms.parse()?);
        }
        let alive = count - ends.len();
        let answered = format!("answered={}", alive.min(ASKED_MAX));
        ensure!(output.last() == Some(&answered), "{alive} are alive: {:?}", output.last());
        Ok(ends)
    }

    /// What there is to say yet, in lines.
    fn let_go(mut self) -> Result<Vec<String>> {
        drop(self.input.take());
        let output = self.lines.iter().map(|(_, line)| line).collect();
        self.child.wait()?;
        Ok(output)
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
