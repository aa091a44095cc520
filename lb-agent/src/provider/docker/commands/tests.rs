//! Commands by a daemon that does not start them, or not in time.

use std::{collections::VecDeque, path::Path, process::Stdio, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    process::{Child, Command as Program},
    sync::Mutex,
    time::timeout,
};

use super::*;

/// Of the commands; a process that has only begun is younger than half of it.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Long enough for any machine.
const LONG: Duration = Duration::from_secs(30);

/// What a daemon says when it is asked about a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Says {
    /// Nothing, ever.
    Nothing,
    /// It has no process yet.
    NoProcess,
    /// It never got one.
    Failed,
    /// It has this process, which is started now if it was not before.
    Process,
}

/// A daemon that takes commands, and never says that it has started one.
struct Daemon {
    /// Of these the last is for all questions after it.
    says: Mutex<VecDeque<Says>>,
    process: Mutex<Option<Child>>,
}

impl Daemon {
    fn serve(self: &Arc<Self>, path: &Path) {
        let listener = UnixListener::bind(path).expect("a socket");
        let daemon = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&daemon).answer(stream));
            }
        });
    }

    async fn answer(self: Arc<Self>, mut stream: UnixStream) {
        let mut request = vec![0; 8192];
        let length = stream.read(&mut request).await.expect("a request");
        let request = String::from_utf8_lossy(&request[..length]).into_owned();
        let path = request.split_whitespace().nth(1).unwrap_or_default();
        let body = if path.contains("/containers/") {
            Some(r#"{"Id":"exec"}"#.to_owned())
        } else if path.contains("/json") {
            self.inspection().await
        } else {
            None
        };
        let Some(body) = body else { return std::future::pending().await };
        let length = body.len();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length:";
        let answer = format!("{head} {length}\r\n\r\n{body}");
        // Whoever asked may have gone.
        stream.write_all(answer.as_bytes()).await.ok();
    }

    async fn inspection(&self) -> Option<String> {
        let says = {
            let mut says = self.says.lock().await;
            let first = says.pop_front().expect("one is left");
            if says.is_empty() {
                says.push_back(first);
            }
            first
        };
        match says {
            Says::Nothing => None,
            Says::NoProcess => Some(r#"{"Running":true,"ExitCode":null,"Pid":0}"#.to_owned()),
            Says::Failed => Some(r#"{"Running":false,"ExitCode":126,"Pid":0}"#.to_owned()),
            Says::Process => {
                let pid = self.begin().await;
                Some(format!(r#"{{"Running":true,"ExitCode":null,"Pid":{pid}}}"#))
            }
        }
    }

    /// Starts the command's process, as the leader of a session, unless that is done.
    async fn begin(&self) -> u32 {
        let mut process = self.process.lock().await;
        if process.is_none() {
            let mut program = Program::new("setsid");
            let program = program.args(["sleep", "606"]).stdin(Stdio::null()).kill_on_drop(true);
            *process = Some(program.spawn().expect("`setsid` starts"));
        }
        let pid = process.as_ref().and_then(Child::id).expect("nobody has waited for it");
        // By then it leads its session.
        while !std::fs::read(format!("/proc/{pid}/comm"))
            .expect("it is there")
            .starts_with(b"sleep")
        {
            tokio::task::yield_now().await;
        }
        pid
    }
}

async fn check(what: &str, is_begun: bool, says: &[Says], expected: &str) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("docker.sock");
    let says: VecDeque<Says> = says.iter().copied().collect();
    let has_process = says.contains(&Says::Process);
    let daemon = Arc::new(Daemon { says: Mutex::new(says), process: Mutex::new(None) });
    daemon.serve(&path);
    if is_begun {
        daemon.begin().await;
    }
    let socket_path = path.to_str().expect("a path in ASCII").to_owned();
    let commands = Commands { socket_path, turns: Turns::new() };
    // Any control group has a name that contains nothing.
    let argv = ["sleep".to_owned()];
    let command = Command { service: "web", instance: "", argv: &argv, timeout: TIMEOUT };
    let ended = commands.run(command).await;
    let ended = ended.map(|exited| exited.status);
    assert_eq!(format!("{ended:?}"), expected, "{what}");
    if has_process {
        let mut process = daemon.process.lock().await.take().expect("it was started");
        let ended = timeout(LONG, process.wait()).await;
        assert!(ended.is_ok(), "{what}: its process is ended");
    }
}

#[tokio::test]
async fn who_was_not_started_in_time_has_not_failed() {
    use Says::{Failed, NoProcess, Nothing, Process};
    let late = "Err(Late)";
    let not_run = r#"Err(NotRun("Docker did not start the command in time"))"#;
    tokio::join!(
        check("it runs and does not end", true, &[Process], late),
        check("it runs, as is told after a while", true, &[NoProcess, Process], late),
        check("it has no process", false, &[NoProcess], not_run),
        check("it never gets one", false, &[NoProcess, Failed], not_run),
        check("nobody says whether it has one", false, &[Nothing], not_run),
        check("it has only begun", false, &[Process], not_run),
        check("it begins too late", false, &[NoProcess, NoProcess, Process], not_run),
    );
}
