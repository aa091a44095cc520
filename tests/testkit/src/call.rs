//! `call`: what an application does that knows its service by name. It asks for the name each time,
//! connects, and prints a line per call: who answered, or what went wrong, and when.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::args::Args;

/// A call that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Calls until the time is over.
pub(crate) fn run(args: &Args) -> Result<bool, String> {
    let name = args.text("name").ok_or("--name is missing")?;
    let interval = Duration::from_millis(args.number("interval-ms", 1000)?);
    let end = args.seconds("seconds")?.map(|seconds| Instant::now() + seconds);
    let mut all_answered = true;
    while end.is_none_or(|end| Instant::now() < end) {
        let begun = Instant::now();
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        match call(name) {
            Ok(answer) => println!("at_ms={at_ms} {}", answer.trim()),
            Err(error) => {
                all_answered = false;
                println!("at_ms={at_ms} error={error}");
            }
        }
        thread::sleep(interval.saturating_sub(begun.elapsed()));
    }
    Ok(all_answered)
}

fn call(name: &str) -> io::Result<String> {
    let address = name.to_socket_addrs()?.next();
    let address = address.ok_or_else(|| io::Error::other(format!("{name} has no address")))?;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let peer = stream.peer_addr()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok(format!("{} peer={peer}", body.trim()))
}
