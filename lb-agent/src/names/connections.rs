//! Questions over connections: so many at once, so many of one asker, and none for long.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::{
    responder::{Outcome, Responder},
    room::Room,
    wire::{QUESTION_BYTES_MAX, Transport},
};

/// Connections at once, on all addresses.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// Of them, those of one asker.
pub(super) const CONNECTIONS_OF_ONE_MAX: usize = 8;
/// Longest wait for a question, and for an answer to be taken.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(5);
/// Longest life of a connection, however much it is used.
const LIFE_TIME: Duration = Duration::from_mins(1);
/// Wait after a connection could not be taken: there are too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers for ever.
pub(super) async fn serve(listener: TcpListener, room: Room, responder: Responder) {
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!("names: cannot take a connection: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        // One for which there is no room is closed, upon which its client may ask somebody else.
        let Some(place) = room.take(client.ip()) else { continue };
        let responder = responder.clone();
        tokio::spawn(async move {
            let _place = place;
            let life = timeout(LIFE_TIME, talk(stream, &responder)).await;
            if let Ok(Err(error)) = life {
                tracing::debug!("names: connection of {client}: {error}");
            }
        });
    }
}

/// One question after the other, until its client ends it or has nothing to ask.
async fn talk(mut stream: TcpStream, responder: &Responder) -> io::Result<()> {
    let client = stream.peer_addr()?;
    let mut question = Vec::new();
    loop {
        timeout(IDLE_TIME, read(&mut stream, &mut question)).await??;
        let mut answer = match responder.respond(&question, client, Transport::Connection) {
            Outcome::Silence => return Ok(()),
            Outcome::Bytes(bytes) => bytes,
            Outcome::Later(asked, waiting) => {
                let reply = waiting.reply(asked.query.name()).await;
                asked.answer(reply)
            }
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        answer.splice(..0, length.to_be_bytes());
        timeout(IDLE_TIME, stream.write_all(&answer)).await??;
    }
}

async fn read(stream: &mut TcpStream, question: &mut Vec<u8>) -> io::Result<()> {
    let length = usize::from(stream.read_u16().await?);
    if length > QUESTION_BYTES_MAX {
        return Err(io::Error::other(format!("a question of {length} bytes")));
    }
    question.resize(length, 0);
    stream.read_exact(question).await.map(drop)
}
