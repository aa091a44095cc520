//! Who traces, with a source that is a queue and a kernel that only remembers its filters.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use lb_common::{
    abi::{Hook, NetAddr6, NetU16, TRACE_ANY_REASON, Verdict},
    socket::caller_words,
};

use super::*;

/// What the programs would have told, and what they lost.
type Queue = Arc<Mutex<(VecDeque<TraceEvent>, u64)>>;

struct FakeSource(Queue);

impl TraceSource for FakeSource {
    fn next_event(&mut self) -> Option<TraceEvent> {
        self.0.lock().unwrap().0.pop_front()
    }

    fn lost(&self) -> u64 {
        self.0.lock().unwrap().1
    }
}

type Filters = Vec<Option<TraceFilter>>;

struct Bed {
    queue: Queue,
    filters: Arc<Mutex<Filters>>,
    requests: mpsc::Sender<TraceRequest>,
}

impl Bed {
    fn new() -> Self {
        let queue = Queue::default();
        let filters = Arc::new(Mutex::new(Filters::default()));
        let (kernel, mut questions) = mpsc::channel(8);
        let in_force = Arc::clone(&filters);
        tokio::spawn(async move {
            while let Some(question) = questions.recv().await {
                if let Request::Trace(filters, answer) = question {
                    *in_force.lock().unwrap() = filters;
                    answer.send(Ok(())).unwrap();
                }
            }
        });
        let (requests, receiver) = mpsc::channel(8);
        let tracers = Tracers::new(FakeSource(Arc::clone(&queue)), kernel, || 100);
        tokio::spawn(tracers.run(receiver, CancellationToken::new()));
        Self { queue, filters, requests }
    }

    fn tell(&self, port: u16, backend: u32) {
        self.tell_of(packet(port, backend));
    }

    fn tell_of(&self, event: TraceEvent) {
        self.queue.lock().unwrap().0.push_back(event);
    }

    async fn trace(
        &self,
        port: u32,
        backends: &[u32],
        seconds: u32,
        room: usize,
    ) -> Result<mpsc::Receiver<Told>, String> {
        let filter = TraceFilter { port, ..any() };
        let backends = backends.iter().copied().collect();
        self.trace_all(
            Wanted { filter, backends, caller: None, only_packets: false },
            seconds,
            room,
        )
        .await
    }

    async fn trace_all(
        &self,
        wanted: Wanted,
        seconds: u32,
        room: usize,
    ) -> Result<mpsc::Receiver<Told>, String> {
        let (told, received) = mpsc::channel(room);
        let (begun, has_begun) = oneshot::channel();
        let request = TraceRequest { wanted, seconds, told, begun };
        self.requests.send(request).await.unwrap();
        has_begun.await.unwrap().map(|()| received)
    }

    fn in_force(&self) -> usize {
        self.filters.lock().unwrap().iter().flatten().count()
    }
}

fn packet(port: u16, backend: u32) -> TraceEvent {
    TraceEvent {
        time_ns: 100 << 30,
        destination_port: NetU16::new(port),
        backend,
        verdict: Verdict::Deliver as u32,
        ..TraceEvent::default()
    }
}

fn any() -> TraceFilter {
    TraceFilter {
        families: 3,
        reason: TRACE_ANY_REASON,
        verdicts: u32::MAX,
        ..TraceFilter::default()
    }
}

/// Ports and backends of what was told so far.
async fn told(received: &mut mpsc::Receiver<Told>) -> Vec<String> {
    sleep(LOOK * 3).await;
    let mut lines = Vec::new();
    while let Ok(told) = received.try_recv() {
        lines.push(match told {
            Told::Packet(event) => {
                format!("{} to {}", event.destination_port.get(), event.backend)
            }
            Told::Lost(packets) => format!("{packets} lost"),
        });
    }
    lines
}

#[tokio::test(start_paused = true)]
async fn each_gets_what_it_asked_for() {
    let bed = Bed::new();
    bed.tell(80, 9);
    let mut web = bed.trace(80, &[], 60, 16).await.unwrap();
    let mut one = bed.trace(0, &[1, 3], 60, 16).await.unwrap();
    assert_eq!(bed.in_force(), 2);
    bed.tell(80, 1);
    bed.tell(80, 2);
    bed.tell(443, 3);
    assert_eq!(told(&mut web).await, ["80 to 1", "80 to 2"], "and nothing from before");
    assert_eq!(told(&mut one).await, ["80 to 1", "443 to 3"]);
}

fn wanted(caller: Option<u64>, only_packets: bool) -> Wanted {
    Wanted { filter: any(), backends: BTreeSet::new(), caller, only_packets }
}

fn call(port: u16, source: NetAddr6) -> TraceEvent {
    TraceEvent { hook: Hook::Socket as u32, source, ..packet(port, 1) }
}

#[tokio::test(start_paused = true)]
async fn calls_of_one_are_not_those_of_others() {
    let bed = Bed::new();
    let (caller, words) = (7 << 32 | 9, caller_words(7 << 32 | 9));
    // What the programs may tell while a filter changes.
    let wanted = wanted(Some(caller), false);
    let mut received = bed.trace_all(wanted, 60, 16).await.unwrap();
    bed.tell_of(call(80, words));
    bed.tell_of(call(81, caller_words(9)));
    bed.tell_of(call(82, caller_words(7 << 32)));
    // A packet, whose client has the address ::7:9 or so.
    bed.tell_of(TraceEvent { hook: Hook::TcFront as u32, ..call(83, words) });
    assert_eq!(told(&mut received).await, ["80 to 1"]);
}

#[tokio::test(start_paused = true)]
async fn calls_are_not_of_a_network_of_clients() {
    let bed = Bed::new();
    // As of 0.0.0.0/0, which has the first words of every cookie, too.
    let mut packets = bed.trace_all(wanted(None, true), 60, 16).await.unwrap();
    let mut all = bed.trace_all(wanted(None, false), 60, 16).await.unwrap();
    bed.tell_of(call(80, caller_words(9)));
    bed.tell_of(TraceEvent { hook: Hook::TcFront as u32, ..packet(81, 1) });
    bed.tell_of(TraceEvent { hook: Hook::TcReply as u32, ..packet(82, 1) });
    assert_eq!(told(&mut packets).await, ["81 to 1", "82 to 1"]);
    assert_eq!(told(&mut all).await, ["80 to 1", "81 to 1", "82 to 1"]);
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_is_taken_out() {
    let bed = Bed::new();
    let first = bed.trace(80, &[], 60, 16).await.unwrap();
    let mut second = bed.trace(443, &[], 60, 16).await.unwrap();
    drop(first);
    sleep(LOOK * 3).await;
    assert_eq!(bed.in_force(), 1);
    bed.tell(443, 1);
    assert_eq!(told(&mut second).await, ["443 to 1"]);
    drop(second);
    sleep(LOOK * 3).await;
    assert_eq!(bed.in_force(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_time_is_bounded_here_and_in_the_kernel() {
    let bed = Bed::new();
    let mut received = bed.trace(80, &[], 10, 16).await.unwrap();
    let until_tick = bed.filters.lock().unwrap()[0].unwrap().until_tick;
    assert_eq!(until_tick, 100 + ticks_from_seconds(10));
    sleep(Duration::from_secs(11)).await;
    assert_eq!(bed.in_force(), 0);
    assert_eq!(received.recv().await, None, "the stream ends");
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_is_told() {
    let bed = Bed::new();
    bed.queue.lock().unwrap().1 = 5;
    let mut received = bed.trace(80, &[], 60, 2).await.unwrap();
    for backend in 1..=5 {
        bed.tell(80, backend);
    }
    bed.queue.lock().unwrap().1 = 12;
    assert_eq!(told(&mut received).await, ["80 to 1", "80 to 2"]);
    assert_eq!(told(&mut received).await, ["10 lost"], "3 for want of room, 7 by the programs");
}

#[tokio::test(start_paused = true)]
async fn who_reads_late_is_told_what_is_lost() {
    let bed = Bed::new();
    let mut received = bed.trace(80, &[], 10, 1).await.unwrap();
    for backend in 1..=3 {
        bed.tell(80, backend);
    }
    sleep(Duration::from_secs(11)).await;
    assert_eq!(bed.in_force(), 0);
    assert!(matches!(received.recv().await, Some(Told::Packet(_))));
    assert_eq!(received.recv().await, Some(Told::Lost(2)));
    assert_eq!(received.recv().await, None, "the stream ends");
    // Who never reads holds nothing up for long.
    let unread = bed.trace(80, &[], 10, 1).await.unwrap();
    bed.tell(80, 1);
    bed.tell(80, 2);
    sleep(Duration::from_secs(11) + LAST_WORD).await;
    assert_eq!(unread.sender_strong_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn more_than_there_are_filters_is_refused() {
    let bed = Bed::new();
    let mut all = Vec::new();
    for _ in 0..TRACE_FILTERS {
        all.push(bed.trace(80, &[], 60, 2).await.unwrap());
    }
    let refused = bed.trace(80, &[], 60, 2).await.unwrap_err();
    assert_eq!(refused, "4 others trace already; wait until one has ended");
    all.pop();
    sleep(LOOK * 3).await;
    bed.trace(80, &[], 60, 2).await.unwrap();
}
