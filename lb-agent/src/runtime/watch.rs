//! Tells when the configuration file may have changed: written, replaced by a rename, or reached by a
//! symbolic link that leads elsewhere now, as editors and mounted config maps do it.
//!
//! Watches directories, since a file that is replaced takes its own watch with it. Where that does
//! not work (a full table of watches, some network file systems), looks from time to time. Reads no
//! content: that is the business of `config`.

use std::{
    collections::BTreeSet,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::sleep,
};

/// Time between looks without any event.
const LOOK: Duration = Duration::from_secs(10);
/// A file counts as written when it stays the same for so long.
const SETTLED: Duration = Duration::from_millis(100);
/// Symbolic links that are followed, as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// Watches one file.
#[derive(Debug)]
pub(super) struct FileWatch {
    path: PathBuf,
    /// `None`: only looks from time to time.
    events: Option<Events>,
    seen: Option<Fingerprint>,
}

/// What changes whenever the file does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileWatch {
    /// Watches from now on. The file need not exist.
    pub(super) fn new(path: PathBuf) -> Self {
        let events = Events::follow();
        if let Err(error) = &events {
            tracing::warn!(
                "cannot watch `{}`, and looks at it every {LOOK:?} instead: {error}",
                path.display()
            );
        }
        let seen = Fingerprint::of(&path);
        let watch = Self { path, events: events.ok(), seen };
        watch.watch_directories();
        watch
    }

    /// Watches by a task of its own, which no other event interrupts; it ends with the receiver.
    pub(super) fn follow(mut self) -> mpsc::Receiver<()> {
        let (sender, changes) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = self.changed() => {}
                    () = sender.closed() => return,
                }
                // One that waits already stands for this one, too.
                if let Err(TrySendError::Closed(())) = sender.try_send(()) {
                    return;
                }
            }
        });
        changes
    }

    /// Ends when the file is another one than before, and has settled.
    pub(super) async fn changed(&mut self) {
        loop {
            let found = Fingerprint::of(&self.path);
            if found != self.seen {
                sleep(SETTLED).await;
                if Fingerprint::of(&self.path) == found {
                    self.seen = found;
                    self.watch_directories();
                    return;
                }
                continue;
            }
            let event = async {
                match &mut self.events {
                    Some(events) => events.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = event => {}
                () = sleep(LOOK) => {}
            }
            self.watch_directories();
        }
    }

    /// Watching the same directory again changes nothing.
    fn watch_directories(&self) {
        let Some(events) = &self.events else { return };
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        for directory in directories(&self.path) {
            if let Err(error) = events.inotify.add_watch(&directory, flags) {
                tracing::debug!("cannot watch `{}`: {error}", directory.display());
            }
        }
    }
}

/// Events of the watched directories. A thread of their own waits for them: it ends with the first
/// one after nobody listens any more.
#[derive(Debug)]
struct Events {
    inotify: Arc<Inotify>,
    happened: mpsc::Receiver<()>,
}

impl Events {
    fn follow() -> io::Result<Self> {
        let inotify = Arc::new(Inotify::init(InitFlags::IN_CLOEXEC)?);
        let (sender, happened) = mpsc::channel(1);
        let source = Arc::clone(&inotify);
        let wait = move || loop {
            match source.read_events() {
                // What happened is of no interest: the file is looked at.
                Ok(_) => {
                    if let Err(TrySendError::Closed(())) = sender.try_send(()) {
                        return;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::warn!("cannot wait for changes of the configuration: {error}");
                    return;
                }
            }
        };
        thread::Builder::new().name("file-watch".to_owned()).spawn(wait)?;
        Ok(Self { inotify, happened })
    }

    async fn next(&mut self) {
        if self.happened.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

impl Fingerprint {
    /// `None`: there is no such file.
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Directories in which something that the path leads through may be replaced: its own, and those
/// of every link on the way.
fn directories(path: &Path) -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::new();
    let mut next = path.to_owned();
    for _ in 0..LINKS_MAX {
        let parent = match next.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        // The directory itself may be a link that is replaced.
        if parent.is_symlink()
            && let Some(grandparent) = parent.parent()
        {
            directories.insert(grandparent.to_owned());
        }
        directories.insert(parent.clone());
        match std::fs::read_link(&next) {
            Ok(target) => next = parent.join(target),
            Err(_) => break,
        }
    }
    directories
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use tokio::time::timeout;

    use super::*;

    /// Far less than [`LOOK`] would take, and far more than an event does.
    const SOON: Duration = Duration::from_secs(5);

    /// A file with a content, a way to change it, and whether that is noticed.
    async fn check(name: &str, change: impl FnOnce(&Path)) {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |file: &str| directory.path().join(file);
        fs::create_dir_all(at("..v1")).expect("a directory");
        fs::write(at("..v1/lb.toml"), "old").expect("a file");
        symlink("..v1", at("..data")).expect("a link");
        symlink("..data/lb.toml", at("mounted.toml")).expect("a link");
        fs::write(at("plain.toml"), "old").expect("a file");
        let mut watch = FileWatch::new(at(name));
        assert!(timeout(SETTLED * 2, watch.changed()).await.is_err(), "{name}: nothing changed");
        change(directory.path());
        timeout(SOON, watch.changed()).await.unwrap_or_else(|_| panic!("{name}: not noticed"));
        assert!(timeout(SETTLED * 2, watch.changed()).await.is_err(), "{name}: noticed twice");
        // And once more, with the watches as they are then.
        fs::write(at(name), "the latest").expect("a file");
        timeout(SOON, watch.changed()).await.unwrap_or_else(|_| panic!("{name}: not again"));
    }

    #[tokio::test]
    async fn a_file_that_is_written_is_noticed() {
        check("plain.toml", |at| fs::write(at.join("plain.toml"), "newer").expect("written")).await;
    }

    #[tokio::test]
    async fn a_file_that_is_replaced_is_noticed() {
        check("plain.toml", |at| {
            fs::write(at.join(".plain.toml.swp"), "newer").expect("written");
            fs::rename(at.join(".plain.toml.swp"), at.join("plain.toml")).expect("renamed");
        })
        .await;
    }

    #[tokio::test]
    async fn a_link_that_leads_elsewhere_is_noticed() {
        check("mounted.toml", |at| {
            fs::create_dir(at.join("..v2")).expect("a directory");
            fs::write(at.join("..v2/lb.toml"), "newer").expect("written");
            symlink("..v2", at.join("..data_tmp")).expect("a link");
            fs::rename(at.join("..data_tmp"), at.join("..data")).expect("renamed");
            fs::remove_dir_all(at.join("..v1")).expect("removed");
        })
        .await;
    }

    #[tokio::test]
    async fn a_file_that_comes_and_goes_is_noticed() {
        check("later.toml", |at| fs::write(at.join("later.toml"), "new").expect("written")).await;
        check("plain.toml", |at| fs::remove_file(at.join("plain.toml")).expect("removed")).await;
    }

    /// As the daemon waits: something else happens all the time.
    #[tokio::test]
    async fn other_events_do_not_hold_a_change_up() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lb.toml");
        fs::write(&path, "old").expect("a file");
        let mut changes = FileWatch::new(path.clone()).follow();
        fs::write(&path, "newer").expect("a file");
        let busy = async {
            loop {
                tokio::select! {
                    change = changes.recv() => return change,
                    () = sleep(SETTLED / 10) => {}
                }
            }
        };
        assert_eq!(timeout(SOON, busy).await, Ok(Some(())));
    }

    #[tokio::test]
    async fn without_a_directory_nothing_is_watched() {
        let mut watch = FileWatch::new(PathBuf::from("/nonexistent/lb/lb.toml"));
        assert!(timeout(SETTLED, watch.changed()).await.is_err());
    }
}
