//! `lb-agent`: the daemon of one node, and the two commands that an operator needs beside it.
//!
//! Owns the command line, logging and exit codes; the work is done by `lb_agent::runtime`.
//!
//! Exit codes: 0 stopped as asked, 1 something failed, 2 wrong usage, 3 the configuration is wrong.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
    sync::LazyLock,
};

use clap::{Parser, Subcommand};
use lb_agent::{config::Config, runtime::daemon};
use lb_common::abi::ABI_VERSION;
use tracing_subscriber::EnvFilter;

static VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{} (ABI {ABI_VERSION})", env!("CARGO_PKG_VERSION")));

/// Spreads the traffic of virtual addresses over containers and other backends, in the kernel.
#[derive(Parser)]
#[command(
    name = "lb-agent",
    version = VERSION.as_str(),
    after_help = "Exit codes: 0 stopped as asked, 1 something failed, 2 wrong usage, 3 the \
                  configuration is wrong."
)]
struct Cli {
    /// Configuration file [default: /etc/lb/lb.toml if it exists].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to log: a level, or directives such as `info,lb_agent::provider=debug`.
    #[arg(long, global = true, env = "LB_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the agent (the default). When it stops, the traffic goes on.
    Run,
    /// Reads the configuration and says what is wrong with it; changes nothing.
    Check,
    /// Removes everything that the agent made on this node, and nothing else. The traffic stops.
    Uninstall {
        /// Only says what would be removed.
        #[arg(long)]
        dry_run: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(message) = start_logging(&cli.log) {
        eprintln!("lb-agent: {message}");
        return ExitCode::from(2);
    }
    let config = match Config::load_or_default(cli.config.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(3);
        }
    };
    let result = match cli.command.unwrap_or(Command::Run) {
        Command::Run => daemon::run(config, cli.config),
        Command::Check => {
            println!("{}", daemon::describe(&config));
            Ok(())
        }
        Command::Uninstall { dry_run } => daemon::uninstall(&config, dry_run).map(|report| {
            print!("{report}");
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lb-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What libraries say is not for the operator: the responder's tells each question that anybody asks.
/// Whoever wants it names the library in the filter.
const QUIET: &str = "hickory_resolver=warn,hickory_proto=warn";

/// Logs to stderr. The journal has its own clock and no colours.
fn start_logging(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}"))
        .map_err(|error| format!("--log `{filter}` is no filter: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().init();
    } else {
        builder.init();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn version_names_the_abi() {
        assert!(Cli::command().render_version().contains(&format!("(ABI {ABI_VERSION})")));
    }
}
