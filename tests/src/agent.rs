//! `lb-agent` as an operator runs it: a configuration file, a process, `lbctl` beside it.

mod config;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{binaries::Binaries, manager::Manager, namespace::Namespace, process};

pub use config::AgentConfig;

/// How long an agent may take until it answers.
const READY: Duration = Duration::from_secs(15);
/// Age of the counters that it shows, at most, and time for it to see that they are too old.
const COUNTERS_AGE_MAX: Duration = Duration::from_millis(300);

/// Runs `$@` in a cgroup namespace whose root is `$0`, where no cgroup v2 is mounted. Where one step fails
/// nothing is run: it would see the machine's root, which is the one without a type.
const IN_ITS_OWN_CGROUPS: &str = r#"
    test -e "$0/cgroup.type" && echo $$ > "$0/cgroup.procs" && exec unshare --cgroup --mount sh -c '
    umount --all --lazy --types cgroup2 && ! grep -q cgroup2 /proc/self/mountinfo &&
    grep -q ^0::/$ /proc/self/cgroup && exec "$@"' inner "$@""#;

/// The unit that operators run it by: for its environment.
const UNIT: &str = include_str!("../../dist/lb-agent.service");

/// An agent; killed on drop, its log shown when the test panics.
#[derive(Debug)]
pub struct Agent {
    child: Option<Child>,
    namespace: Namespace,
    binaries: Binaries,
    directory: PathBuf,
    pins: PathBuf,
    /// Variables of its environment beside ours.
    environment: Vec<(String, String)>,
    /// What its start goes through; `None`: nobody keeps anything for it.
    manager: Option<Arc<Manager>>,
    /// Root of its cgroup namespace; `None`: it is in that of the machine.
    cgroup_root: Option<PathBuf>,
    /// Kept by the owner who succeeds; else the log is printed on drop.
    quiet: bool,
}

impl Agent {
    /// Prepares one whose files are in the directory and whose pins are below `pins`.
    pub fn prepare(namespace: &Namespace, directory: &Path, pins: &Path) -> Result<Self> {
        let directory = directory.join("agent");
        fs::create_dir_all(&directory)?;
        Ok(Self {
            child: None,
            namespace: namespace.borrowed(),
            binaries: Binaries::find()?.clone(),
            directory,
            pins: pins.join("lb"),
            environment: Vec::new(),
            manager: None,
            cgroup_root: None,
            quiet: false,
        })
    }

    /// From its next start on this is the root of a cgroup namespace of its own, and no cgroup v2 is
    /// mounted where it looks. It has to be one that takes processes.
    pub fn set_cgroup_root(&mut self, root: &Path) {
        self.cgroup_root = Some(root.to_owned());
    }

    /// Writes the configuration, all at once: the agent may look at any moment.
    pub fn configure(&self, config: &AgentConfig) -> Result<()> {
        ensure!(
            self.cgroup_root.as_ref() == config.cgroup.as_ref().filter(|_| config.is_cgroup_root),
            "an agent that looks for the root of its cgroups would find that of the machine"
        );
        let text = config.text(&self.pins, &self.state_path());
        let written = self.directory.join("lb.toml.new");
        fs::write(&written, text)
            .and_then(|()| fs::rename(&written, self.config_path()))
            .context("cannot write lb.toml")
    }

    /// A variable of its environment when it is started next.
    pub fn set_variable(&mut self, key: &str, value: impl Into<String>) {
        self.environment.push((key.to_owned(), value.into()));
    }

    /// From its next start on it is started by this one.
    pub fn set_manager(&mut self, manager: &Arc<Manager>) {
        self.manager = Some(Arc::clone(manager));
    }

    /// Another program than the one under test when it is started next.
    pub fn set_program(&mut self, path: PathBuf) {
        self.binaries.agent = path;
    }

    /// Where `lb.toml` is.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.directory.join("lb.toml")
    }

    /// Its runtime directory.
    #[must_use]
    pub fn state_path(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// Directory of its pins.
    #[must_use]
    pub fn pin_path(&self) -> &Path {
        &self.pins
    }

    /// `lb-agent SUBCOMMAND --config FILE …`, in the node's namespace.
    #[must_use]
    pub fn command(&self, words: &str) -> Command {
        let mut command = self.namespace.command(&self.binaries.agent);
        self.add_words(&mut command, words);
        command
    }

    fn add_words(&self, command: &mut Command, words: &str) {
        let mut words = words.split_whitespace();
        command.args(words.next()).arg("--config").arg(self.config_path()).args(words);
    }

    /// Starts it without waiting.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the agent runs already");
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let (mut command, _handed_over) = match &self.manager {
            None => (self.namespace.command("env"), Vec::new()),
            Some(manager) => manager.handing(&self.namespace)?,
        };
        match &self.cgroup_root {
            // As the unit says.
            None => command.args(["nice", "-n", "-10"]),
            Some(root) => command.args(["sh", "-c", IN_ITS_OWN_CGROUPS]).arg(root),
        };
        command.arg(&self.binaries.agent);
        self.add_words(&mut command, "run");
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.env("LB_LOG", "info").env("NO_COLOR", "1").stdin(Stdio::null());
        command.envs(unit_environment());
        self.child = Some(command.stdout(log.try_clone()?).stderr(log).spawn()?);
        Ok(())
    }

    /// Starts it and waits until its API answers.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    /// Waits until its API answers.
    pub fn wait_ready(&mut self) -> Result<()> {
        process::wait_for("the agent's API", READY, || {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                // No use in waiting for it.
                self.child = None;
                anyhow::bail!("the agent ended: {status}");
            }
            ensure!(self.child.is_some(), "the agent ended");
            self.lbctl("status").map(|_| ())
        })
        .with_context(|| self.log())
    }

    /// Ends it by a signal and waits for its end.
    pub fn stop(&mut self, signal: Signal) -> Result<()> {
        let mut child = self.child.take().context("the agent does not run")?;
        process::signal(&child, signal);
        ensure!(
            process::wait_child(&mut child, Duration::from_secs(10)),
            "the agent does not end on {signal}:\n{}",
            self.log()
        );
        Ok(())
    }

    /// Sends it a signal and does not wait.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        process::signal(self.child.as_ref().context("the agent does not run")?, signal);
        Ok(())
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether its process lives.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// `lb-agent uninstall`.
    pub fn uninstall(&self) -> Result<String> {
        process::run(&mut self.command("uninstall"))
    }

    /// `lbctl WORDS`; its output.
    pub fn lbctl(&self, words: &str) -> Result<String> {
        process::run(&mut self.lbctl_command(words))
    }

    /// `lbctl WORDS`, to be run.
    #[must_use]
    pub fn lbctl_command(&self, words: &str) -> Command {
        let mut command = self.namespace.command(&self.binaries.lbctl);
        command.arg("--socket").arg(self.state_path().join("api.sock"));
        command.args(words.split_whitespace());
        command
    }

    /// `lbctl WORDS -o json`.
    pub fn json(&self, words: &str) -> Result<Value> {
        let text = self.lbctl(&format!("{words} -o json"))?;
        serde_json::from_str(&text).with_context(|| format!("lbctl {words}: `{text}`"))
    }

    /// Rows of a list command.
    pub fn rows(&self, what: &str) -> Result<Vec<Value>> {
        let value = self.json(&format!("{what} list"))?;
        let rows = value[format!("{what}s")].as_array();
        let rows = rows.with_context(|| format!("lbctl {what} list: {value}"))?;
        Ok(rows.clone())
    }

    /// A backend by the name that people know it by.
    pub fn backend(&self, name: &str) -> Result<Value> {
        let row = self.rows("backend")?.into_iter().find(|row| row["display_name"] == name);
        row.with_context(|| format!("no backend {name}"))
    }

    /// Waits until the state of a backend, and why it is in it, begins like this.
    pub fn wait_state(&self, name: &str, expected: &str) -> Result<()> {
        process::wait_for(&format!("{name} {expected}"), Duration::from_secs(15), || {
            let row = self.backend(name)?;
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            let shown = format!("{} {}", text("state"), text("state_reason"));
            ensure!(shown.starts_with(expected), "{name} is {shown}");
            Ok(())
        })
    }

    /// Names of the backends that take new flows, sorted; an error while the kernel's rings are not
    /// those of these backends yet.
    pub fn healthy_backends(&self) -> Result<Vec<String>> {
        self.healthy_of(|_service| true)
    }

    fn healthy_of(&self, is_meant: impl Fn(&Value) -> bool) -> Result<Vec<String>> {
        let mut rows = self.rows("backend")?;
        rows.retain(|row| is_meant(&row["service"]));
        let mut names = Vec::new();
        let mut shares = BTreeMap::<String, f64>::new();
        for row in rows.iter().filter(|row| row["state"] == "healthy") {
            names.push(row["display_name"].as_str().unwrap_or_default().to_owned());
            let share = row["share_percent"].as_f64().unwrap_or(0.0);
            ensure!(share > 0.0 || row["weight"] == 0, "no share of the ring: {row}");
            *shares.entry(row["service"].to_string()).or_default() += share;
        }
        for (service, share) in shares {
            ensure!(share > 99.9, "{service}: {share} % of the ring; the rest is still another's");
        }
        names.sort();
        Ok(names)
    }

    /// Waits until the agent knows a container as a caller.
    pub fn wait_caller(&self, name: &str) -> Result<()> {
        process::wait_for(&format!("{name} as a caller"), Duration::from_secs(10), || {
            let status = self.json("status")?;
            let clients = status["sockets"]["clients"].as_array().cloned().unwrap_or_default();
            ensure!(clients.iter().any(|it| it == name), "{}", status["sockets"]);
            Ok(())
        })
    }

    /// Messages of what was asked for and not granted.
    pub fn refusals(&self) -> Result<Vec<String>> {
        let status = self.json("status")?;
        let rows = status["refusals"].as_array().context("no refusals in the status")?;
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let line = |row: &Value| {
            let (object, key) = (text(row, "object"), text(row, "key"));
            format!("{object} {key}: {}", text(row, "message"))
        };
        Ok(rows.iter().map(line).collect())
    }

    /// Waits until counters of before this call are too old for it to show: whoever asked a moment ago, as
    /// all do who wait for something, may have left an answer of before what is to be counted.
    pub fn outlast_counters(&self) -> Result<()> {
        process::sleep(COUNTERS_AGE_MAX)
    }

    /// Packets that were dropped or answered for this reason until now.
    pub fn drops(&self, reason: &str) -> Result<u64> {
        self.outlast_counters()?;
        let status = self.json("status")?;
        let rows = status["drops"].as_array().context("no drops in the status")?;
        let row = rows.iter().find(|row| row["reason"] == reason);
        Ok(row.and_then(|row| row["packets"].as_u64()).unwrap_or(0))
    }

    /// Waits until at least so many packets were dropped or answered for this reason.
    pub fn wait_drops(&self, reason: &str, packets: u64) -> Result<()> {
        process::wait_for(&format!("drops by {reason}"), Duration::from_secs(5), || {
            let found = self.drops(reason)?;
            ensure!(found >= packets, "{found} of {packets}: {}", self.json("status")?["drops"]);
            Ok(())
        })
    }

    /// Kernel memory of the maps that it holds, in bytes, as the kernel counts it.
    pub fn map_bytes(&self) -> Result<u64> {
        let child = self.child.as_ref().context("the agent does not run")?;
        let mut bytes = 0;
        for entry in fs::read_dir(format!("/proc/{}/fdinfo", child.id()))? {
            // Descriptors come and go.
            let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
            let memlock = text.lines().find_map(|line| line.strip_prefix("memlock:"));
            if let Some(memlock) = memlock.filter(|_| text.contains("map_type:")) {
                bytes += memlock.trim().parse::<u64>()?;
            }
        }
        Ok(bytes)
    }

    /// Writes another configuration and lets the agent read it.
    pub fn reconfigure(&self, config: &AgentConfig) -> Result<()> {
        self.configure(config)?;
        let child = self.child.as_ref().context("the agent does not run")?;
        process::signal(child, Signal::SIGHUP);
        Ok(())
    }

    /// What a provider has to complain about; `None`: it sees its source.
    pub fn trouble(&self, provider: &str) -> Result<Option<String>> {
        let status = self.json("status")?;
        let rows = status["providers"].as_array().context("no providers in the status")?;
        let row = rows.iter().find(|row| row["name"] == provider);
        let row = row.with_context(|| format!("no provider {provider}: {rows:?}"))?;
        Ok(row["trouble"].as_str().map(str::to_owned))
    }

    /// Waits until exactly these backends are healthy.
    pub fn wait_backends(&self, expected: &[&str]) -> Result<()> {
        let mut expected: Vec<_> = expected.to_vec();
        expected.sort_unstable();
        process::wait_for("the backends", Duration::from_secs(15), || {
            let found = self.healthy_backends()?;
            ensure!(found == expected, "healthy backends: {found:?}, expected {expected:?}");
            Ok(())
        })
    }

    /// Waits until exactly these backends of one service are healthy.
    pub fn wait_backends_of(&self, service: &str, expected: &[&str]) -> Result<()> {
        let what = format!("the backends of {service}");
        process::wait_for(&what, Duration::from_secs(20), || {
            let found = self.healthy_of(|it| it == service)?;
            ensure!(found == expected, "healthy backends: {found:?}, expected {expected:?}");
            Ok(())
        })
    }

    /// Everything that it said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Waits until something was refused with a message that contains every one of these.
    pub fn wait_refusal(&self, parts: &[&str]) -> Result<String> {
        process::wait_for(&format!("a refusal with {parts:?}"), Duration::from_secs(10), || {
            let refusals = self.refusals()?;
            let fits = |message: &&String| parts.iter().all(|part| message.contains(part));
            refusals.iter().find(fits).cloned().with_context(|| format!("refusals: {refusals:#?}"))
        })
    }

    /// How a front interface is served: (`tc`, `xdp`).
    pub fn attachment(&self, interface: &str) -> Result<(String, String)> {
        let status = self.json("status")?;
        let rows = status["fronts"].as_array().context("no fronts in the status")?;
        let row = rows.iter().find(|row| row["interface"] == interface);
        let row = row.with_context(|| format!("no front {interface}: {rows:?}"))?;
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        Ok((text("tc"), text("xdp")))
    }

    /// Waits until it says something.
    pub fn wait_log(&self, text: &str) -> Result<()> {
        process::wait_for(&format!("`{text}` in the log"), Duration::from_secs(10), || {
            ensure!(self.log().contains(text), "the agent said:\n{}", self.log());
            Ok(())
        })
    }

    /// Do not show the log on drop: all went well, or it is shown elsewhere.
    pub fn set_quiet(&mut self) {
        self.quiet = true;
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }
}

fn unit_environment() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = UNIT.lines().filter_map(|line| line.strip_prefix("Environment="));
    lines.flat_map(|line| line.split(' ').filter_map(|word| word.split_once('=')))
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::signal(&child, Signal::SIGKILL);
            process::wait_child(&mut child, Duration::from_secs(5));
        }
        if !self.quiet {
            println!(
                "--- lb.toml ---\n{}",
                fs::read_to_string(self.config_path()).unwrap_or_default()
            );
            println!("--- log of lb-agent ---\n{}--- end ---", self.log());
        }
    }
}
