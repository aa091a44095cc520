//! What programs are told when they are loaded: what this kernel has, so that its verifier never sees a
//! call that it does not know, and what the configuration says.

use std::path::Path;

use aya::EbpfLoader;

use super::{options::Options, prerequisites::kernel_is_at_least};

/// What a kernel has from a version on, where these paths are there as well: by the name of the constant
/// that says so.
type Feature = (&'static str, (u32, u32), &'static [&'static str]);

const FEATURES: [Feature; 4] = [
    ("HAS_CHECK_MTU", (5, 12), &[]),
    ("HAS_COARSE_CLOCK", (5, 11), &[]),
    // Without multipath TCP, or without types, the verifier refuses to ask for it.
    ("HAS_MPTCP_SOCK", (5, 19), &["/proc/sys/net/mptcp", "/sys/kernel/btf/vmlinux"]),
    ("HAS_SET_RETVAL", (6, 1), &[]),
];

static YES: u32 = 1;
static NO: u32 = 0;

/// Those that are not yes or no.
#[derive(Debug, Default)]
pub(super) struct Constants {
    cookie_address: u32,
    cookie_port: u32,
}

impl Constants {
    pub(super) fn of(options: &Options) -> Self {
        let question = options.cgroup.as_ref().and_then(|cgroup| cgroup.cookie_question);
        question.map_or_else(Self::default, |question| Self {
            // As the kernel has them in a call.
            cookie_address: question.ip().to_bits().to_be(),
            cookie_port: question.port().to_be().into(),
        })
    }

    /// Tells all of them. A name that the object does not have is an error when it is loaded.
    pub(super) fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>, options: &Options) {
        loader.override_global("COOKIE_ADDRESS", &self.cookie_address, true);
        loader.override_global("COOKIE_PORT", &self.cookie_port, true);
        let routes_across = options.cgroup.as_ref().is_some_and(|cgroup| cgroup.routes_across);
        loader.override_global("ROUTES_ACROSS", value(routes_across), true);
        for (name, since, needs) in FEATURES {
            let may = options.as_on_kernel.is_none_or(|version| version >= since);
            let has =
                may && kernel_is_at_least(since) && needs.iter().all(|it| Path::new(it).exists());
            loader.override_global(name, value(has), true);
        }
    }
}

fn value(is: bool) -> &'static u32 {
    if is { &YES } else { &NO }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What nobody says is a call that old kernels refuse.
    #[test]
    fn every_feature_that_programs_ask_for_is_told() {
        let source = include_str!("../../../lb-ebpf/src/maps.rs");
        let asked = source.lines().filter_map(|line| {
            let (name, _) = line.strip_prefix("pub static ")?.split_once(": Global<")?;
            name.starts_with("HAS_").then_some(name)
        });
        let told: BTreeSet<&str> = FEATURES.iter().map(|(name, ..)| *name).collect();
        assert_eq!(asked.collect::<BTreeSet<_>>(), told);
    }
}
