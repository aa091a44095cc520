//! Why the kernel would not take a program of socket calls on a cgroup. It is looked for before any is
//! attached, so that a call for which there is no room does not leave others translated.

use std::{fs::File, os::fd::AsFd as _, path::Path};

use super::{
    cgroup::{self, Cgroup},
    sys::{self, AttachType, CgroupPrograms},
};

/// What keeps others out.
enum Obstacle {
    /// A program on this cgroup that allows no other.
    Exclusive(u32),
    /// There are as many as there can be.
    Full,
}

/// Why there is no room for a program of ours on a cgroup, and what to do about it; `None`: there is, or
/// nothing can be seen that is in the way. `call`: as tools name it.
pub(super) fn of(cgroup: &Cgroup, attach_type: AttachType, call: &str) -> Option<String> {
    let own = sys::cgroup_programs(cgroup.directory.as_fd(), attach_type).ok()?;
    if let Some(obstacle) = on_itself(&own) {
        return Some(obstacle.explain(&cgroup.path, call));
    }
    let whole = cgroup.path.canonicalize().ok()?;
    for above in whole.ancestors().skip(1) {
        let Ok(directory) = File::open(above) else { return None };
        if !cgroup::is_one(&directory).unwrap_or(false) {
            return None;
        }
        let above_it = sys::cgroup_programs(directory.as_fd(), attach_type).ok()?;
        // The next one that has programs decides, as in the kernel.
        if above_it.flags & sys::FLAG_ALLOWS_OTHERS != 0 {
            return None;
        }
        if let Some(id) = above_it.ids.first() {
            let is_exclusive = above_it.flags & sys::FLAG_ALLOWS_OVERRIDE == 0;
            return is_exclusive.then(|| Obstacle::Exclusive(*id).explain(above, call));
        }
    }
    None
}

fn on_itself(programs: &CgroupPrograms) -> Option<Obstacle> {
    let first = *programs.ids.first()?;
    if programs.flags & sys::FLAG_ALLOWS_OTHERS == 0 {
        return Some(Obstacle::Exclusive(first));
    }
    (programs.ids.len() >= sys::CGROUP_PROGRAMS_MAX as usize).then_some(Obstacle::Full)
}

impl Obstacle {
    fn explain(&self, path: &Path, call: &str) -> String {
        let path = path.display();
        let or = "or let `path` in [cgroup] of the config name another cgroup";
        match self {
            Self::Exclusive(id) => {
                let name = sys::program_info(*id).map_or_else(|_| String::new(), |info| info.name);
                format!(
                    "the program `{name}` (id {id}) on `{path}` allows no other for `{call}` there and \
                     below; `bpftool cgroup detach {path} {call} id {id}` takes it off; {or}"
                )
            }
            Self::Full => format!(
                "{} programs are on `{path}` for `{call}`, which are as many as the kernel takes; \
                 `bpftool cgroup show {path}` lists them: take off what nobody needs, {or}",
                sys::CGROUP_PROGRAMS_MAX
            ),
        }
    }
}
