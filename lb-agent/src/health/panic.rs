//! What a service does when nearly all of its backends fail their probes. Pure.
//!
//! A probe can be wrong where its backends are not: a dependency that all of them report on, a
//! request that none of them knows any more. So, when fewer than some percent of a service's backends
//! are healthy, those that fail but live are used as well, and that is said loudly. Never used are
//! the gone, the draining and the disabled, those that have never passed (nothing says that they ever
//! worked), and those that refuse connections at their port (nobody would answer).
//!
//! What the data path sees never takes out the last backend of a service: then those that it found
//! failing go on, whatever the threshold, until a probe of their own says the same. Nobody loses by
//! it, and a server that is just being restarted is served the moment it is back.
//!
//! The usual threshold of 10 % (up to ten backends: none is healthy) is low on purpose. Fleets of hundreds, where the rest would be overwhelmed, choose
//! 50 %; services of a few containers would then, with one of three healthy, send two thirds of their
//! clients into errors.

use super::tracker::Health;

/// A backend that wants traffic: neither draining nor disabled, and of some weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// By its probes.
    pub health: Health,
    /// Whether it has ever been healthy.
    pub was_healthy: bool,
    /// Whether it refuses connections at the port that traffic goes to.
    pub is_refusing: bool,
    /// Whether only the data path has found it failing, and no probe of its own.
    pub is_observed: bool,
}

/// A service in panic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Panic {
    /// Backends that are healthy.
    pub healthy: usize,
    /// Backends that take new flows although they fail: indexes of the candidates.
    pub drafted: Vec<usize>,
    /// Backends that were judged: healthy or unhealthy.
    pub judged: usize,
    /// Those that are used are what only the data path saw failing.
    pub is_last_resort: bool,
}

/// Whether a service with these backends is in panic, and who is used then. `percent` 0: never, but
/// for who would be the last.
pub fn panic(candidates: &[Candidate], percent: u32) -> Option<Panic> {
    let count = |health| candidates.iter().filter(|it| it.health == health).count();
    let healthy = count(Health::Healthy);
    let judged = healthy + count(Health::Unhealthy);
    let panic = |is_last_resort, is_drafted: fn(&Candidate) -> bool| {
        let drafted = candidates.iter().enumerate().filter(|(_, it)| is_drafted(it));
        let drafted: Vec<usize> = drafted.map(|(index, _)| index).collect();
        (!drafted.is_empty()).then_some(Panic { healthy, drafted, judged, is_last_resort })
    };
    let mut found = None;
    if (healthy as u64 * 100) < judged as u64 * u64::from(percent) {
        found =
            panic(false, |it| it.health == Health::Unhealthy && it.was_healthy && !it.is_refusing);
    }
    if found.is_none() && healthy == 0 {
        found = panic(true, |it| it.health == Health::Unhealthy && it.is_observed);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `H` healthy, `u` fails, `r` fails by refusing, `n` fails and never passed, `s` starting;
    /// `U`, `R`: fails, or refuses, as far as the data path saw.
    /// Expected: the backends that take new flows.
    #[track_caller]
    fn check(backends: &str, percent: u32, expected: &str) {
        let candidates: Vec<Candidate> = backends
            .chars()
            .map(|letter| Candidate {
                health: match letter {
                    'H' => Health::Healthy,
                    's' => Health::Starting,
                    _ => Health::Unhealthy,
                },
                was_healthy: "HurUR".contains(letter),
                is_refusing: "rR".contains(letter),
                is_observed: "UR".contains(letter),
            })
            .collect();
        let panic = panic(&candidates, percent);
        let drafted = panic.map_or(Vec::new(), |panic| panic.drafted);
        let taken = backends.chars().enumerate().map(|(index, letter)| {
            if letter == 'H' || drafted.contains(&index) { '#' } else { '.' }
        });
        assert_eq!(taken.collect::<String>(), expected, "{backends} at {percent} %");
    }

    #[test]
    fn only_when_nearly_all_fail() {
        check("HHH", 10, "###");
        check("Huu", 10, "#..");
        check("uuu", 10, "###");
        check("u", 10, "#");
        check("Huuuuuuuuu", 10, "#.........");
        check("Huuuuuuuuuu", 10, "###########");
        check("Huu", 50, "###");
        check("Hu", 50, "#.");
        check("uuu", 0, "...");
        check("", 10, "");
    }

    #[test]
    fn new_backends_are_not_used_before_they_have_passed() {
        check("s", 10, ".");
        check("ssn", 10, "...");
        // A rolling update whose new ones do not work: the last good ones are kept.
        check("uss", 10, "#..");
        check("unn", 10, "#..");
        check("Hss", 10, "#..");
    }

    #[test]
    fn who_refuses_connections_is_not_used() {
        check("urr", 10, "#..");
        check("rrr", 10, "...");
        check("rrH", 50, "..#");
    }

    #[test]
    fn what_the_data_path_saw_leaves_the_last() {
        check("RR", 10, "##");
        check("R", 0, "#");
        check("RRH", 0, "..#");
        check("Rr", 10, "#.");
        check("Rs", 10, "#.");
        // Who may live goes first.
        check("Ru", 10, ".#");
        check("RU", 10, ".#");
        check("Ru", 0, "#.");
        check("UU", 0, "##");
    }

    #[test]
    fn no_count_overflows() {
        let failing = Candidate {
            health: Health::Unhealthy,
            was_healthy: true,
            is_refusing: false,
            is_observed: false,
        };
        let drafted = panic(&vec![failing; 70_000], 100).map(|panic| panic.drafted.len());
        assert_eq!(drafted, Some(70_000));
    }
}
