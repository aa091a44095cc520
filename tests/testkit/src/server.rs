//! `serve`: one thread per connection; HTTP and the checked stream on the same port, and datagrams on
//! that port of UDP.
//!
//! - `GET /`, and the paths that checks of others ask for: `name=… client=IP:PORT local=IP:PORT`, as the server sees them
//! - `HEAD /`: that it is there
//! - `GET /bytes/N`: N bytes of [`Pattern`] with seed N
//! - `POST /sink`: counts, sums and checks a body of that pattern
//! - `STREAM`: see the module `streams`
//! - a datagram: comes back with `name=… client=IP:PORT bytes=N\n` in place of its first bytes

use std::{
    io::{self, BufReader, Read as _, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use crate::{
    args::Args,
    http::{self, Head},
    pattern::{Pattern, Sum},
    streams,
};

/// Serves until it is killed.
pub(crate) fn run(args: &Args) -> Result<bool, String> {
    let name = args.text("name").map_or_else(host_name, str::to_owned);
    let mut listeners = Vec::new();
    for port in args.all("port") {
        let port: u16 = port.parse().map_err(|_| format!("--port: `{port}` is no port"))?;
        // Dual-stack where the kernel has IPv6.
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
            .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
            .map_err(|error| format!("port {port}: {error}"))?;
        let datagrams = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
            .or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
            .map_err(|error| format!("UDP port {port}: {error}"))?;
        listeners.push((listener, datagrams));
    }
    if listeners.is_empty() {
        return Err("--port is missing".to_owned());
    }
    println!("{name} is ready");
    let threads: Vec<_> = listeners
        .into_iter()
        .map(|(listener, datagrams)| {
            let (name, other_name) = (name.clone(), name.clone());
            thread::spawn(move || answer_datagrams(&datagrams, &other_name));
            thread::spawn(move || accept(&listener, &name))
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a listener panicked")?;
    }
    Ok(true)
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn answer_datagrams(socket: &UdpSocket, name: &str) {
    let mut buffer = vec![0; 65_536];
    loop {
        // An error is an answer that nobody took.
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let line = format!("name={name} client={} bytes={length}\n", plain(client));
        let mut answer = line.into_bytes();
        if let Some(rest) = buffer[..length].get(answer.len()..) {
            answer.extend_from_slice(rest);
        }
        if let Err(error) = socket.send_to(&answer, client) {
            eprintln!("{name}: datagram to {client}: {error}");
        }
    }
}

fn accept(listener: &TcpListener, name: &str) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let name = name.to_owned();
        let spawned = thread::Builder::new().stack_size(256 * 1024).spawn(move || {
            if let Err(error) = serve(&stream, &name)
                && error.kind() != io::ErrorKind::UnexpectedEof
            {
                eprintln!("{name}: {error}");
            }
        });
        if let Err(error) = spawned {
            eprintln!("no thread for a connection: {error}");
        }
    }
}

/// An IPv4 peer of a dual-stack socket, written as IPv4.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn serve(stream: &TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0; 1];
    if stream.peek(&mut first)? == 0 {
        return Ok(());
    }
    let mut reader = BufReader::with_capacity(256 * 1024, stream);
    if first == *b"S" {
        return streams::answer(&mut reader, stream, name);
    }
    let head = http::read_head(&mut reader)?;
    let mut words = head.first.split(' ');
    match (words.next(), words.next()) {
        (Some("GET"), Some("/" | "/health" | "/features")) => {
            let (client, local) = (plain(stream.peer_addr()?), plain(stream.local_addr()?));
            respond(stream, "200 OK", &format!("name={name} client={client} local={local}\n"))
        }
        (Some("HEAD"), Some("/")) => respond(stream, "200 OK", ""),
        (Some("GET"), Some(path)) => match path.strip_prefix("/bytes/").map(str::parse) {
            Some(Ok(length)) => send_bytes(stream, length),
            _ => respond(stream, "404 Not Found", "no such path\n"),
        },
        (Some("POST"), Some("/sink")) => sink(&mut reader, stream, &head, name),
        _ => respond(stream, "400 Bad Request", "not understood\n"),
    }
}

fn respond(mut stream: &TcpStream, status: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(answer.as_bytes())
}

fn send_bytes(mut stream: &TcpStream, length: u64) -> io::Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    write_pattern(stream, length).map(|_| ())
}

/// Sends the pattern whose seed is its length, and returns its sum.
pub(crate) fn write_pattern(mut out: impl Write, length: u64) -> io::Result<Sum> {
    let mut pattern = Pattern::new(length);
    let mut sum = Sum::default();
    let mut buffer = vec![0; 256 * 1024];
    let mut left = length;
    while left > 0 {
        let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        pattern.fill(&mut buffer[..count]);
        sum.add(&buffer[..count]);
        out.write_all(&buffer[..count])?;
        left -= count as u64;
    }
    Ok(sum)
}

/// Reads and checks the pattern whose seed is its length: its sum, or what was wrong.
pub(crate) fn read_pattern(mut reader: impl io::Read, length: u64) -> io::Result<Sum> {
    let mut pattern = Pattern::new(length);
    let mut sum = Sum::default();
    let mut buffer = vec![0; 256 * 1024];
    let mut left = length;
    while left > 0 {
        let limit = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = reader.read(&mut buffer[..limit])?;
        if count == 0 {
            let message = format!("ended {left} bytes early");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        sum.add(&buffer[..count]);
        pattern
            .check(&buffer[..count])
            .map_err(|offset| io::Error::other(format!("wrong byte at offset {offset}")))?;
        left -= count as u64;
    }
    Ok(sum)
}

fn sink(
    reader: &mut BufReader<&TcpStream>,
    stream: &TcpStream,
    head: &Head,
    name: &str,
) -> io::Result<()> {
    let length = head.length();
    match read_pattern(reader.by_ref().take(length), length) {
        Ok(sum) => {
            let (client, sum) = (plain(stream.peer_addr()?), sum.value());
            let body = format!("name={name} client={client} bytes={length} sum={sum:016x}\n");
            respond(stream, "200 OK", &body)
        }
        Err(error) => respond(stream, "422 Unprocessable Content", &format!("{error}\n")),
    }
}
