//! Compose, as users run it: a file as it stands, its images made of nothing but ours and Debian's
//! programs, since no registry is asked.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    binaries,
    docker::Docker,
    names::Directory,
    process::{self, words},
};

/// A Compose file and the project that it makes.
#[derive(Debug)]
pub struct Compose {
    docker: Docker,
    file: PathBuf,
    project: String,
}

impl Compose {
    /// The file of this name in `tests/compose`.
    #[must_use]
    pub fn new(docker: Docker, file: &str, project: &str) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("compose").join(file);
        Self { docker, file, project: project.to_owned() }
    }

    /// The same project by a file of its own, with so much of the text replaced.
    pub fn edited(self, directory: &Path, replaced: &str, by: &str) -> Result<Self> {
        let text = fs::read_to_string(&self.file)?;
        let place = text.find(replaced).with_context(|| format!("no `{replaced}` in the file"))?;
        let file = directory.join("compose.yml");
        let (before, after) = (&text[..place], &text[place + replaced.len()..]);
        fs::write(&file, format!("{before}{by}{after}"))?;
        Ok(Self { file, ..self })
    }

    /// Runs `docker-compose LINE`.
    pub fn run(&self, line: &str) -> Result<String> {
        let line = words(&format!("docker-compose {line}"));
        let mut command = Command::new("docker-compose");
        command
            .env("DOCKER_HOST", format!("unix://{}", self.docker.socket().display()))
            .env_remove("DOCKER_CONTEXT")
            .args(["--project-name", &self.project, "--file"])
            .arg(&self.file)
            .args(line.get_args());
        process::run(&mut command)
    }
}

impl Docker {
    /// Makes an image in which `lb-testkit` serves at these ports when nothing else is said.
    pub fn import_server(&self, image: &str, ports: &[u16]) -> Result<()> {
        let directory = Directory::new()?;
        let root = directory.join("image");
        put(&root, &binaries::testkit()?, "bin/lb-testkit")?;
        let serve = ports.iter().map(|port| format!(r#","--port","{port}""#));
        let command = format!(r#"CMD ["/bin/lb-testkit","serve"{}]"#, serve.collect::<String>());
        let exposed = ports.iter().map(|port| format!("EXPOSE {port}"));
        self.import(&directory, image, &exposed.chain([command]).collect::<Vec<_>>())
    }

    /// Makes an image with Debian's Redis, server and client, as far as it is installed here.
    pub fn import_redis(&self, image: &str) -> Result<()> {
        let directory = Directory::new()?;
        let root = directory.join("image");
        // One program under several names.
        put(&root, Path::new("/usr/bin/redis-check-rdb"), "usr/bin/redis-server")?;
        put(&root, Path::new("/usr/bin/redis-cli"), "usr/bin/redis-cli")?;
        for program in ["/usr/bin/redis-check-rdb", "/usr/bin/redis-cli"] {
            for library in libraries(program)? {
                put(&root, &library, library.strip_prefix("/")?)?;
            }
        }
        let command = r#"CMD ["/usr/bin/redis-server","--protected-mode","no","--save",""]"#;
        self.import(&directory, image, &["EXPOSE 6379".to_owned(), command.to_owned()])
    }

    /// Makes an image in which this program is there, and does nothing, whatever it is told.
    pub fn import_idle(&self, image: &str, program: &str) -> Result<()> {
        let directory = Directory::new()?;
        let root = directory.join("image");
        put_shell(&root)?;
        let path = root.join("bin").join(program);
        fs::write(&path, "#!/bin/sh\nexec sleep 86400\n")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        self.import(&directory, image, &[])
    }

    /// Makes an image with a shell.
    pub fn import_shell(&self, image: &str) -> Result<()> {
        let directory = Directory::new()?;
        put_shell(&directory.join("image"))?;
        self.import(&directory, image, &[])
    }

    /// Makes an image like that of every [`crate::Container`], with a shell, `test`, `touch` and `rm`.
    pub fn import_image_with_shell(&self, image: &str) -> Result<()> {
        let directory = Directory::new()?;
        let root = directory.join("image");
        put_shell(&root)?;
        for applet in ["test", "touch", "rm"] {
            put(&root, Path::new("/bin/busybox"), Path::new("bin").join(applet))?;
        }
        put(&root, &binaries::testkit()?, "bin/lb-testkit")?;
        self.import(&directory, image, &[r#"ENTRYPOINT ["/bin/lb-testkit"]"#.to_owned()])
    }

    /// Makes an image with a shell and Debian's `curl`. Its `apk` installs nothing: all is there.
    pub fn import_curl(&self, image: &str) -> Result<()> {
        let directory = Directory::new()?;
        let root = directory.join("image");
        put_shell(&root)?;
        fs::write(root.join("bin/apk"), "#!/bin/sh\n")?;
        fs::set_permissions(root.join("bin/apk"), fs::Permissions::from_mode(0o755))?;
        put(&root, Path::new("/usr/bin/curl"), "usr/bin/curl")?;
        for library in libraries("/usr/bin/curl")? {
            put(&root, &library, library.strip_prefix("/")?)?;
        }
        self.import(&directory, image, &[])
    }

    fn import(&self, directory: &Directory, image: &str, changes: &[String]) -> Result<()> {
        let (root, archive) = (directory.join("image"), directory.join("image.tar"));
        fs::create_dir_all(root.join("tmp"))?;
        process::run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."))?;
        let changes = changes.iter().flat_map(|change| ["--change", change]);
        process::run(self.command().arg("import").args(changes).arg(&archive).arg(image))?;
        Ok(())
    }
}

fn put(root: &Path, from: &Path, to: impl AsRef<Path>) -> Result<()> {
    let to = root.join(to);
    fs::create_dir_all(to.parent().context("a file in a directory")?)?;
    fs::copy(from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// A shell and what is called from it.
fn put_shell(root: &Path) -> Result<()> {
    for applet in ["sh", "sleep", "seq"] {
        put(root, Path::new("/bin/busybox"), Path::new("bin").join(applet))?;
    }
    Ok(())
}

/// The shared libraries of a program, and what loads them.
fn libraries(program: &str) -> Result<Vec<PathBuf>> {
    let listed = process::run(Command::new("ldd").arg(program))?;
    let path =
        |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(Into::into);
    Ok(listed.lines().filter_map(path).collect())
}
