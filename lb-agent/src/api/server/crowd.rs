//! Connections of whoever reaches an address: so many at once, and nobody is kept out by those who only
//! sit there. Who comes when all seats are taken gets that of the one who has sat there for longest,
//! first among those who get nothing.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::task::{AbortHandle, JoinSet};

/// Connections that are served, the oldest first.
#[derive(Debug)]
pub(super) struct Crowd {
    seats: usize,
    seated: Vec<Seat>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Seat {
    task: AbortHandle,
    served: Served,
}

/// How much of what a connection asked for is on its way.
#[derive(Clone, Debug, Default)]
pub(super) struct Served(Arc<AtomicU32>);

/// Something is on its way until this is dropped.
#[derive(Debug)]
pub(super) struct Serving(Served);

impl Served {
    /// Something is asked for.
    pub(super) fn begin(&self) -> Serving {
        self.0.fetch_add(1, Ordering::Relaxed);
        Serving(self.clone())
    }

    /// Nothing is.
    pub(super) fn is_idle(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Crowd {
    /// With room for so many.
    pub(super) fn new(seats: usize) -> Self {
        Self { seats, seated: Vec::new(), tasks: JoinSet::new() }
    }

    /// Gives a connection a seat, and whoever has to leave it for that time to close his.
    pub(super) async fn seat<F>(&mut self, served: Served, connection: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        while self.tasks.try_join_next().is_some() {}
        self.seated.retain(|seat| !seat.task.is_finished());
        while self.tasks.len() >= self.seats {
            self.unseat();
            self.tasks.join_next().await;
        }
        let task = self.tasks.spawn(connection);
        self.seated.push(Seat { task, served });
    }

    fn unseat(&mut self) {
        let idle = self.seated.iter().position(|seat| seat.served.is_idle());
        if !self.seated.is_empty() {
            self.seated.remove(idle.unwrap_or(0)).task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    /// Connections that come one after the other to three seats, `S` where one is being served. Expected:
    /// those that are there in the end.
    async fn check(connections: &str, expected: &[usize]) {
        let mut crowd = Crowd::new(3);
        let mut serving = Vec::new();
        let mut ends = Vec::new();
        for letter in connections.chars() {
            let served = Served::default();
            if letter == 'S' {
                serving.push(served.begin());
            }
            let (alive, end) = watch::channel(());
            ends.push(end);
            let connection = async move {
                std::future::pending::<()>().await;
                drop(alive);
            };
            crowd.seat(served, connection).await;
            let open = ends.iter().filter(|end| end.has_changed().is_ok()).count();
            assert!(open <= 3, "{connections}: {open} at once");
        }
        let ends = ends.iter().enumerate().filter(|(_, end)| end.has_changed().is_ok());
        let there: Vec<usize> = ends.map(|(index, _)| index).collect();
        assert_eq!(there, expected, "{connections}");
    }

    #[tokio::test]
    async fn who_comes_is_seated_and_who_is_served_leaves_last() {
        check("...", &[0, 1, 2]).await;
        check("....", &[1, 2, 3]).await;
        check("S.......", &[0, 6, 7]).await;
        check("SSS.", &[1, 2, 3]).await;
        check("SSS...S", &[1, 2, 6]).await;
        check("SSSSSSS", &[4, 5, 6]).await;
    }
}
