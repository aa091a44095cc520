//! Looking at the node and asking the agent. Reads only; what cannot be read is absent from the facts.

mod dns;
mod node;
mod parse;
mod processes;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::facts::{
    AgentFacts, CgroupFacts, ConfigFacts, ConfigKeys, DockerFacts, Facts, Running, SocketFileFacts,
};
use crate::api::{
    client::{Client, ClientError},
    types::{BackendList, CallerList, ProgramList, StatusView, VipList, paths},
};

/// Where the configuration is when nobody says otherwise.
const CONFIG_PATH: &str = "/etc/lb/lb.toml";
/// Largest configuration that is read.
const CONFIG_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Looks at everything. The caller must be in the node's own namespaces.
pub async fn gather(version: &str, socket: &Path, config: Option<&Path>) -> Facts {
    let config = read_config(config);
    let agent = ask_agent(socket).await;
    let running = agent.running();
    let cgroup = look_at_cgroup(&config.keys, running);
    let mut fronts: BTreeSet<String> = running
        .map(|running| running.status.fronts.iter().map(|it| it.interface.clone()).collect())
        .unwrap_or_default();
    if fronts.is_empty() {
        fronts.extend(config.keys.front.iter().cloned());
    }
    if fronts.is_empty() {
        fronts.extend(parse::default_interfaces(&node::read("/proc/net/route")));
    }
    let servers = running.map(|running| running.status.names.servers.clone()).unwrap_or_default();
    let mut names = Vec::new();
    for server in servers {
        names.push(dns::ask(server.address).await);
    }
    let callers = running.map(|running| running.callers.callers.clone());
    let relative = cgroup.relative.as_deref();
    let (processes, mut software) = processes::look(relative, callers.as_deref());
    node::note_pins(&mut software);
    let interfaces: BTreeMap<_, _> =
        fronts.into_iter().map(|name| (name.clone(), node::interface(&name))).collect();
    Facts {
        version: version.to_owned(),
        kernel: node::kernel(),
        processes,
        interfaces,
        forwarding: node::forwarding(),
        addresses: node::addresses(),
        routes: node::routes(),
        ipvs: fs::read_to_string("/proc/net/ip_vs").ok().map(|text| parse::ipvs(&text)),
        software,
        docker: ask_docker(&config.keys).await,
        socket: look_at_socket(socket),
        names,
        agent,
        cgroup,
        config,
    }
}

async fn ask_agent(socket: &Path) -> AgentFacts {
    let client = Client::new(socket);
    let ask = async {
        let status: StatusView = client.get(paths::STATUS).await?;
        let vips: VipList = client.get(paths::VIPS).await?;
        let backends: BackendList = client.get(paths::BACKENDS).await?;
        // An older agent does not know the question.
        let callers = match client.get::<CallerList>(paths::CALLERS).await {
            Err(ClientError::Answer { .. }) => CallerList::default(),
            callers => callers?,
        };
        let programs = match client.get::<ProgramList>(paths::PROGRAMS).await {
            Err(ClientError::Answer { .. }) => ProgramList::default(),
            programs => programs?,
        };
        let (vips, backends) = (vips.vips, backends.backends);
        Ok(Running { status, vips, backends, callers, programs })
    };
    let result: Result<Running, ClientError> = ask.await;
    match result {
        Ok(running) => AgentFacts::Running(Box::new(running)),
        Err(error @ (ClientError::NotRunning { .. } | ClientError::Refused { .. })) => {
            AgentFacts::NotRunning(error.to_string())
        }
        Err(error @ ClientError::PermissionDenied { .. }) => {
            AgentFacts::NotAllowed(error.to_string())
        }
        Err(error) => AgentFacts::Failing(error.to_string()),
    }
}

/// Of all keys those that matter here; the others may say what they want.
fn read_config(path: Option<&Path>) -> ConfigFacts {
    let is_named = path.is_some();
    let path = path.unwrap_or(Path::new(CONFIG_PATH)).to_path_buf();
    let read = || -> Result<Option<ConfigKeys>, String> {
        let metadata = match fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_named => {
                return Ok(None);
            }
            metadata => metadata.map_err(|error| error.to_string())?,
        };
        if metadata.len() > CONFIG_BYTES_MAX {
            return Err(format!("it is larger than {CONFIG_BYTES_MAX} bytes"));
        }
        let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        toml::from_str(&text).map(Some).map_err(|error| error.message().to_owned())
    };
    match read() {
        Ok(keys) => ConfigFacts { path, keys: keys.unwrap_or_default(), trouble: None },
        Err(error) => {
            let trouble = Some(format!("`{}`: {error}", path.display()));
            ConfigFacts { path, keys: ConfigKeys::default(), trouble }
        }
    }
}

fn look_at_cgroup(keys: &ConfigKeys, running: Option<&Running>) -> CgroupFacts {
    let root = parse::cgroup_root(&node::read("/proc/self/mountinfo"));
    let attached = running.and_then(|running| running.status.sockets.cgroup.as_ref());
    let path = attached.map(PathBuf::from).or_else(|| keys.cgroup.path.clone());
    let path = path.filter(|path| path.is_absolute()).or_else(|| root.clone());
    let relative = path.as_ref().zip(root.as_ref()).and_then(|(path, root)| {
        let below = path.strip_prefix(root).ok()?;
        Some(format!("/{}", below.display()))
    });
    let exists = path.as_ref().is_some_and(|path| path.is_dir());
    CgroupFacts { root, path, relative, exists }
}

#[derive(Deserialize)]
struct DockerVersion {
    #[serde(rename = "Version")]
    version: String,
}

async fn ask_docker(keys: &ConfigKeys) -> DockerFacts {
    let path = keys.docker.endpoint.strip_prefix("unix://").filter(|_| keys.docker.enabled);
    let Some(path) = path else { return DockerFacts::default() };
    let answer: Result<DockerVersion, ClientError> = Client::new(path).get("/version").await;
    let version = match answer {
        Ok(answer) => Ok(answer.version),
        Err(ClientError::NotRunning { .. }) => Err("there is no socket".to_owned()),
        Err(ClientError::Refused { .. }) => Err("nobody listens at its socket".to_owned()),
        // The agent may ask what we may not.
        Err(ClientError::PermissionDenied { .. }) => return DockerFacts::default(),
        Err(ClientError::Timeout { .. }) => Err("it does not answer".to_owned()),
        Err(ClientError::Answer { status, message }) => Err(format!("{status}: {message}")),
        Err(ClientError::Protocol { cause, .. }) => Err(format!("it answers oddly: {cause}")),
    };
    DockerFacts { version: Some(version) }
}

fn look_at_socket(path: &Path) -> SocketFileFacts {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return SocketFileFacts { path: path.to_path_buf(), ..SocketFileFacts::default() };
    };
    SocketFileFacts {
        path: path.to_path_buf(),
        mode: Some(metadata.permissions().mode()),
        group: parse::group_name(&node::read("/etc/group"), metadata.gid()),
        owner: metadata.uid(),
    }
}
