//! `bulk`: many bytes over one connection, summed and checked at the far end.

use std::{
    io::{self, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    args::Args,
    http,
    json::Object,
    pattern::Sum,
    server::{read_pattern, write_pattern},
};

/// A stall of this length is a failure.
const STALL: Duration = Duration::from_secs(10);

/// Runs the transfers; whether all arrived whole.
pub(crate) fn run(args: &Args) -> Result<bool, String> {
    let target = args.target()?;
    let bytes: u64 = args.number("bytes", 100 << 20)?;
    let directions: &[(&str, Transfer)] = match args.text("direction").unwrap_or("both") {
        "up" => &[("up", up)],
        "down" => &[("down", down)],
        "both" => &[("up", up), ("down", down)],
        other => return Err(format!("--direction: `{other}` is none of up, down, both")),
    };
    let mut passed = true;
    for (direction, transfer) in directions {
        let begun = Instant::now();
        let result = transfer(target, bytes);
        let seconds = begun.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let gbit_per_second = bytes as f64 * 8.0 / seconds / 1e9;
        let line = Object::default()
            .text("direction", direction)
            .raw("bytes", bytes)
            .raw("seconds", format_args!("{seconds:.3}"))
            .raw("gbit_per_second", format_args!("{gbit_per_second:.3}"));
        let line = match &result {
            Ok(sum) => line.text("sum", &format!("{sum:016x}")),
            Err(error) => line.text("error", &error.to_string()),
        };
        println!("{}", Object::default().raw("summary", line));
        passed &= result.is_ok();
    }
    Ok(passed)
}

type Transfer = fn(SocketAddr, u64) -> io::Result<u64>;

fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, STALL)?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    Ok(stream)
}

fn up(target: SocketAddr, bytes: u64) -> io::Result<u64> {
    let stream = connect(target)?;
    write!(&stream, "POST /sink HTTP/1.1\r\nHost: {target}\r\nContent-Length: {bytes}\r\n\r\n")?;
    let sum = write_pattern(&stream, bytes)?.value();
    let mut reader = BufReader::new(&stream);
    let head = http::read_head(&mut reader)?;
    let mut body = String::new();
    reader.take(head.length().min(4096)).read_to_string(&mut body)?;
    let expected = format!("{sum:016x}");
    if head.first.starts_with("HTTP/1.1 200") && http::field(&body, "sum") == Some(&expected) {
        return Ok(sum);
    }
    Err(io::Error::other(format!("sent sum {expected}, far end says {}: {body}", head.first)))
}

fn down(target: SocketAddr, bytes: u64) -> io::Result<u64> {
    let stream = connect(target)?;
    write!(&stream, "GET /bytes/{bytes} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n")?;
    let mut reader = BufReader::with_capacity(256 * 1024, &stream);
    let head = http::read_head(&mut reader)?;
    if head.length() != bytes {
        return Err(io::Error::other(format!("`{}`, {} bytes", head.first, head.length())));
    }
    read_pattern(reader, bytes).map(Sum::value)
}
