//! What a call costs, measured from inside a container: directly and by a VIP, in turn.
//!
//! Of UDP, which sends nothing when it connects, all of a call is what the programs and the kernel do. Of
//! TCP the handshake is in it, which takes many times as long as the programs: so there are many calls,
//! each timed by itself, on all ways in turn, and what a second direct way differs by is told beside; and
//! what a call by the VIP differs by from one of its backend's own address, which is the call itself.
//!
//! All ways call from within the cgroup, so what the programs cost a call to no VIP is in the direct ones.

use std::{
    hint::black_box,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Args;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};

use super::{
    figures::median,
    goals::{CONNECT, Judged},
};

/// Calls of UDP in a row to one address.
const CALLS: u32 = 500;
/// Connections of TCP on each way in a round.
const CONNECTIONS: u32 = 100;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Options of `connect-cost`.
#[derive(Args)]
pub(crate) struct CostOptions {
    /// What it is compared with.
    direct: SocketAddr,
    /// The backend that the VIP leads to.
    backend: SocketAddr,
    /// The VIP.
    vip: SocketAddr,
    /// Rounds over all.
    rounds: u32,
}

/// What a `connect` to a VIP costs more than a direct one.
pub(crate) fn cost(options: &CostOptions) -> Result<()> {
    println!(
        "what a call costs; all ways call from within the cgroup, so what the programs cost a call to no \
         VIP is in `direct`, too"
    );
    datagrams(options)?;
    connections(options)
}

/// Of sockets of UDP that are made for it and closed again, and of one that is connected again and again.
fn datagrams(options: &CostOptions) -> Result<()> {
    type Measure = fn(SocketAddr) -> Result<f64>;
    let ways: [(&str, Measure); 2] =
        [("UDP socket, connect, close", new_sockets), ("UDP connect", one_socket)];
    for (name, measure) in ways {
        let targets = [options.direct, options.direct, options.vip];
        let mut samples = targets.map(|_| Vec::new());
        for _ in 0..=options.rounds {
            for (samples, target) in samples.iter_mut().zip(targets) {
                samples.push(measure(target)?);
            }
        }
        // The fastest: of so many calls in a row each has been left alone once, and nothing is sent.
        let fastest = |samples: &Vec<f64>| samples.iter().copied().fold(f64::INFINITY, f64::min);
        let told = ["direct", "again", "VIP"].iter().zip(&samples).map(|(way, samples)| {
            let median = median(samples.iter().copied());
            format!("{way} {:.3} µs (median {median:.3})", fastest(samples))
        });
        println!("{name:<26} {}", told.collect::<Vec<_>>().join(", "));
        let [direct, again, vip] = samples.each_ref().map(fastest);
        let name = format!("{name}, µs added");
        let controls = vec![("direct again", again - direct)];
        println!("{}", Judged { name, figure: vip - direct, controls, goal: CONNECT });
    }
    Ok(())
}

/// Of TCP. Both containers are called by two of the ways: what was used just now is faster.
fn connections(options: &CostOptions) -> Result<()> {
    let CostOptions { direct, backend, vip, rounds } = *options;
    let targets = [direct, direct, backend, vip];
    let mut samples = targets.map(|_| Vec::new());
    for round in 0..rounds.max(1) * CONNECTIONS {
        for way in turn(round) {
            samples[way].push(connect_tcp(targets[way])?);
        }
    }
    let medians = samples.each_ref().map(|samples| median(samples.iter().copied()));
    let names = ["direct", "again", "a backend", "VIP"];
    let told = names.iter().zip(&mut samples).zip(medians).map(|((name, samples), median)| {
        samples.sort_by(f64::total_cmp);
        format!("{name} {median:.3} µs ({:.3})", samples[samples.len() / 10])
    });
    let told = told.collect::<Vec<_>>().join(", ");
    println!("{:<26} medians, and what a tenth is faster than: {told}", "TCP connect");
    let [direct, again, backend, vip] = medians;
    let name = "TCP connect, µs added to direct".to_owned();
    let controls = vec![("direct again", again - direct)];
    let judged = Judged { name, figure: vip - direct, controls, goal: CONNECT };
    // By the same container and the same veth, so that nothing but the call differs.
    println!("{judged}; added to a call of the backend's own address: {:.3}", vip - backend);
    Ok(())
}

/// The four ways, each round in another order: what comes after a way must not always be the same.
fn turn(round: u32) -> [usize; 4] {
    let mut order = [0, 1, 2, 3];
    order.rotate_left(round as usize % 4);
    if round / 4 % 2 == 1 {
        order.reverse();
    }
    order
}

/// Microseconds of one call.
fn timed(mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    for _ in 0..CALLS {
        call()?;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS))
}

fn new_sockets(target: SocketAddr) -> Result<f64> {
    timed(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(target)?;
        black_box(socket);
        Ok(())
    })
}

fn one_socket(target: SocketAddr) -> Result<f64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    timed(|| Ok(socket.connect(target)?))
}

/// Microseconds of the `connect` alone. The server has taken the connection, and answered, before the next.
fn connect_tcp(target: SocketAddr) -> Result<f64> {
    let socket: OwnedFd =
        socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // It ends by a RST: of ports in TIME_WAIT there would soon be no other.
    setsockopt(&socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    let address = SockaddrStorage::from(target);
    let begun = Instant::now();
    connect(socket.as_raw_fd(), &address)?;
    let took = begun.elapsed();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(REQUEST)?;
    ensure!(stream.read(&mut [0; 512])? > 0, "{target} has closed without an answer");
    Ok(took.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_as_often_before_each_other() {
        let mut after = [[0; 4]; 4];
        for round in 0..8 {
            for pair in turn(round).windows(2) {
                after[pair[0]][pair[1]] += 1;
            }
        }
        for (way, row) in after.iter().enumerate() {
            // Neighbours in either direction, as often as each other.
            let (next, before) = ((way + 1) % 4, (way + 3) % 4);
            assert_eq!((row[next], row[before]), (3, 3), "{after:?}");
        }
    }
}
