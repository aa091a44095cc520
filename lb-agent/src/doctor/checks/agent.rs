//! The agent, its socket, its sources.

use super::{
    super::{
        Finding,
        facts::{AgentFacts, Facts},
    },
    count_of,
};
use crate::api::types::{ProviderState, RefusedBy};

/// Permission bits of everybody.
const OTHERS: u32 = 0o007;

pub(super) fn agent(facts: &Facts) -> Vec<Finding> {
    let check = "agent";
    let still = "packets and socket calls are balanced as it left them; nothing follows Docker, no \
                 probe is made, and a backend that dies stays in use";
    match &facts.agent {
        AgentFacts::NotRunning(what) => {
            vec![
                Finding::error(check, what)
                    .because(still)
                    .so("`systemctl start lb-agent`; `journalctl -u lb-agent` says why it ended"),
            ]
        }
        AgentFacts::NotAllowed(what) => vec![
            Finding::error(check, what)
                .because("what only the agent knows is not in this report")
                .so("run `lbctl doctor` as root"),
        ],
        AgentFacts::Failing(what) => vec![
            Finding::error(check, what)
                .because("what only the agent knows is not in this report")
                .so("see `journalctl -u lb-agent`"),
        ],
        AgentFacts::Running(running) => {
            let status = &running.status;
            let what = format!(
                "lb-agent {} with ABI {}, up {} s",
                status.version, status.abi_version, status.uptime_seconds
            );
            if status.version == facts.version {
                return vec![Finding::ok(check, what)];
            }
            vec![
                Finding::warning(check, format!("{what}; this is lbctl {}", facts.version))
                    .because("fields that one of them does not know are not shown")
                    .so("restart the agent after an update: the traffic goes on meanwhile"),
            ]
        }
    }
}

pub(super) fn api(facts: &Facts) -> Vec<Finding> {
    let check = "api";
    let socket = &facts.socket;
    let path = socket.path.display();
    let Some(mode) = socket.mode else {
        return vec![
            Finding::error(check, format!("there is no socket at `{path}`"))
                .because("no agent listens there")
                .so("start the agent, or say where its socket is by --socket or LB_SOCKET"),
        ];
    };
    let what = format!("`{path}`, mode {:03o}, group {}", mode & 0o777, socket.group);
    if socket.owner != 0 || mode & OTHERS != 0 {
        return vec![
            Finding::error(check, format!("{what}, owner {}", socket.owner))
                .because("whoever may write to it steers the traffic of this node")
                .so("restart the agent, which makes it anew, for root and one group"),
        ];
    }
    if mode & 0o070 == 0 {
        return vec![Finding::ok(check, format!("{what}: for root only"))];
    }
    vec![Finding::ok(check, what)]
}

pub(super) fn docker(facts: &Facts) -> Vec<Finding> {
    let check = "docker";
    if !facts.config.keys.docker.enabled {
        return vec![Finding::ok(check, "not followed: `enabled = false` in [docker]")];
    }
    let endpoint = &facts.config.keys.docker.endpoint;
    let provider = facts.agent.running().and_then(|running| {
        running.status.providers.iter().find(|provider| provider.name == check)
    });
    if let Some(provider) = provider {
        let trouble = provider.trouble.clone().unwrap_or_default();
        return vec![match provider.state {
            ProviderState::Ok => {
                let version = match &facts.docker.version {
                    Some(Ok(version)) => format!(" Docker {version},"),
                    _ => String::new(),
                };
                Finding::ok(check, format!("followed;{version} {} claims", provider.claims))
            }
            ProviderState::Silent => Finding::warning(check, "it has told nothing yet")
                .because("nothing that it may own is removed until it does")
                .so("wait some seconds; then see `journalctl -u lb-agent`"),
            ProviderState::Trouble => Finding::error(check, trouble)
                .because("what it told last stays in force; new containers are not served")
                .so("see `systemctl status docker`, and `endpoint` in [docker] of the config"),
        }];
    }
    // It may have been started with another config than the one that was looked at here.
    if facts.agent.running().is_some() {
        return vec![Finding::ok(check, "not followed by the agent that runs")];
    }
    match &facts.docker.version {
        None => Vec::new(),
        Some(Ok(version)) => {
            vec![Finding::ok(check, format!("Docker {version} answers at `{endpoint}`"))]
        }
        Some(Err(trouble)) => vec![
            Finding::error(check, format!("`{endpoint}`: {trouble}"))
                .because("containers are neither served nor known as callers")
                .so("start Docker, or set `endpoint` in [docker] of the config"),
        ],
    }
}

pub(super) fn refusals(facts: &Facts) -> Vec<Finding> {
    let check = "granted";
    let Some(running) = facts.agent.running() else { return Vec::new() };
    let status = &running.status;
    let file = status.providers.iter().find(|provider| provider.name == "file");
    let mut findings: Vec<Finding> = facts
        .config
        .trouble
        .iter()
        .chain(file.and_then(|file| file.trouble.as_ref()))
        .map(|trouble| {
            Finding::error("config", trouble)
                .because("what was read before stays in force")
                .so("`lb-agent check` says all that is wrong")
        })
        .collect();
    if status.refusals.is_empty() {
        findings.push(Finding::ok(check, "all that was asked for"));
        return findings;
    }
    let by_kernel = |it: &&_| matches!(it, RefusedBy::Kernel);
    let kernel =
        status.refusals.iter().map(|refusal| &refusal.refused_by).filter(by_kernel).count();
    let first = &status.refusals[0];
    let what = format!(
        "{} not granted; the first: {}: {}",
        count_of(status.refusals.len(), "wish was", "wishes were"),
        first.object,
        first.message
    );
    let finding =
        if kernel > 0 { Finding::error(check, what) } else { Finding::warning(check, what) };
    findings.push(finding.because("what was refused is not served").so("`lbctl status` lists all"));
    findings
}

pub(super) fn tables(facts: &Facts) -> Vec<Finding> {
    let check = "tables";
    let Some(running) = facts.agent.running() else { return Vec::new() };
    let full = running.status.tables.iter().filter_map(|table| {
        let trouble = table.trouble.as_ref()?;
        let what = format!("`{}` is full to {} %", table.name, table.percent());
        Some(Finding::warning(check, what).because("what has no room is not served").so(trouble))
    });
    full.collect()
}
