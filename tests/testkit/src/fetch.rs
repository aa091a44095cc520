//! `fetch`: requests at a fixed rate, whether or not earlier ones were answered (open loop).
//!
//! A request that is not answered in full within the timeout is a failure. Times are milliseconds
//! since the epoch, taken when the request was due, so that they compare with the clock of whoever
//! broke something on purpose.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{args::Args, http, json::Object, stop::Stop};

/// Requests that may be waiting at once; more than rate x timeout is of no use.
const WORKERS_MAX: u64 = 1024;

#[derive(Debug, Default)]
struct Tally {
    by_name: BTreeMap<String, u64>,
    took_ms: Vec<f64>,
    failed: u64,
    /// Requests that were sent more than 100 ms late, since this machine was busy.
    late: u64,
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3
}

/// Runs the requests; whether all were answered.
pub(crate) fn run(args: &Args) -> Result<bool, String> {
    let target = args.target()?;
    let rate: f64 = args.number("rate", 0.0)?;
    let timeout_ms: u64 = args.number("timeout-ms", 1000)?;
    let endless = args.flag("until-eof") || args.text("seconds").is_some();
    let count: u64 = args.number("count", if endless { u64::MAX } else { 1 })?;
    let path = args.text("path").unwrap_or("/");
    let each = args.flag("each");
    let stop = Stop::new(args, None)?;

    // Without a rate: one after the other.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small bound")]
    let in_flight = (rate * Duration::from_millis(timeout_ms).as_secs_f64()) as u64 + 16;
    let workers = if rate > 0.0 { in_flight.min(count).min(WORKERS_MAX) } else { 1 };
    let start = Instant::now();
    let next = AtomicU64::new(0);
    let tally = Mutex::new(Tally::default());
    let worker = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            #[expect(clippy::cast_precision_loss, reason = "indices stay far below 2^52")]
            let due = if rate > 0.0 {
                start + Duration::from_secs_f64(index as f64 / rate)
            } else {
                start
            };
            if index >= count || !stop.sleep_until(due) {
                return;
            }
            let (begun, begun_ms) = (Instant::now(), now_ms());
            let answer = http::get(target, path, Duration::from_millis(timeout_ms));
            let took_ms = begun.elapsed().as_secs_f64() * 1e3;
            let late = rate > 0.0 && begun - due.min(begun) > Duration::from_millis(100);
            let line = Object::default()
                .raw("at_ms", format_args!("{begun_ms:.3}"))
                .raw("took_ms", format_args!("{took_ms:.3}"));
            let mut tally = tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            tally.late += u64::from(late);
            match answer {
                Ok(body) => {
                    let name = http::field(&body, "name").unwrap_or("?");
                    *tally.by_name.entry(name.to_owned()).or_default() += 1;
                    tally.took_ms.push(took_ms);
                    if each {
                        let client = http::field(&body, "client").unwrap_or("?");
                        let local = http::field(&body, "local").unwrap_or("?");
                        let line = line.text("name", name).text("client", client);
                        println!("{}", line.text("local", local));
                    }
                }
                Err(error) => {
                    tally.failed += 1;
                    println!("{}", line.text("error", &error.to_string()));
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(worker);
        }
    });
    let tally = tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let failed = tally.failed;
    println!("{}", summary(tally));
    Ok(failed == 0)
}

fn summary(mut tally: Tally) -> Object {
    tally.took_ms.sort_by(f64::total_cmp);
    let quantile = |share: usize| {
        let index = tally.took_ms.len().saturating_sub(1) * share / 1000;
        tally.took_ms.get(index).copied().unwrap_or(0.0)
    };
    let by_name = tally
        .by_name
        .iter()
        .fold(Object::default(), |object, (name, count)| object.raw(name, count));
    let inner = Object::default()
        .raw("sent", tally.took_ms.len() as u64 + tally.failed)
        .raw("ok", tally.took_ms.len())
        .raw("failed", tally.failed)
        .raw("late", tally.late)
        .raw("p50_ms", format_args!("{:.3}", quantile(500)))
        .raw("p99_ms", format_args!("{:.3}", quantile(990)))
        .raw("worst_ms", format_args!("{:.3}", quantile(1000)))
        .raw("by_name", by_name);
    Object::default().raw("summary", inner)
}
