//! `lbctl`: shows what the agent does, and steers it.
//!
//! Talks to the agent's socket only; needs no privileges beyond it and knows nothing of the kernel.
//!
//! Exit codes: 0 done (also when the reader of the output went away), 1 the agent could not answer, what
//! was ordered is not in force yet, or the doctor found an error, 2 wrong usage, 3 no agent there, 4 no permission to use its
//! socket.

mod arguments;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    ops::ControlFlow,
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use lb_agent::api::{
    client::{Client, ClientError},
    events::{CONFLICTS_PATH, ConflictList, EVENTS_PATH, EventList, WAIT_SECONDS_MAX},
    explain::{CallExplanation, Explanation, PacketWord},
    steer::{self, Order, SteerAnswer, SteerRequest},
    table,
    trace::{TraceLine, TraceQuery},
    types::{BackendList, DropList, ServiceDetail, ServiceList, StatusView, VipList, paths},
};
use lb_agent::{
    doctor::{Level, examine, gather::gather},
    model::ServiceName,
};
use serde::Serialize;

use self::arguments::{
    BackendCommand, BackendListArguments, Cli, Command, DropCommand, EventCommand,
    ExplainArguments, Explained, List, Output, PacketArgument, ServiceCommand, TraceArguments,
    Whom,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}"), 1),
    };
    if let Command::Trace(arguments) = &cli.command {
        return match runtime.block_on(trace(&cli, arguments)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error.to_string(), exit_code(&error)),
        };
    }
    if let Command::Event { command: EventCommand::Follow } = &cli.command {
        return match runtime.block_on(follow(&cli)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error.to_string(), exit_code(&error)),
        };
    }
    if let Command::Doctor { config, json } = &cli.command {
        return runtime.block_on(doctor(&cli, config.as_deref(), *json));
    }
    let (text, code) = match runtime.block_on(answer(&cli)) {
        Ok(answer) => answer,
        Err(error) => return fail(&error.to_string(), exit_code(&error)),
    };
    show(&text, code)
}

fn show(text: &str, code: ExitCode) -> ExitCode {
    match io::stdout().lock().write_all(text.as_bytes()) {
        // The reader has seen enough: `lbctl backend list | head`.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            fail(&format!("cannot print: {error}"), 1)
        }
        _ => code,
    }
}

/// Looks at the node; the code says whether something is broken.
async fn doctor(cli: &Cli, config: Option<&Path>, is_json: bool) -> ExitCode {
    let facts = gather(env!("CARGO_PKG_VERSION"), &cli.socket, config).await;
    let report = examine(&facts);
    let output = if is_json { Output::Json } else { cli.output };
    let is_broken = report.worst() == Level::Error;
    let code = if is_broken { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    show(&print(output, &report, table::report), code)
}

async fn answer(cli: &Cli) -> Result<(String, ExitCode), ClientError> {
    let client = Client::new(&cli.socket);
    if let Command::Backend { command } = &cli.command
        && let Some((whom, order)) = order(command)
    {
        let service = whom.service.clone().map(|it| ServiceName(it.into()));
        let request = SteerRequest { backend: whom.backend.clone(), service, order };
        let answer: SteerAnswer = client.post(steer::PATH, &request).await?;
        let is_done = answer.pending.is_none();
        let code = if is_done { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        return Ok((print(cli.output, &answer, table::steered), code));
    }
    Ok((shown(cli, &client).await?, ExitCode::SUCCESS))
}

async fn shown(cli: &Cli, client: &Client) -> Result<String, ClientError> {
    match &cli.command {
        Command::Vip { command: List::List } => {
            let list: VipList = client.get(paths::VIPS).await?;
            Ok(print(cli.output, &list, |list| table::vips(&list.vips)))
        }
        Command::Service { command: ServiceCommand::Show { name } } => {
            let path = format!("{}?name={}", paths::SERVICE, percent_encode(name));
            let detail: ServiceDetail = client.get(&path).await?;
            Ok(print(cli.output, &detail, table::service))
        }
        Command::Service { command: ServiceCommand::List } => {
            let list: ServiceList = client.get(paths::SERVICES).await?;
            Ok(print(cli.output, &list, |list| table::services(&list.services)))
        }
        Command::Backend { command: BackendCommand::List(arguments) } => {
            let list: BackendList = client.get(&backends_path(arguments)).await?;
            let is_one_service = arguments.service.is_some();
            let table = |list: &BackendList| table::backends(&list.backends, is_one_service);
            Ok(print(cli.output, &list, table))
        }
        // Printed as it comes, or when it was given.
        Command::Trace(_) | Command::Backend { .. } | Command::Doctor { .. } => Ok(String::new()),
        Command::Event { .. } => {
            let list: EventList = client.get(EVENTS_PATH).await?;
            Ok(print(cli.output, &list, |list| table::events(&list.events)))
        }
        Command::Conflict { command: List::List } => {
            let list: ConflictList = client.get(CONFLICTS_PATH).await?;
            Ok(print(cli.output, &list, |list| table::conflicts(&list.conflicts)))
        }
        Command::Drop { command: DropCommand::List { all } } => {
            let list: DropList = client.get(paths::DROPS).await?;
            Ok(print(cli.output, &list, |list| table::drops(&list.drops, *all)))
        }
        Command::Explain(arguments) => match what_to_explain(arguments) {
            Explained::Packet(from, vip) => {
                let path = explain_path(arguments, from, vip);
                let explanation: Explanation = client.get(&path).await?;
                Ok(print(cli.output, &explanation, table::explanation))
            }
            Explained::Call(from, vip) => {
                let path = explain_call_path(arguments, from, vip);
                let explanation: CallExplanation = client.get(&path).await?;
                Ok(print(cli.output, &explanation, table::explanation))
            }
        },
        Command::Status => {
            let status: StatusView = client.get(paths::STATUS).await?;
            Ok(print(cli.output, &status, table::status))
        }
    }
}

/// Addresses that are none are wrong usage.
fn what_to_explain(arguments: &ExplainArguments) -> Explained {
    let usage = |error| Cli::command().error(ErrorKind::ValueValidation, error).exit();
    arguments.what().unwrap_or_else(usage)
}

fn explain_call_path(arguments: &ExplainArguments, from: String, vip: SocketAddr) -> String {
    let protocol = arguments.protocol.protocol().to_string();
    let pairs = [("from", from), ("vip", vip.to_string()), ("protocol", protocol)];
    with_query(paths::EXPLAIN_CALL, &pairs)
}

fn explain_path(arguments: &ExplainArguments, client: SocketAddr, vip: SocketAddr) -> String {
    let packet = match arguments.kind {
        None if arguments.reply => PacketWord::Data,
        None | Some(PacketArgument::Syn) => PacketWord::Syn,
        Some(PacketArgument::Synack) => PacketWord::SynAck,
        Some(PacketArgument::Data) => PacketWord::Data,
        Some(PacketArgument::Fin) => PacketWord::Fin,
        Some(PacketArgument::Rst) => PacketWord::Rst,
    };
    let pairs = [
        ("client", client.to_string()),
        ("vip", vip.to_string()),
        ("protocol", arguments.protocol.protocol().to_string()),
        ("packet", packet.name().to_owned()),
        ("is_reply", arguments.reply.to_string()),
    ];
    with_query(paths::EXPLAIN, &pairs)
}

/// Prints packets as they come; ends with the trace, or with the reader of the output.
async fn trace(cli: &Cli, arguments: &TraceArguments) -> Result<(), ClientError> {
    let query = TraceQuery {
        client: arguments.client,
        from: arguments.from.clone(),
        vip: arguments.vip,
        port: arguments.port,
        backend: arguments.backend.clone(),
        reason: arguments.reason.clone(),
        dropped: arguments.dropped,
        count: arguments.count,
        seconds: Some(arguments.seconds),
    };
    let path = with_query(paths::TRACE, &query.pairs());
    Client::new(&cli.socket)
        .lines(&path, |line: TraceLine| {
            let text = match cli.output {
                Output::Json => serde_json::to_string(&line).unwrap_or_default(),
                Output::Table => table::trace_line(&line),
            };
            let mut out = io::stdout().lock();
            let is_printed = writeln!(out, "{text}").and_then(|()| out.flush()).is_ok();
            if is_printed { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .await
}

/// A path with a query string.
fn with_query(path: &str, pairs: &[(&str, String)]) -> String {
    let pair = |(key, value): &(&str, String)| format!("{key}={}", percent_encode(value));
    let query = pairs.iter().map(pair).collect::<Vec<_>>().join("&");
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// Prints events as they come, until nobody reads them or the agent ends.
async fn follow(cli: &Cli) -> Result<(), ClientError> {
    let client = Client::new(&cli.socket);
    let known: EventList = client.get(EVENTS_PATH).await?;
    let mut latest = known.events.last().map_or(0, |event| event.number);
    loop {
        let path = format!("{EVENTS_PATH}?after={latest}&wait_seconds={WAIT_SECONDS_MAX}");
        let list: EventList = client.get(&path).await?;
        for event in list.events {
            latest = event.number;
            let line = match cli.output {
                Output::Table => table::event(&event),
                Output::Json => match serde_json::to_string(&event) {
                    Ok(json) => json + "\n",
                    Err(error) => format!("{{\"error\":\"{error}\"}}\n"),
                },
            };
            let mut stdout = io::stdout().lock();
            if stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).is_err() {
                return Ok(());
            }
        }
    }
}

/// Whom a command orders what; `None`: it only shows.
fn order(command: &BackendCommand) -> Option<(&Whom, Order)> {
    Some(match command {
        BackendCommand::List(_) => return None,
        BackendCommand::Drain(whom) => (whom, Order::Drain),
        BackendCommand::Undrain(whom) => (whom, Order::Undrain),
        BackendCommand::Disable(whom) => (whom, Order::Disable),
        BackendCommand::Enable(whom) => (whom, Order::Enable),
        BackendCommand::Weight { whom, weight } => (whom, Order::Weight { weight: weight.0 }),
    })
}

fn backends_path(arguments: &BackendListArguments) -> String {
    let service = arguments.service.iter().map(|service| ("service", service.clone()));
    with_query(paths::BACKENDS, &service.collect::<Vec<_>>())
}

/// Everything but unreserved characters as `%XX`.
fn percent_encode(text: &str) -> String {
    let encode = |byte: u8| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    text.bytes().map(encode).collect()
}

fn print<T: Serialize>(output: Output, answer: &T, table: impl Fn(&T) -> String) -> String {
    match output {
        Output::Table => table(answer),
        Output::Json => match serde_json::to_string_pretty(answer) {
            Ok(json) => json + "\n",
            // Plain data with string keys cannot fail; say it rather than panic.
            Err(error) => format!("{{\"error\":\"{error}\"}}\n"),
        },
    }
}

fn exit_code(error: &ClientError) -> u8 {
    match error {
        ClientError::NotRunning { .. }
        | ClientError::Refused { .. }
        | ClientError::Timeout { .. } => 3,
        ClientError::PermissionDenied { .. } => 4,
        ClientError::Answer { .. } | ClientError::Protocol { .. } => 1,
    }
}

/// Says what went wrong.
fn fail(message: &str, code: u8) -> ExitCode {
    // A closed stderr is nobody to tell it to; the code still says it.
    writeln!(io::stderr().lock(), "lbctl: {message}").ok();
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::{
        arguments::{Weight, parse_weight},
        *,
    };

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn weights() {
        let check = |text: &str, expected: Option<Option<u16>>| {
            assert_eq!(parse_weight(text).ok(), expected.map(Weight), "{text}");
        };
        check("0", Some(Some(0)));
        check("65535", Some(Some(65_535)));
        check("reset", Some(None));
        for text in ["65536", "-1", "", "1.5", "full"] {
            check(text, None);
        }
    }

    #[test]
    fn service_names_survive_the_query() {
        let path = |service: &str| {
            backends_path(&BackendListArguments { service: Some(service.to_owned()) })
        };
        assert_eq!(
            path("compose/shop/redis:6379"),
            "/v1/backends?service=compose%2Fshop%2Fredis%3A6379"
        );
        assert_eq!(path("a b&c=é"), "/v1/backends?service=a%20b%26c%3D%C3%A9");
    }
}
