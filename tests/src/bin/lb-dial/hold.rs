//! Many connections that only wait: when and how they end.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Opens so many, says `open`, and then of each that ends how and when; `alive=N` at the end.
pub(crate) fn run(target: SocketAddr, count: usize, seconds: usize) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let mut streams = Vec::with_capacity(count);
    for number in 0..count {
        let stream = TcpStream::connect(target).with_context(|| format!("connection {number}"))?;
        stream.set_nonblocking(true)?;
        streams.push(stream);
    }
    println!("open");
    io::stdout().flush()?;
    let end = Instant::now() + Duration::from_secs(u64::try_from(seconds)?);
    while Instant::now() < end && !streams.is_empty() {
        streams.retain(|stream| match end_of(stream) {
            None => true,
            Some(how) => {
                println!("ended={how} at_ms={}", now_ms());
                false
            }
        });
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("alive={}", streams.len());
    Ok(())
}

fn end_of(mut stream: &TcpStream) -> Option<i32> {
    match stream.read(&mut [0; 64]) {
        Ok(0) => Some(0),
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => Some(error.raw_os_error().unwrap_or(-1)),
    }
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}
