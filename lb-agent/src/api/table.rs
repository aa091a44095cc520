//! The API's answers as text for people: tables without borders, one line per thing, so that they
//! can be read, grepped and cut.
//!
//! Names come from labels and containers: control characters are shown, never sent to the terminal.

mod cells;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use lb_common::abi::Hook;

use self::cells::{
    bytes, connections, dash, duration, exclusive, frontends, healthy_of_all, or_dash, replies,
    state, timestamp, weight_origin,
};
use super::{
    events::{ConflictView, EventView},
    steer::SteerAnswer,
};
use super::{
    explain::{Explained, Question},
    trace::TraceLine,
    types::{
        BackendCountersView, BackendView, DependencyState, DependencyView, DropReasonView,
        DropView, FrontView, ProviderState, ProviderView, RefusalView, RefusedBy, ServiceDetail,
        ServiceView, StatusView, TableView, VerdictView, VipView,
    },
};
use crate::doctor::Report;

/// `lbctl vip list`.
#[must_use]
pub fn vips(vips: &[VipView]) -> String {
    let rows = vips.iter().flat_map(|vip| {
        let names = vip.balancers.iter().chain(&vip.names).map(String::as_str);
        let balancers = or_dash(names.collect::<Vec<_>>().join(","));
        let idle = vip.frontends.is_empty().then(|| {
            [vip.vip.to_string(), balancers.clone(), dash(), dash(), vip.state.to_string()]
        });
        let served = vip.frontends.iter().map(move |frontend| {
            [
                vip.vip.to_string(),
                balancers.clone(),
                format!("{}/{}", frontend.protocol, frontend.ports),
                frontend.service.to_string(),
                frontend.state.to_string(),
            ]
        });
        idle.into_iter().chain(served)
    });
    render(["VIP", "BALANCER", "FRONTEND", "SERVICE", "STATE"], &[], rows)
}

/// `lbctl service list`.
#[must_use]
pub fn services(services: &[ServiceView]) -> String {
    let rows = services.iter().map(|service| {
        [
            service.name.to_string(),
            frontends(&service.frontends),
            service.ring_size.map_or_else(dash, |size| size.to_string()),
            healthy_of_all(service),
            service.state.to_string(),
            connections(service.connections),
            service.counters.flows.to_string(),
            bytes(service.counters.bytes_in),
            bytes(service.counters.bytes_out),
            service.source.clone(),
        ]
    });
    let headers = [
        "SERVICE",
        "FRONTENDS",
        "RING",
        "HEALTHY",
        "STATE",
        "CONNS",
        "FLOWS",
        "IN",
        "OUT",
        "SOURCE",
    ];
    render(headers, &[2, 3, 5, 6, 7, 8], rows)
}

/// `lbctl doctor`.
#[must_use]
pub fn report(report: &Report) -> String {
    let text = report.to_string();
    text.lines().fold(String::new(), |out, line| out + &printable(line) + "\n")
}

/// `lbctl service show`: every value with its origin.
#[must_use]
pub fn service(detail: &ServiceDetail) -> String {
    let service = &detail.service;
    let at = service.frontends.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let ring = service.ring_size.map_or_else(|| "no ring".to_owned(), |it| format!("ring {it}"));
    let head = format!(
        "{} at {}\n{}, {} healthy, {ring}, from {}\n{}\n",
        printable(&service.name.0),
        or_dash(at),
        service.state,
        healthy_of_all(service),
        or_dash(service.source.clone()),
        traffic(service),
    );
    let settings = detail
        .settings
        .iter()
        .map(|setting| [setting.name.clone(), setting.value.clone(), setting.origin.to_string()]);
    let members = detail.members.iter().map(|backend| {
        [
            backend.display_name.clone(),
            backend.address.to_string(),
            state(backend),
            backend.weight.to_string(),
            weight_origin(backend),
            exclusive(backend),
            backend.source.clone(),
        ]
    });
    let settings = render(["SETTING", "VALUE", "ORIGIN"], &[], settings);
    let headers = ["BACKEND", "ADDRESS", "STATE", "WEIGHT", "ORIGIN", "EXCLUSIVE", "ASKED FOR BY"];
    let members = render_unless_empty(headers, &[3], members);
    let needed = render_unless_empty(
        ["DEPENDS ON", "SERVICE", "STATE"],
        &[],
        detail.dependencies.iter().flat_map(dependency),
    );
    let sections =
        [head, settings, needed, members].into_iter().filter(|section| !section.is_empty());
    sections.collect::<Vec<_>>().join("\n")
}

/// What is there of a service that another one depends on: nothing, or one row for each port.
fn dependency(needed: &DependencyView) -> Vec<[String; 3]> {
    let row =
        |it: &DependencyState| [needed.name.clone(), it.name.to_string(), it.state.to_string()];
    if needed.services.is_empty() {
        let absent = "not known here".to_owned();
        return vec![[needed.name.clone(), dash(), absent]];
    }
    needed.services.iter().map(row).collect()
}

/// `lbctl backend list`; of one service only when `is_one_service`.
#[must_use]
pub fn backends(backends: &[BackendView], is_one_service: bool) -> String {
    let rows = backends.iter().map(|backend| {
        [
            backend.service.to_string(),
            backend.display_name.clone(),
            backend.address.to_string(),
            backend.weight.to_string(),
            format!("{:.1}%", backend.share_percent),
            state(backend),
            replies(backend.replies.as_ref()),
            connections(backend.connections),
            backend.counters.flows.to_string(),
            bytes(backend.counters.bytes_in),
            bytes(backend.counters.bytes_out),
        ]
    });
    let headers = [
        "SERVICE", "BACKEND", "ADDRESS", "WEIGHT", "SHARE", "STATE", "REPLIES", "CONNS", "FLOWS",
        "IN", "OUT",
    ];
    let right = &[3, 4, 7, 8, 9, 10];
    if is_one_service {
        let [_, headers @ ..] = headers;
        let right: Vec<usize> = right.iter().map(|index| index - 1).collect();
        return render(headers, &right, rows.map(|[_, cells @ ..]| cells));
    }
    render(headers, right, rows)
}

/// `lbctl backend drain` and its likes.
#[must_use]
pub fn steered(answer: &SteerAnswer) -> String {
    let pending = answer.pending.as_ref().map(|pending| format!("not in force yet: {pending}"));
    let warning = answer.warning.as_ref().map(|warning| format!("warning: {warning}"));
    let lines = answer.done.iter().chain(&pending).chain(&warning);
    lines.map(|line| printable(line) + "\n").collect()
}

/// `lbctl conflict list`.
#[must_use]
pub fn conflicts(conflicts: &[ConflictView]) -> String {
    let rows = conflicts.iter().map(|conflict| {
        [
            conflict.frontend.to_string(),
            conflict.owner.to_string(),
            conflict.owner_source.clone(),
            conflict.contender.to_string(),
            conflict.contender_source.clone(),
            timestamp(conflict.since_ms),
        ]
    });
    let headers = ["FRONTEND", "OWNER", "ASKED FOR BY", "CONTENDER", "ASKED FOR BY", "SINCE"];
    render(headers, &[], rows)
}

/// `lbctl event list`.
#[must_use]
pub fn events(events: &[EventView]) -> String {
    let rows = events.iter().map(|event| {
        [
            timestamp(event.at_ms),
            event.object.clone(),
            or_dash(event.backend.clone().unwrap_or_default()),
            event.what.clone(),
            event.why.clone().unwrap_or_default(),
        ]
    });
    render(["TIME", "OBJECT", "BACKEND", "WHAT", "WHY"], &[], rows)
}

/// A line of `lbctl event follow`.
#[must_use]
pub fn event(event: &EventView) -> String {
    let EventView { at_ms, object, backend, what, why, .. } = event;
    let backend = backend.as_ref().map_or_else(String::new, |backend| format!("  {backend}"));
    let why = why.as_ref().map_or_else(String::new, |why| format!("  ({why})"));
    printable(&format!("{}  {object}{backend}  {what}{why}", timestamp(*at_ms))) + "\n"
}

/// `lbctl status`.
#[must_use]
pub fn status(status: &StatusView) -> String {
    let reconcile = &status.reconcile;
    let retry = reconcile
        .retry_in_seconds
        .map_or_else(String::new, |seconds| format!(" (again in {seconds} s)"));
    let mut lines = vec![
        format!(
            "lb-agent {}, ABI {}, up {}",
            status.version,
            status.abi_version,
            duration(status.uptime_seconds)
        ),
        format!(
            "rounds {}, actions {}, latest round {} us, {} refused by the kernel{retry}",
            reconcile.rounds,
            reconcile.actions,
            reconcile.latest_duration_us,
            reconcile.failed_actions
        ),
    ];
    lines.extend(status.records.map(|records| {
        format!(
            "recorded flows {} IPv4, {} IPv6, their replies {}, {}, of {} each",
            records.flows_v4,
            records.flows_v6,
            records.replies_v4,
            records.replies_v6,
            records.limit
        )
    }));
    lines.extend(status.sockets.summary().map(|line| printable(&line)));
    let sections = [
        providers(&status.providers),
        fronts(&status.fronts),
        tables(&status.tables),
        verdicts(&status.verdicts),
        titled("drops:", status.drops.iter().map(drop_line)),
        titled("not granted:", status.refusals.iter().map(refusal_line)),
    ];
    let head = lines.join("\n") + "\n";
    let sections = sections.into_iter().filter(|section| !section.is_empty());
    [head].into_iter().chain(sections).collect::<Vec<_>>().join("\n")
}

/// `lbctl drop list`; without `is_all` only reasons that occurred.
#[must_use]
pub fn drops(drops: &[DropReasonView], is_all: bool) -> String {
    let shown = drops.iter().filter(|drop| is_all || drop.packets > 0);
    let rows = shown.map(|drop| {
        [drop.packets.to_string(), drop.reason.clone(), drop.happened.clone(), drop.look_at.clone()]
    });
    render(["PACKETS", "REASON", "WHAT HAPPENED", "WHAT TO LOOK AT"], &[0], rows)
}

/// A line of `lbctl trace`.
#[must_use]
pub fn trace_line(line: &TraceLine) -> String {
    match line {
        TraceLine::Begin { seconds } => format!("tracing for {seconds} seconds"),
        TraceLine::Packet(packet) => printable(&packet.line()),
        TraceLine::Lost { packets } => {
            format!("{packets} packets or calls were too many to be shown")
        }
    }
}

/// `lbctl explain`.
#[must_use]
pub fn explanation<Q: Question>(explanation: &Explained<Q>) -> String {
    explanation.lines().iter().map(|line| printable(line) + "\n").collect()
}

fn providers(providers: &[ProviderView]) -> String {
    let rows = providers.iter().map(|provider| {
        let state = match provider.state {
            ProviderState::Ok => "ok",
            ProviderState::Silent => "silent",
            ProviderState::Trouble => "trouble",
        };
        [
            provider.name.clone(),
            state.to_owned(),
            provider.claims.to_string(),
            provider.trouble.clone().unwrap_or_default(),
        ]
    });
    render_unless_empty(["PROVIDER", "STATE", "CLAIMS", "TROUBLE"], &[2], rows)
}

fn fronts(fronts: &[FrontView]) -> String {
    let rows = fronts.iter().map(|front| {
        [
            front.interface.clone(),
            front.tc.clone(),
            front.xdp.clone(),
            front.trouble.clone().unwrap_or_default(),
        ]
    });
    let mut text = render_unless_empty(["FRONT", "TC", "XDP", "TROUBLE"], &[], rows);
    for front in fronts {
        if let Some(reason) = &front.without_xdp {
            text += &printable(&format!("{} runs without XDP: {reason}", front.interface));
            text.push('\n');
        }
    }
    text
}

fn tables(tables: &[TableView]) -> String {
    let rows = tables.iter().map(|table| {
        [
            table.name.clone(),
            table.used.to_string(),
            table.limit.to_string(),
            format!("{}%", table.percent()),
            table.trouble.clone().unwrap_or_default(),
        ]
    });
    render_unless_empty(["TABLE", "USED", "LIMIT", "FULL", "TROUBLE"], &[1, 2, 3], rows)
}

/// A line for each hook that has seen packets.
fn verdicts(verdicts: &[VerdictView]) -> String {
    let mut names: Vec<&str> = Hook::ALL.iter().map(|hook| hook.name()).collect();
    names.retain(|hook| verdicts.iter().any(|verdict| verdict.hook == *hook));
    let rows = names.into_iter().map(|hook| {
        let [pass, deliver, route, reply, drop, answer] =
            ["pass", "deliver", "route", "reply", "drop", "answer"].map(|name| {
                let is_it = |one: &&VerdictView| one.hook == hook && one.verdict == name;
                verdicts.iter().find(is_it).map_or(0, |one| one.packets).to_string()
            });
        [hook.to_owned(), pass, deliver, route, reply, drop, answer]
    });
    let headers = ["HOOK", "PASS", "DELIVER", "ROUTE", "REPLY", "DROP", "ANSWER"];
    render_unless_empty(headers, &[1, 2, 3, 4, 5, 6], rows)
}

fn drop_line(drop: &DropView) -> String {
    format!("{} {}", drop.reason, drop.packets)
}

/// Messages are sentences: a line each instead of a table.
fn refusal_line(refusal: &RefusalView) -> String {
    let by = match refusal.refused_by {
        RefusedBy::Provider => "invalid",
        RefusedBy::Arbiter => "refused",
        RefusedBy::Planner => "plan",
        RefusedBy::Kernel => "kernel",
    };
    let key = refusal.key.as_ref().map_or_else(String::new, |key| format!(", `{key}`"));
    format!("{by}: {}{key}: {}", refusal.object, refusal.message)
}

/// What the backends of a service carry and have carried.
fn traffic(service: &ServiceView) -> String {
    let BackendCountersView { packets_in, bytes_in, packets_out, bytes_out, flows, refusals } =
        service.counters;
    let established = match service.connections {
        Some(count) => format!("{count} connections, "),
        None => String::new(),
    };
    format!(
        "{established}{flows} flows, {refusals} refused, in {packets_in} packets {}, out {packets_out} packets {}",
        bytes(bytes_in),
        bytes(bytes_out)
    )
}

// === Rendering ===

fn render<const COLUMNS: usize>(
    headers: [&str; COLUMNS],
    right: &[usize],
    rows: impl Iterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = Table::new();
    table.force_no_tty();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headers);
    table.add_rows(rows.map(|cells| cells.map(|cell| printable(&cell))));
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().fold(String::new(), |mut out, line| {
        out += line.trim_end();
        out.push('\n');
        out
    })
}

fn render_unless_empty<const COLUMNS: usize>(
    headers: [&str; COLUMNS],
    right: &[usize],
    rows: impl Iterator<Item = [String; COLUMNS]>,
) -> String {
    let mut rows = rows.peekable();
    if rows.peek().is_none() { String::new() } else { render(headers, right, rows) }
}

/// Lines under a title; nothing when there are none.
fn titled(title: &str, lines: impl Iterator<Item = String>) -> String {
    let lines: Vec<_> = lines.map(|line| format!("  {}\n", printable(&line))).collect();
    if lines.is_empty() { String::new() } else { format!("{title}\n{}", lines.concat()) }
}

/// The text with control characters escaped.
pub(super) fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, character| {
        if is_control(character) {
            out.extend(character.escape_unicode());
        } else {
            out.push(character);
        }
        out
    })
}

/// Control characters, and the invisible ones that reorder text on a terminal.
fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests;
