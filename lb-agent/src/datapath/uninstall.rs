//! Removing everything that any agent with these paths made, and nothing else: whether it ended
//! politely or not, whether its interfaces are still there or not.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{
    clsact::{Clsact, Ownership},
    hook::{display_interface, program_name},
    links::LinkDir,
    options::Options,
    pins::{PinDir, remove_directory},
    prerequisites::check_host,
    rtnl::{Rtnl, RtnlError},
    sockets::SocketLinks,
    state_dir::{StateDir, lock_pins, remove_if_there},
    sys, unseen,
};

/// What was removed, and what was left and why.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Nothing was changed: this is what would be.
    pub is_dry_run: bool,
    /// What is gone, in words.
    pub removed: Vec<String>,
    /// What is left although an agent made it or may have, and why.
    pub left: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.is_dry_run { "would remove" } else { "removed" };
        for line in &self.removed {
            writeln!(formatter, "{verb} {line}")?;
        }
        for line in &self.left {
            writeln!(formatter, "left {line}")?;
        }
        if self.removed.is_empty() && self.left.is_empty() {
            writeln!(formatter, "nothing to remove")?;
        }
        Ok(())
    }
}

impl Report {
    /// Does a step unless this is a dry run, and writes down what became of it.
    fn step<E: fmt::Display>(&mut self, what: String, act: impl FnOnce() -> Result<(), E>) {
        let result = if self.is_dry_run { Ok(()) } else { act() };
        match result {
            Ok(()) => self.removed.push(what),
            Err(error) => self.left.push(format!("{what}: {error:#}")),
        }
    }
}

/// Removes programs, maps, qdiscs, mounts and files that an agent with these paths made.
///
/// Fails before it has changed anything; later troubles are in the report, and the rest is done all
/// the same.
pub fn uninstall(options: &Options, dry_run: bool) -> anyhow::Result<Report> {
    check_host()?;
    let state = StateDir::at(&options.state_path);
    let pins = PinDir::at(&options.pin_path);
    let mut report = Report { is_dry_run: dry_run, ..Report::default() };
    let state_lock = (!dry_run && state.exists()).then(|| state.lock()).transpose()?;
    let pin_lock =
        (!dry_run && pins.path().is_dir()).then(|| lock_pins(pins.path())).transpose()?;
    let netns_cookie = sys::netns_cookie().context("cannot tell the network namespace")?;
    let ownership =
        if pins.maps().is_dir() { Ownership::Maps(pins.map_ids()) } else { Ownership::Names };
    let mut clsact = Clsact::open(state.clone(), ownership, netns_cookie)?;

    remove_links(&LinkDir::at(&pins.links()), netns_cookie, &mut report);
    remove_filters(&mut clsact, &mut report);
    remove_sockets(&SocketLinks::at(&pins.sockets()), &mut report);
    remove_routes(&mut report);
    remove_pins(&pins, &mut report);
    // An open directory would keep the bpffs busy.
    drop(pin_lock);
    remove_bpffs(&state, &pins, &mut report);
    remove_state(&state, &options.state_path, &mut report);
    drop(state_lock);
    Ok(report)
}

fn remove_links(links: &LinkDir, netns_cookie: u64, report: &mut Report) {
    let names = match links.list() {
        Ok(names) => names,
        Err(error) => {
            report.left.push(format!("links: {error}"));
            return;
        }
    };
    for link in names {
        let interface = if link.netns_cookie == netns_cookie {
            display_interface(link.ifindex)
        } else {
            format!("interface {} of another network namespace", link.ifindex)
        };
        let what = format!("program {} ({}) of {interface}", program_name(link.hook), link.way);
        report.step(what, || links.detach(&link));
    }
}

fn remove_filters(clsact: &mut Clsact, report: &mut Report) {
    let filters = match clsact.list() {
        Ok(filters) => filters,
        Err(error) => {
            report.left.push(format!("clsact filters: they cannot be listed: {error:#}"));
            return;
        }
    };
    // Before our filters go, which may take the qdisc along.
    let qdiscs = clsact.own_qdiscs().unwrap_or_default();
    for (hook, ifindex) in filters {
        let interface = display_interface(ifindex);
        let what = format!("program {} (clsact) of {interface}", program_name(hook));
        report.step(what, || clsact.detach(hook, ifindex));
    }
    for ifindex in qdiscs {
        let what = format!("clsact qdisc of {}", display_interface(ifindex));
        match clsact.has_foreign_filters(ifindex) {
            Ok(true) => report.left.push(format!("{what}: others have filters on it")),
            // Gone with the last filter by now, or without one from the beginning.
            _ => report.step(what, || clsact.remove_qdisc(ifindex)),
        }
    }
}

/// Those of the calling thread's network namespace, as filters.
fn remove_routes(report: &mut Report) {
    let found = Rtnl::open().map_err(Into::into).and_then(|mut rtnl| {
        let routes = unseen::list(&mut rtnl)?;
        Ok::<_, RtnlError>((rtnl, routes))
    });
    match found {
        Ok((mut rtnl, routes)) => {
            for vip in routes {
                let what = format!("route to {vip} for senders that no hook sees");
                report.step(what, || unseen::delete(&mut rtnl, vip));
            }
        }
        Err(error) => report.left.push(format!("routes: they cannot be listed: {error}")),
    }
}

/// Sockets that are connected stay so; what they remember goes with the maps.
fn remove_sockets(sockets: &SocketLinks, report: &mut Report) {
    for name in sockets.pinned() {
        report.step(format!("program {name} of socket calls"), || sockets.detach(name));
    }
}

fn remove_pins(pins: &PinDir, report: &mut Report) {
    let ours = [pins.links(), pins.sockets(), pins.programs(), pins.maps(), pins.maps_new()];
    for directory in ours.clone() {
        if directory.is_dir() {
            report.step(directory.display().to_string(), || remove_directory(&directory));
        }
    }
    if !pins.path().is_dir() {
        return;
    }
    let what = pins.path().display().to_string();
    let foreign = entries_but(pins.path(), &ours);
    if foreign == 0 {
        report.step(what, || fs::remove_dir(pins.path()));
    } else {
        report.left.push(format!("{what}: it holds {foreign} entries that are not ours"));
    }
}

fn remove_bpffs(state: &StateDir, pins: &PinDir, report: &mut Report) {
    let Some(mount_point) = state.noted_bpffs() else {
        return;
    };
    if !is_bpffs(&mount_point) {
        return;
    }
    let what = format!("bpffs on {}", mount_point.display());
    let foreign = pins_but(&mount_point, pins.path());
    if foreign == 0 {
        report.step(what, || {
            nix::mount::umount(&mount_point)?;
            state.forget_bpffs().map_err(anyhow::Error::from)
        });
    } else {
        report.left.push(format!("{what}: it holds {foreign} entries that are not ours"));
    }
}

fn remove_state(state: &StateDir, path: &Path, report: &mut Report) {
    if !state.exists() {
        return;
    }
    let own = state.own_files();
    let foreign = entries_but(path, &own);
    let what = path.display().to_string();
    // What is left elsewhere needs its note for another try.
    if !report.left.is_empty() {
        report.left.push(format!("{what}: it holds notes about what is left"));
        return;
    }
    if foreign != 0 {
        report.left.push(format!("{what}: it holds {foreign} entries that are not ours"));
    }
    let what = if foreign == 0 { what } else { format!("our files in {what}") };
    report.step(what, || {
        own.iter().try_for_each(|file| remove_if_there(file))?;
        if foreign == 0 { fs::remove_dir(path) } else { Ok(()) }
    });
}

/// Number of entries of a directory beside these.
fn entries_but(directory: &Path, ours: &[PathBuf]) -> usize {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    entries.filter_map(Result::ok).filter(|entry| !ours.contains(&entry.path())).count()
}

/// As above, of a bpffs: what the kernel puts into each one has a dot in its name (`maps.debug`),
/// which it allows nobody else.
fn pins_but(bpffs: &Path, ours: &Path) -> usize {
    let Ok(entries) = fs::read_dir(bpffs) else {
        return 0;
    };
    let is_of_kernel = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().contains(&b'.');
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path() != ours && !is_of_kernel(entry))
        .count()
}

fn is_bpffs(path: &Path) -> bool {
    nix::sys::statfs::statfs(path)
        .is_ok_and(|file_system| file_system.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}
