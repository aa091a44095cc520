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
    parse_session(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
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
        io::{BufRead as _, BufReader},
        process::{Command, Stdio},
    };

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
