//! `streams`: long-lived connections whose every message is checked at both ends.
//!
//! The client says `STREAM SEED\n`, the server answers `STREAM NAME\n`. Then the client sends
//! frames of a sequence number, a length and that many bytes of the connection's [`Pattern`]; the
//! server checks number and bytes and sends the frame back; the client checks it again. Anything
//! out of order, missing, changed or reset is a failure.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{args::Args, fetch::now_ms, json::Object, pattern::Pattern, stop::Stop};

const FRAME_MAX: usize = 1 << 20;
/// An answer that takes longer is a failure, not a delay.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

fn read_line(reader: &mut BufReader<impl Read>) -> io::Result<String> {
    let mut line = String::new();
    reader.take(256).read_line(&mut line)?;
    if !line.ends_with('\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "end within the greeting"));
    }
    Ok(line.trim_end().to_owned())
}

/// Reads one frame into the buffer and checks it against sequence and pattern.
fn read_frame(
    reader: &mut impl Read,
    sequence: u64,
    pattern: &mut Pattern,
    frame: &mut Vec<u8>,
) -> io::Result<()> {
    frame.resize(12, 0);
    reader.read_exact(frame)?;
    let number = u64::from_be_bytes(frame[..8].try_into().unwrap_or_default());
    let length = u32::from_be_bytes(frame[8..].try_into().unwrap_or_default()) as usize;
    if number != sequence {
        return Err(io::Error::other(format!("frame {number} where {sequence} was due")));
    }
    if length > FRAME_MAX {
        return Err(io::Error::other(format!("frame {number} of {length} bytes")));
    }
    frame.resize(12 + length, 0);
    reader.read_exact(&mut frame[12..])?;
    pattern
        .check(&frame[12..])
        .map_err(|offset| io::Error::other(format!("wrong byte at offset {offset}")))
}

/// The server's side.
pub(crate) fn answer(
    reader: &mut BufReader<&TcpStream>,
    mut stream: &TcpStream,
    name: &str,
) -> io::Result<()> {
    let greeting = read_line(reader)?;
    let seed = greeting.strip_prefix("STREAM ").and_then(|seed| seed.parse().ok());
    let seed = seed.ok_or_else(|| io::Error::other(format!("no greeting: `{greeting}`")))?;
    stream.write_all(format!("STREAM {name}\n").as_bytes())?;
    let mut pattern = Pattern::new(seed);
    let mut frame = Vec::new();
    for sequence in 0.. {
        read_frame(reader, sequence, &mut pattern, &mut frame)?;
        stream.write_all(&frame)?;
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Tally {
    by_name: BTreeMap<String, u64>,
    round_trips: u64,
    worst_ms: f64,
    failed: u64,
}

struct Client<'a> {
    target: SocketAddr,
    interval: Duration,
    size: usize,
    stop: &'a Stop,
    tally: &'a Mutex<Tally>,
}

impl Client<'_> {
    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, seed: u64) {
        let mut name = String::from("?");
        let mut sequence = 0;
        if let Err(error) = self.stream(seed, &mut name, &mut sequence) {
            self.tally().failed += 1;
            let line = Object::default()
                .raw("at_ms", format_args!("{:.3}", now_ms()))
                .raw("stream", seed)
                .text("name", &name)
                .raw("after_round_trips", sequence);
            println!("{}", line.text("error", &error.to_string()));
        }
    }

    fn stream(&self, seed: u64, name: &mut String, sequence: &mut u64) -> io::Result<()> {
        let stream = TcpStream::connect_timeout(&self.target, ANSWER_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        (&stream).write_all(format!("STREAM {seed}\n").as_bytes())?;
        let mut reader = BufReader::new(&stream);
        let greeting = read_line(&mut reader)?;
        greeting.strip_prefix("STREAM ").unwrap_or("?").clone_into(name);
        *self.tally().by_name.entry(name.clone()).or_default() += 1;
        println!("{}", Object::default().raw("stream", seed).text("connected", name));

        let (mut sent, mut received) = (Pattern::new(seed), Pattern::new(seed));
        let (mut out, mut back) = (Vec::new(), Vec::new());
        while !self.stop.now() {
            out.clear();
            out.extend(sequence.to_be_bytes());
            out.extend(u32::try_from(self.size).unwrap_or(u32::MAX).to_be_bytes());
            out.resize(12 + self.size, 0);
            sent.fill(&mut out[12..]);
            let begun = Instant::now();
            (&stream).write_all(&out)?;
            read_frame(&mut reader, *sequence, &mut received, &mut back)?;
            let took_ms = begun.elapsed().as_secs_f64() * 1e3;
            *sequence += 1;
            let mut tally = self.tally();
            tally.round_trips += 1;
            tally.worst_ms = tally.worst_ms.max(took_ms);
            drop(tally);
            self.stop.sleep_until(begun + self.interval);
        }
        Ok(())
    }
}

/// Runs the streams; whether all of them lived to the end.
pub(crate) fn run(args: &Args) -> Result<bool, String> {
    let tally = Mutex::new(Tally::default());
    let default = (!args.flag("until-eof")).then_some(Duration::from_secs(5));
    let client = Client {
        target: args.target()?,
        interval: Duration::from_millis(args.number("interval-ms", 5)?),
        size: args.number("size", 1024)?,
        stop: &Stop::new(args, default)?,
        tally: &tally,
    };
    if client.size > FRAME_MAX {
        return Err(format!("--size: at most {FRAME_MAX}"));
    }
    let count: u64 = args.number("count", 20)?;
    thread::scope(|scope| {
        for seed in 0..count {
            let client = &client;
            scope.spawn(move || client.run(seed));
        }
    });
    let tally = client.tally();
    let by_name = tally
        .by_name
        .iter()
        .fold(Object::default(), |object, (name, count)| object.raw(name, count));
    let inner = Object::default()
        .raw("streams", count)
        .raw("failed", tally.failed)
        .raw("round_trips", tally.round_trips)
        .raw("worst_ms", format_args!("{:.3}", tally.worst_ms))
        .raw("by_name", by_name);
    println!("{}", Object::default().raw("summary", inner));
    Ok(tally.failed == 0)
}
