//! The agent's configuration file.

use std::path::{Path, PathBuf};

/// What goes into `lb.toml`.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Front interfaces; none: the agent's default.
    pub front: Vec<String>,
    /// `auto`, `native`, `generic`, `off`.
    pub xdp: String,
    /// `auto`, `tcx`, `clsact`.
    pub tc: String,
    /// Docker's socket; `None` switches the provider off.
    pub docker: Option<PathBuf>,
    /// The cgroup whose processes' socket calls are balanced; `None`: nobody's. Never the root: that
    /// would be every process of the machine.
    pub cgroup: Option<PathBuf>,
    /// That cgroup is the root of a namespace of the agent's own, where nothing mounts the hierarchy: it
    /// is not told which one it is.
    pub is_cgroup_root: bool,
    /// More keys of `[cgroup]`.
    pub cgroup_keys: String,
    /// Time between two full listings of Docker.
    pub resync_seconds: u32,
    /// Name and VIP.
    pub balancers: Vec<(String, String)>,
    /// Keys that stand before all tables.
    pub keys: String,
    /// Anything else, after the tables above.
    pub extra: String,
}

impl AgentConfig {
    /// One front interface, nothing else.
    #[must_use]
    pub fn new(front: &str) -> Self {
        Self {
            front: vec![front.to_owned()],
            xdp: "auto".to_owned(),
            tc: "auto".to_owned(),
            docker: None,
            cgroup: None,
            is_cgroup_root: false,
            cgroup_keys: String::new(),
            resync_seconds: 2,
            balancers: Vec::new(),
            keys: String::new(),
            extra: String::new(),
        }
    }

    /// The file's text.
    pub(super) fn text(&self, pins: &Path, state: &Path) -> String {
        let state = state.display();
        let front = if self.front.is_empty() {
            String::new()
        } else {
            format!("front = {:?}\n", self.front)
        };
        let resync = self.resync_seconds;
        let docker = self.docker.as_ref().map_or_else(
            || "enabled = false".to_owned(),
            |at| format!("endpoint = \"unix://{}\"\nresync_seconds = {resync}", at.display()),
        );
        let cgroup = self.cgroup.as_ref().map_or_else(
            || "enabled = false".to_owned(),
            |path| {
                let key = format!("path = \"{}\"\n", path.display());
                let key = Some(key).filter(|_| !self.is_cgroup_root).unwrap_or_default();
                key + &self.cgroup_keys
            },
        );
        let balancer = |(name, vip): &(String, String)| {
            format!("[[balancer]]\nname = {name:?}\nvip = {vip:?}\n")
        };
        format!(
            "{front}{}\npin_path = \"{}\"\nstate_path = \"{state}\"\nhash_seed = 1\n\
             [xdp]\nmode = {:?}\n[tc]\nmode = {:?}\n[api]\nsocket = \"{state}/api.sock\"\n\
             [docker]\n{docker}\n[cgroup]\n{cgroup}\n{}{}\n",
            self.keys,
            pins.display(),
            self.xdp,
            self.tc,
            self.balancers.iter().map(balancer).collect::<String>(),
            self.extra,
        )
    }
}
