//! As much HTTP/1.1 as the tests need: one request per connection, bounded heads.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

const HEAD_LIMIT: u64 = 16 * 1024;

/// First line and headers of a message; header names in lower case.
#[derive(Debug)]
pub(crate) struct Head {
    /// Request or status line.
    pub(crate) first: String,
    headers: BTreeMap<String, String>,
}

impl Head {
    /// The `Content-Length`, 0 when it is missing.
    pub(crate) fn length(&self) -> u64 {
        self.headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

/// Reads up to the empty line.
pub(crate) fn read_head(reader: &mut BufReader<impl Read>) -> io::Result<Head> {
    let mut limited = reader.take(HEAD_LIMIT);
    let mut line = || {
        let mut line = String::new();
        limited.read_line(&mut line)?;
        if !line.ends_with('\n') {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "end within the head"));
        }
        Ok(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut headers = BTreeMap::new();
    loop {
        let line = line()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Ok(Head { first, headers })
}

/// One request with an empty body; the answer's body, which must be short and complete.
pub(crate) fn get(target: SocketAddr, path: &str, timeout: Duration) -> io::Result<String> {
    let deadline = Instant::now() + timeout;
    let stream = TcpStream::connect_timeout(&target, timeout)
        .map_err(|error| io::Error::new(error.kind(), format!("connect: {error}")))?;
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left))?;
    stream.set_nodelay(true)?;
    (&stream).write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut reader = BufReader::new(&stream);
    let head = read_head(&mut reader)?;
    if !head.first.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(format!("status `{}`", head.first)));
    }
    let length = head.length();
    let mut body = String::new();
    reader.take(length.min(1 << 20)).read_to_string(&mut body)?;
    if body.len() as u64 != length {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "end within the body"));
    }
    Ok(body)
}

/// The value of `key=value` in a line of such words.
pub(crate) fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}
