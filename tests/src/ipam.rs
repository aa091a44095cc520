//! A plugin of Docker that gives out addresses from a range of its own: whatever else is there, since Docker
//! itself has each range only once.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    thread,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// Answers for ever: the thread ends with the process, and the socket with the daemon that asks there.
/// `plugins`: where that one looks for plugins.
pub fn serve(plugins: &Path, name: &str) -> Result<()> {
    fs::create_dir_all(plugins).with_context(|| plugins.display().to_string())?;
    let listener = UnixListener::bind(plugins.join(format!("{name}.sock")))?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if let Err(error) = answer_all(stream) {
                println!("a plugin of Docker's was not asked to the end: {error:#}");
            }
        }
    });
    Ok(())
}

/// What comes by one connection, one question after the other.
fn answer_all(stream: UnixStream) -> Result<()> {
    let mut answers = stream.try_clone()?;
    let mut questions = BufReader::new(stream);
    let mut line = String::new();
    while questions.read_line(&mut line)? > 0 {
        let path = line.split(' ').nth(1).context("no request")?.to_owned();
        let mut length = 0;
        loop {
            line.clear();
            questions.read_line(&mut line)?;
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        questions.read_exact(&mut body)?;
        let asked = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let answer = answer(&path, &asked).to_string();
        write!(
            answers,
            "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.plugins.v1+json\r\n\
             Content-Length: {}\r\n\r\n{answer}",
            answer.len()
        )?;
        line.clear();
    }
    Ok(())
}

fn answer(path: &str, asked: &Value) -> Value {
    match path {
        "/Plugin.Activate" => json!({ "Implements": ["IpamDriver"] }),
        "/IpamDriver.GetDefaultAddressSpaces" => {
            json!({ "LocalDefaultAddressSpace": "own", "GlobalDefaultAddressSpace": "own" })
        }
        // The range is named as well by whoever gives one of its addresses back.
        "/IpamDriver.RequestPool" => json!({ "PoolID": asked["Pool"], "Pool": asked["Pool"] }),
        "/IpamDriver.RequestAddress" => {
            let bits = asked["PoolID"].as_str().and_then(|pool| pool.split('/').nth(1));
            let address = asked["Address"].as_str().unwrap_or_default();
            json!({ "Address": format!("{address}/{}", bits.unwrap_or("24")) })
        }
        _ => json!({}),
    }
}
