//! `lb-dial`: socket calls of every kind to one address, for tests of what becomes of them. It is run
//! in the network and the cgroup of whoever calls.
//!
//! One line per call: `name=… peer=… client=…` as the server and the socket say it, or `errno=…`.

mod calls;
mod cut;
mod hold;
mod odd;

use std::{net::SocketAddr, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use calls::Way;

const USAGE: &str = "\
usage: lb-dial WAY ADDRESS:PORT [COUNT]
       lb-dial hold|hold-udp ADDRESS:PORT COUNT
       lb-dial odd ADDRESS:PORT ADDRESS:PORT ADDRESS:PORT ADDRESS:PORT
ways:  tcp tcp-nonblocking tcp-fastopen tcp-bound tcp-mapped udp udp-unconnected udp-mapped
       udp-mapped-unconnected udp-again mptcp short-tcp short-udp short-udp-unconnected old-tcp old-udp
       old-udp-unconnected";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lb-dial: {error:#}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = |index: usize| words.get(index).map(String::as_str);
    let way = word(0).context("no way")?;
    let target: SocketAddr = word(1).context("no address")?.parse()?;
    let number = |index| word(index).map(str::parse::<usize>).transpose();
    if way == "odd" {
        let addresses = [1, 2, 3, 4].map(|index| word(index)?.parse().ok());
        let [Some(one), Some(other), Some(behind), Some(twin)] = addresses else {
            bail!("not four addresses");
        };
        odd::run([one, other, behind, twin]);
        return Ok(());
    }
    let kinds = [("hold", hold::Kind::Stream), ("hold-udp", hold::Kind::Datagrams)];
    if let Some((_, kind)) = kinds.into_iter().find(|(name, _)| *name == way) {
        return hold::run(kind, target, number(2)?.context("COUNT")?);
    }
    let Some(way) = Way::parse(way) else { bail!("no such way: {way}") };
    let mut socket = calls::Caller::new(way);
    for _ in 0..number(2)?.unwrap_or(1) {
        match socket.call(target) {
            Ok(line) => println!("{line}"),
            Err(error) => println!("errno={} {error}", error.raw_os_error().unwrap_or(0)),
        }
    }
    Ok(())
}
