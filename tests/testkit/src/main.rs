//! `lb-testkit`: the server and the clients that tests and the demo put around the balancer.
//!
//! Owns: what goes over the wire and whether it arrived whole. It knows nothing of lb. Standard
//! library only: built with `-C target-feature=+crt-static` it runs from an empty image.
//!
//! Every client reports in JSON lines on standard output: one line per failure as it happens, one
//! `{"summary": …}` at the end; the exit status is 1 when anything failed.

mod args;
mod bulk;
mod call;
mod fetch;
mod http;
mod json;
mod pattern;
mod server;
mod stop;
mod streams;

use std::process::ExitCode;

use args::Args;

const USAGE: &str = "\
usage: lb-testkit serve   --port N [--port N …] [--name NAME]
       lb-testkit fetch   --target IP:PORT [--count N] [--rate N] [--timeout-ms N] [--path /]
                          [--seconds N] [--until-eof] [--each]
       lb-testkit streams --target IP:PORT [--count N] [--interval-ms N] [--size BYTES]
                          [--seconds N] [--until-eof]
       lb-testkit bulk    --target IP:PORT [--bytes N] [--direction up|down|both]
       lb-testkit call    --name NAME:PORT [--interval-ms N] [--seconds N]
       lb-testkit sleep   --seconds N";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let subcommand = words.next().unwrap_or_default();
    match Args::parse(words).and_then(|args| run(&subcommand, &args)) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("lb-testkit {subcommand}: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(subcommand: &str, args: &Args) -> Result<ExitCode, String> {
    let passed = match subcommand {
        "serve" => server::run(args)?,
        "fetch" => fetch::run(args)?,
        "streams" => streams::run(args)?,
        "bulk" => bulk::run(args)?,
        "call" => call::run(args)?,
        "sleep" => {
            std::thread::sleep(args.seconds("seconds")?.ok_or("--seconds is missing")?);
            true
        }
        _ => return Err(format!("no such subcommand\n{USAGE}")),
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
