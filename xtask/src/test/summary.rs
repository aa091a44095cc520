//! Reads the results of cargo's test runner and of nextest from what they print.

use std::fmt;

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) skipped: usize,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(formatter, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// What a run came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) tally: Tally,
    /// Names of the tests that failed.
    pub(super) failures: Vec<String>,
}

/// Collects results line by line.
#[derive(Default)]
pub(super) struct Reader {
    outcome: Outcome,
}

impl Reader {
    pub(super) fn line(&mut self, line: &str) {
        let line = without_colours(line);
        let line = line.trim();
        if let Some(tally) = libtest_summary(line).or_else(|| nextest_summary(line)) {
            self.outcome.tally.add(tally);
        } else if let Some(name) = libtest_failure(line).or_else(|| nextest_failure(line))
            && !self.outcome.failures.iter().any(|known| known == name)
        {
            self.outcome.failures.push(name.to_owned());
        }
    }

    pub(super) fn finish(self) -> Outcome {
        self.outcome
    }
}

/// `test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out; finished in …`
fn libtest_summary(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |what: &str| {
        counts.split("; ").find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
    };
    Some(Tally {
        passed: count("passed")?,
        failed: count("failed")?,
        skipped: count("ignored").unwrap_or(0),
    })
}

/// `Summary [ 0.014s] 5 tests run: 3 passed (1 slow), 1 failed, 1 timed out, 2 skipped`. What
/// nextest calls skipped was not asked for.
fn nextest_summary(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("Summary [")?.split_once(" run: ")?;
    let mut tally = Tally::default();
    for part in counts.split(", ") {
        let (count, what) = part.split_once(' ')?;
        let count: usize = count.parse().ok()?;
        match what.split(" (").next()? {
            "passed" => tally.passed += count,
            "skipped" => {}
            _ => tally.failed += count,
        }
    }
    Some(tally)
}

fn libtest_failure(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// `FAIL [   0.005s] (12/90) lb-agent maglev::tests::balance`, with the count in newer versions.
fn nextest_failure(line: &str) -> Option<&str> {
    let kinds = ["FAIL [", "TIMEOUT [", "SIGABRT [", "SIGSEGV [", "SIGKILL ["];
    let rest = kinds.iter().find_map(|kind| line.strip_prefix(kind))?;
    let name = rest.split_once(']')?.1.trim_start();
    Some(match name.strip_prefix('(') {
        Some(counted) => counted.split_once(')')?.1.trim_start(),
        None => name,
    })
}

/// The text without the escape sequences that colour it.
fn without_colours(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            // `ESC [ … m`: the letter ends it.
            characters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(output: &str, tally: (usize, usize, usize), failures: &[&str]) {
        let mut reader = Reader::default();
        output.lines().for_each(|line| reader.line(line));
        let (passed, failed, skipped) = tally;
        let failures = failures.iter().map(ToString::to_string).collect();
        assert_eq!(reader.finish(), Outcome { tally: Tally { passed, failed, skipped }, failures });
    }

    #[test]
    fn libtest_runs_are_summed() {
        check(
            "running 3 tests\ntest a::b ... ok\ntest a::c ... FAILED\ntest d ... ignored\n\
             test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; \
             finished in 0.00s\n\
             test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; \
             finished in 0.00s\n",
            (8, 1, 1),
            &["a::c"],
        );
    }

    #[test]
    fn nextest_counts_every_way_to_fail() {
        check(
            "        PASS [   0.004s] (1/9) lb-common engine::parse\n\
             \x20       FAIL [   0.005s] (2/9) lb-agent maglev::balance\n\
             \x20    SIGABRT [   0.005s] lb-agent plan::apply\n\
             ────────────\n\
             \x20    Summary [   1.014s] 9 tests run: 6 passed (1 slow), 1 failed, 1 timed out, \
             1 exec failed, 4 skipped\n\
             \x20       FAIL [   0.005s] (2/9) lb-agent maglev::balance\n",
            (6, 3, 0),
            &["lb-agent maglev::balance", "lb-agent plan::apply"],
        );
    }

    #[test]
    fn colours_do_not_matter() {
        check(
            "test x ... \u{1b}[31mFAILED\u{1b}(B\u{1b}[m\n\
             test result: \u{1b}[31mFAILED\u{1b}(B\u{1b}[m. 0 passed; 1 failed; 0 ignored; \
             0 measured; 0 filtered out; finished in 0.00s\n",
            (0, 1, 0),
            &["x"],
        );
    }

    #[test]
    fn other_lines_count_nothing() {
        check("test result\nSummary\nSummary [x] run: many passed\nFAIL\n", (0, 0, 0), &[]);
    }

    #[test]
    fn tally_reads_as_promised() {
        let tally = Tally { passed: 12, failed: 0, skipped: 1 };
        assert_eq!(tally.to_string(), "12 passed, 0 failed, 1 skipped");
    }
}
