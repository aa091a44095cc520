//! Compiles the kernel programs and checks the object.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::object_check::{self, Report};
use crate::toolchain::{self, Toolchain};
use crate::{command, workspace};

const TARGET: &str = "bpfel-unknown-none";

/// Options of `cargo xtask build-ebpf`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Build the object that writes a log line per packet, for debugging, beside the real one.
    #[arg(long)]
    pub(crate) debug_trace: bool,
}

/// What to compile, and where to.
pub(crate) struct Build {
    manifest: PathBuf,
    target_dir: PathBuf,
    features: &'static str,
    binary: &'static str,
}

impl Build {
    /// The programs that are shipped.
    pub(crate) fn release() -> Self {
        Self {
            manifest: workspace::path("lb-ebpf/Cargo.toml"),
            target_dir: workspace::path("lb-ebpf/target"),
            features: "",
            binary: "lb-ebpf",
        }
    }

    /// The programs with a log line per packet. They have a target directory of their own, so that
    /// the agent never embeds them by mistake.
    pub(crate) fn debug_trace() -> Self {
        Self {
            target_dir: workspace::path("lb-ebpf/target/trace"),
            features: "trace",
            ..Self::release()
        }
    }

    /// A program of the tests of the object check. It shares the compiled `core` of the real ones.
    #[cfg(test)]
    pub(crate) fn fixture(binary: &'static str) -> Self {
        Self {
            manifest: workspace::path("xtask/fixtures/defects/Cargo.toml"),
            binary,
            ..Self::release()
        }
    }

    /// Where the object is once it is built.
    pub(crate) fn object(&self) -> PathBuf {
        self.target_dir.join(TARGET).join("release").join(self.binary)
    }

    /// Compiles. Whether anything has to be done is cargo's business.
    pub(crate) fn compile(&self, toolchain: &Toolchain) -> Result<()> {
        if cfg!(target_endian = "big") {
            bail!("kernel programs for big-endian machines are not supported");
        }
        let directory = self.manifest.parent().unwrap_or(Path::new("."));
        let mut cargo = toolchain.cargo()?;
        cargo
            .current_dir(directory)
            .args(["build", "--release", "--locked", "-Z", "build-std=core", "--target", TARGET])
            .args(["--bin", self.binary, "--features", self.features])
            .arg("--target-dir")
            .arg(&self.target_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", rust_flags().join("\x1f"));
        run_without_noise(&mut cargo)
    }
}

fn rust_flags() -> [String; 5] {
    [
        "-Cdebuginfo=2".to_owned(),
        // Type information: map definitions and the line table are in it.
        "-Clink-arg=--btf".to_owned(),
        // The kernel's registers, for programs that read them.
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        // BPF counts as strict about alignment: without this a port is read byte by byte. The
        // kernels of x86-64 and arm64 have no objection, and the verifier knows them.
        "-Ctarget-feature=+allows-misaligned-mem-access".to_owned(),
        // The linker's default makes a call of a loop over bytes out of every zeroed structure.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
    ]
}

/// The subcommand.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let build = if options.debug_trace { Build::debug_trace() } else { Build::release() };
    build_and_check(&build)?;
    Ok(ExitCode::SUCCESS)
}

/// Builds the object that the agent embeds, and reports on it.
pub(crate) fn build_and_check(build: &Build) -> Result<PathBuf> {
    let toolchain = toolchain::find_or_install()?;
    println!("BPF toolchain: {}", toolchain.describe());
    build.compile(&toolchain)?;
    let object = build.object();
    let data =
        std::fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    let report = object_check::check(&data).with_context(|| format!("in {}", object.display()))?;
    print_sizes(&report);
    refuse_defects(&report, &object)?;
    println!("{}: {} KiB", relative(&object), data.len() / 1024);
    Ok(object)
}

fn print_sizes(report: &Report) {
    for (name, size) in &report.programs {
        print!("  {name:<16} {:>6} instructions", size.own + size.called);
        if size.called > 0 {
            print!(", {} of them in functions that it calls", size.called);
        }
        println!();
    }
}

fn refuse_defects(report: &Report, object: &Path) -> Result<()> {
    if report.defects.is_empty() {
        return Ok(());
    }
    let root = format!("{}/", workspace::root().display());
    for defect in &report.defects {
        eprintln!("error: {}", defect.to_string().replace(&root, ""));
    }
    // Cargo would say next time that all is built, and the agent would embed it.
    std::fs::remove_file(object).with_context(|| format!("cannot remove {}", object.display()))?;
    bail!("{}: refused for the defects named above", relative(object));
}

fn relative(path: &Path) -> String {
    path.strip_prefix(workspace::root()).unwrap_or(path).display().to_string()
}

/// Runs a build and leaves out the one warning that it always gives: that a target feature of ours
/// is unstable. Rustc has no way to switch it off.
fn run_without_noise(cargo: &mut Command) -> Result<()> {
    let mut child = cargo
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", command::describe(cargo)))?;
    if let Some(stderr) = child.stderr.take() {
        let mut noise = Noise::default();
        for line in BufReader::new(stderr).lines() {
            let line = line?;
            if !noise.contains(&line) {
                eprintln!("{line}");
            }
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("the kernel programs do not compile ({status}); {}", hint(cargo));
    }
    Ok(())
}

fn hint(cargo: &Command) -> String {
    format!("the command was `{}`", command::describe(cargo))
}

/// Recognises the lines of that warning.
#[derive(Default)]
struct Noise {
    inside: bool,
}

impl Noise {
    fn contains(&mut self, line: &str) -> bool {
        if line.starts_with("warning: unstable feature specified for `-Ctarget-feature`") {
            self.inside = true;
            return true;
        }
        if self.inside {
            // The warning ends with an empty line.
            self.inside = !line.trim().is_empty();
            return true;
        }
        // The count of warnings of a crate that had none but this one.
        line.starts_with("warning: `")
            && (line.ends_with("generated 1 warning")
                || line.ends_with("generated 1 warning (1 duplicate)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_warning_about_our_target_feature_is_left_out() {
        let output = "   Compiling lb-common v0.1.0\n\
            warning: unstable feature specified for `-Ctarget-feature`: `allows-misaligned`\n\
            \x20 |\n\
            \x20 = note: this feature is not stably supported\n\
            \n\
            warning: unused variable: `x`\n\
            \x20 --> src/main.rs:3:9\n\
            \n\
            warning: `lb-common` (lib) generated 1 warning\n\
            warning: `lb-ebpf` (bin \"lb-ebpf\") generated 2 warnings\n";
        let mut noise = Noise::default();
        let left: Vec<&str> = output.lines().filter(|line| !noise.contains(line)).collect();
        assert_eq!(
            left,
            [
                "   Compiling lb-common v0.1.0",
                "warning: unused variable: `x`",
                "  --> src/main.rs:3:9",
                "",
                "warning: `lb-ebpf` (bin \"lb-ebpf\") generated 2 warnings",
            ]
        );
    }
}
