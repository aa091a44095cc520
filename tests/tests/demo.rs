//! The demonstration keeps its promises, and removes all that it made, also when it is interrupted.

use std::{
    fmt::Write as _,
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{binaries::Binaries, names, names::Directory, needs, process, world};
use nix::{fcntl::Flock, sys::signal::Signal};

/// The demo, writing into this file. `scene`: what it shows beside clients from outside.
fn start(log: &Path, scene: Option<&str>) -> Result<Child> {
    let log = File::create(log)?;
    let binaries = Binaries::find()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb-demo"));
    command
        .arg("--own-docker")
        .arg("--agent")
        .arg(&binaries.agent)
        .arg("--lbctl")
        .arg(&binaries.lbctl)
        .arg("--testkit")
        .arg(&binaries.testkit)
        .args(scene);
    Ok(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?)
}

/// Namespaces, directories, mounts and cgroups that the process made.
fn leftovers(pid: u32) -> String {
    let prefix = format!("{}{pid}-", names::PREFIX);
    let mut found = String::new();
    for directory in [names::ROOT, "/run/netns", "/sys/fs/cgroup", "/sys/fs/cgroup/memory"] {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with(&prefix) {
                let _infallible = writeln!(found, "{}", entry.path().display());
            }
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| line.contains(&prefix)));
    found
}

/// One world with Docker at a time. A scene that is played in such a world takes its turn by itself.
fn turn(scene: Option<&str>) -> Result<Option<Flock<File>>> {
    scene.is_none().then(world::take_turn).transpose()
}

/// Lets it run to its end; what it said.
fn run(scene: Option<&str>) -> Result<String> {
    let _turn = turn(scene)?;
    let directory = Directory::new()?;
    let log = directory.join("log");
    let mut demo = start(&log, scene)?;
    let pid = demo.id();
    let ended = process::wait_child(&mut demo, Duration::from_mins(1));
    let said = fs::read_to_string(&log)?;
    let status = demo.try_wait()?.with_context(|| format!("it runs still\n{said}"))?;
    ensure!(ended && status.success(), "{status}\n{said}");
    ensure!(said.contains("promises kept"), "{said}");
    ensure!(!said.contains('\u{1b}'), "colours where there is no terminal");
    assert_eq!(leftovers(pid), "");
    Ok(said)
}

#[test]
fn demo_keeps_its_promises_within_a_minute() -> Result<()> {
    needs!(docker);
    run(None).map(drop)
}

#[test]
fn demo_of_containers_that_call_keeps_its_promises() -> Result<()> {
    needs!(docker);
    let said = run(Some("east-west"))?;
    for promise in [
        "one a second, answered by both; 0 failed",
        "answers from both",
        "0 failed that were not within 250 ms",
        "as its peer",
    ] {
        ensure!(said.contains(promise), "{promise}: {said}");
    }
    Ok(())
}

#[test]
fn interrupted_demo_leaves_nothing() -> Result<()> {
    needs!(docker);
    let directory = Directory::new()?;
    let log = directory.join("log");
    // Early, while Docker starts; and late, while requests run.
    for (scene, delay) in [(None, 1), (None, 9), (Some("east-west"), 8)] {
        let delay = Duration::from_secs(delay);
        let _turn = turn(scene)?;
        let mut demo = start(&log, scene)?;
        let pid = demo.id();
        process::sleep(delay)?;
        ensure!(demo.try_wait()?.is_none(), "it ended before: {}", fs::read_to_string(&log)?);
        process::signal(&demo, Signal::SIGINT);
        ensure!(process::wait_child(&mut demo, Duration::from_secs(30)), "it does not end");
        let said = fs::read_to_string(&log)?;
        ensure!(said.contains("interrupted"), "{said}");
        assert_eq!(leftovers(pid), "", "{scene:?} after {delay:?}: {said}");
    }
    Ok(())
}
