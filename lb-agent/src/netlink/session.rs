//! Ends all that a command has started: the processes of its session.
//!
//! Docker makes whatever it executes in a container the leader of a session. A shell's children are in
//! it, also those that outlive the shell; only who asks for a session of its own has left it.

use std::{collections::BTreeSet, fs, io};

use super::process::Process;

/// Rounds of looking for processes: those found in one may have started others meanwhile.
const ROUNDS_MAX: usize = 8;

/// Ends the processes of session `session` that are in a control group named after `group`. Returns how
/// many it ended.
///
/// The leader may have ended before: its number is not given away while its session has processes.
///
/// # Errors
///
/// When `/proc` cannot be read, or a process cannot be signalled.
pub fn end_session(session: u32, group: &str) -> io::Result<usize> {
    let mut ended = BTreeSet::new();
    for _ in 0..ROUNDS_MAX {
        let before = ended.len();
        for process in members(session)? {
            // A process that is gone by now needs nothing; one of another group is none of ours; and one
            // that was ended before is on its way.
            if !ended.contains(&process.pid())
                && process.is_in_control_group_of(group).unwrap_or(false)
            {
                process.kill()?;
                ended.insert(process.pid());
            }
        }
        if ended.len() == before {
            break;
        }
    }
    Ok(ended.len())
}

/// Handles on the living processes of a session.
fn members(session: u32) -> io::Result<Vec<Process>> {
    let mut members = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // First the handle, then the look: what is read is of this process, or it is dead.
        if session_of(pid) != Some(session) {
            continue;
        }
        let Ok(process) = Process::open(pid) else { continue };
        if session_of(pid) == Some(session) && process.is_alive() {
            members.push(process);
        }
    }
    Ok(members)
}

fn session_of(pid: u32) -> Option<u32> {
    parse_session(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?))
}

/// The session in a line of `/proc/PID/stat`. The name before it may contain anything.
fn parse_session(line: &str) -> Option<u32> {
    // The 6th field; the name is the second, and the state, which follows it, the third.
    let (_, after_name) = line.rsplit_once(") ")?;
    after_name.split(' ').nth(6 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsStr,
        io::{BufRead as _, BufReader},
        os::unix::{ffi::OsStrExt as _, fs::symlink},
        process::{Command, Stdio},
    };

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn session_is_found_behind_any_name() {
        let check = |line: &str, expected: Option<u32>| {
            assert_eq!(parse_session(line), expected, "{line}");
        };
        check("42 (sleep) S 1 42 17 0 -1", Some(17));
        check("42 (a) S 1 2 (b) c) S 1 42 17 0 -1", Some(17));
        check("42 (sleep) S 1", None);
        check("", None);
    }

    proptest! {
        #[test]
        fn any_name_is_passed_over(name in any::<String>(), session: u32, state in "[A-Z]") {
            let line = format!("42 ({name}) {state} 1 42 {session} 0 -1 4194304 99");
            prop_assert_eq!(parse_session(&line), Some(session), "{}", line);
        }

        /// A line that ends early has no session, and no other number is taken for it.
        #[test]
        fn what_is_no_line_has_no_session(name in any::<String>(), fields in "[ 0-9a-z)(-]{0,20}") {
            let line = format!("42 ({name}{fields}");
            let found = parse_session(&line);
            let is_there = |session: u32| line.contains(&session.to_string());
            prop_assert!(found.is_none_or(is_there), "{:?}", found);
            let [parent, group] = [1, 42];
            prop_assert_eq!(parse_session(&format!("42 ({name}) S {parent} {group}")), None);
        }
    }

    /// Names are cut after 15 bytes, whatever these are.
    #[test]
    fn who_is_named_by_other_bytes_than_text_is_ended_as_well() {
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join(OsStr::from_bytes(b"sleep-\xff"));
        symlink("/bin/sleep", &program).expect("a link");
        let mut leader =
            Command::new("setsid").arg(program).arg("604").spawn().expect("`setsid` starts");
        let session = leader.id();
        let name = format!("/proc/{session}/comm");
        while fs::read(&name).expect("it runs") != b"sleep-\xff\n" {
            std::thread::yield_now();
        }
        let ended = end_session(session, "").expect("readable");
        leader.kill().expect("our own child");
        leader.wait().expect("our own child");
        assert_eq!(ended, 1);
    }

    #[test]
    fn what_outlives_its_leader_is_ended_and_nothing_else() {
        let line = "sleep 600 & (sleep 601 &) ; echo; sleep 602";
        let mut other = Command::new("sleep").arg("603").spawn().expect("`sleep` starts");
        let mut leader = Command::new("setsid")
            .args(["sh", "-c", line])
            .stdout(Stdio::piped())
            .spawn()
            .expect("`setsid` starts");
        let mut output = BufReader::new(leader.stdout.take().expect("a pipe"));
        output.read_line(&mut String::new()).expect("it begins");
        let session = leader.id();
        assert_eq!(end_session(session, "no-such-container").expect("readable"), 0);
        leader.kill().expect("our own child");
        leader.wait().expect("our own child");
        // The third may not have been started before its shell was killed.
        let ended = end_session(session, "").expect("readable");
        assert!((2..=3).contains(&ended), "{ended}");
        // All of them had the pipe: it ends with the last.
        assert_eq!(output.read_line(&mut String::new()).expect("the end"), 0);
        assert!(other.try_wait().expect("our own child").is_none(), "another session lives");
        other.kill().expect("our own child");
        other.wait().expect("our own child");
    }
}
