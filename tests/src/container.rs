//! Containers that run `lb-testkit serve`.

use std::{
    fs::{self, File},
    net::IpAddr,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    docker::{Docker, IMAGE},
    process,
};

/// Port that the server in every container listens on.
pub const PORT: u16 = 8080;
/// Port that process 1 of a container listens on, where it is to live whatever becomes of its server.
pub const IDLE_PORT: u16 = 9000;

/// A container, described or running. It is removed with its daemon, not on drop.
#[derive(Clone, Debug)]
pub struct Container {
    docker: Docker,
    name: String,
    image: String,
    arguments: Vec<String>,
    serve: Vec<String>,
    has_hostname: bool,
}

impl Container {
    pub(crate) fn new(docker: Docker, name: &str) -> Self {
        Self {
            docker,
            name: name.to_owned(),
            image: IMAGE.to_owned(),
            arguments: Vec::new(),
            serve: vec!["--port".to_owned(), PORT.to_string()],
            has_hostname: true,
        }
    }

    /// Any option of `docker run`, words split at blanks.
    #[must_use]
    pub fn with(mut self, options: &str) -> Self {
        self.arguments.extend(options.split_whitespace().map(str::to_owned));
        self
    }

    /// One word for `docker run`, blanks and all: `--env=KEY=some value`.
    #[must_use]
    pub fn option(mut self, word: &str) -> Self {
        self.arguments.push(word.to_owned());
        self
    }

    /// Another image.
    #[must_use]
    pub fn image(mut self, image: &str) -> Self {
        image.clone_into(&mut self.image);
        self
    }

    /// A label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.arguments.extend(["--label".to_owned(), format!("{key}={value}")]);
        self
    }

    /// The labels that Compose puts on replica `number` of a service.
    #[must_use]
    pub fn compose(self, project: &str, service: &str, number: u32) -> Self {
        self.label("com.docker.compose.project", project)
            .label("com.docker.compose.service", service)
            .label("com.docker.compose.container-number", &number.to_string())
    }

    /// The label that puts container port [`PORT`] behind `PORT` of a balancer: `tcp://lb:80`.
    #[must_use]
    pub fn balanced(self, value: &str) -> Self {
        self.label(&format!("aliyun.lb.port_{PORT}"), value)
    }

    /// A further port that its server listens on.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.serve.extend(["--port".to_owned(), port.to_string()]);
        self
    }

    /// The only port that its server listens on: for one that shares a network with others.
    #[must_use]
    pub fn serving(mut self, port: u16) -> Self {
        self.serve = vec!["--port".to_owned(), port.to_string()];
        self
    }

    /// Docker gives no host name to a container that uses another's network.
    #[must_use]
    pub fn without_hostname(mut self) -> Self {
        self.has_hostname = false;
        self
    }

    /// Starts it.
    pub fn start(self) -> Result<Self> {
        let mut command = self.docker.command();
        command
            .args(["run", "--detach", "--name", &self.name])
            .args(self.has_hostname.then_some(["--hostname", &self.name]).into_iter().flatten())
            // Process 1 ignores SIGTERM unless it handles it.
            .args(["--stop-signal", "SIGKILL"])
            .args(&self.arguments)
            .arg(&self.image)
            .arg("serve")
            .args(&self.serve)
            .args(["--name", &self.name]);
        process::run(&mut command)?;
        Ok(self)
    }

    /// Waits until its server listens on [`PORT`]. Docker says that a container has started when its
    /// process has, and a balancer leads clients to it then, unless it has a probe.
    pub fn wait_listening(&self) -> Result<()> {
        let pid = self.pid()?;
        let local = format!(":{PORT:04X}");
        process::wait_for(&format!("the server of {}", self.name), Duration::from_secs(10), || {
            let listens = |line: &str| {
                let mut fields = line.split_whitespace().skip(1);
                let at = fields.next().is_some_and(|it| it.ends_with(&local));
                at && fields.nth(1) == Some("0A")
            };
            for table in ["tcp", "tcp6"] {
                let sockets = fs::read_to_string(format!("/proc/{pid}/net/{table}"))?;
                if sockets.lines().any(listens) {
                    return Ok(());
                }
            }
            bail!("it does not listen yet")
        })
    }

    /// Starts several at the same time. Which address each of them gets is a matter of chance.
    pub fn start_all(containers: impl IntoIterator<Item = Self>) -> Result<Vec<Self>> {
        thread::scope(|scope| {
            let starts = containers.into_iter().map(|it| scope.spawn(|| it.start()));
            let starts: Vec<_> = starts.collect();
            let ends = starts.into_iter().map(|it| it.join().map_err(|_| anyhow!("a panic"))?);
            ends.collect()
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `docker WORD NAME`: `kill`, `restart --time 0`, `rm --force`, `pause`.
    pub fn act(&self, words: &str) -> Result<String> {
        self.docker.run(&format!("{words} {}", self.name))
    }

    /// Takes its interface down, so that nothing leaves it or comes to it any more.
    pub fn cut_off(&self) -> Result<()> {
        let network = format!("--net=/proc/{}/ns/net", self.pid()?);
        let mut cut = Command::new("nsenter");
        process::run(cut.args([&network, "ip", "link", "set", "eth0", "down"])).map(drop)
    }

    /// A field by its Go template.
    pub fn inspect(&self, template: &str) -> Result<String> {
        let mut command = self.docker.command();
        command.args(["inspect", "--format", template, &self.name]);
        Ok(process::run(&mut command)?.trim().to_owned())
    }

    /// Its address in the first of its networks.
    pub fn address(&self) -> Result<IpAddr> {
        let template = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
        let text = self.inspect(template)?;
        let first = text.split_whitespace().next().context("no address")?;
        first.parse().with_context(|| format!("address `{first}` of {}", self.name))
    }

    /// Its IPv6 address in the first of its networks that has such.
    pub fn address6(&self) -> Result<IpAddr> {
        let template = "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}} {{end}}";
        let text = self.inspect(template)?;
        let first = text.split_whitespace().next().context("no IPv6 address")?;
        first.parse().with_context(|| format!("address `{first}` of {}", self.name))
    }

    /// Process 1 of it, as the machine numbers it.
    pub fn pid(&self) -> Result<i32> {
        Ok(self.inspect("{{.State.Pid}}")?.parse()?)
    }

    /// Starts a further server in it, on [`PORT`]: where process 1 serves another port, the container lives
    /// whatever becomes of this one.
    pub fn begin_serving(&self) -> Result<()> {
        let serve = format!("/bin/lb-testkit serve --port {PORT} --name {}", self.name);
        self.docker.run(&format!("exec --detach {} {serve}", self.name)).map(drop)
    }

    /// The process that serves [`PORT`] in it, as the machine numbers it.
    pub fn server_pid(&self) -> Result<i32> {
        let listed = self.docker.run(&format!("top {} -o pid,args", self.name))?;
        let server = format!("--port {PORT}");
        let line = listed.lines().find(|line| line.contains(&server)).context("no server")?;
        Ok(line.split_whitespace().next().context("no pid")?.parse()?)
    }

    /// Runs a function on a thread of its own that has entered the container's network.
    pub fn enter<T: Send>(&self, function: impl FnOnce() -> T + Send) -> Result<T> {
        let path = format!("/proc/{}/ns/net", self.pid()?);
        let namespace = File::open(&path).with_context(|| path.clone())?;
        thread::scope(|scope| {
            let thread = scope.spawn(move || -> Result<T> {
                nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
                Ok(function())
            });
            thread.join().map_err(|_| anyhow!("panic in the network of {}", self.name))?
        })
    }

    /// Runs a program in it to its end, its words as they are.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        process::run(self.docker.command().args(["exec", &self.name]).args(words))
    }

    /// `lb-testkit` with these words in it.
    #[must_use]
    pub fn exec(&self, words: &str) -> Command {
        let mut command = self.docker.command();
        command.args(["exec", &self.name, "/bin/lb-testkit"]).args(words.split_whitespace());
        command
    }
}
