//! Running a command inside a tree of files, as a container engine would during a build or at start.
//!
//! Mounts are made in a mount namespace of the command's own: they are gone when it ends, however it ends.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file or folder of this machine that is visible inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    pub source: PathBuf,
    /// Absolute, as seen from inside. Made if it is missing.
    pub target: PathBuf,
    pub writable: bool,
}

impl Bind {
    #[must_use]
    pub fn read_only(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { source: source.into(), target: target.into(), writable: false }
    }

    #[must_use]
    pub fn writable(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { source: source.into(), target: target.into(), writable: true }
    }
}

/// The tree of files that is the command's root.
#[derive(Debug, Clone, Copy)]
pub enum Root<'a> {
    /// This one, which the command changes.
    Itself(&'a Path),
    /// `below` as it is; what the command writes is kept in the folder `layer`, which is made if it is missing.
    Layered { below: &'a Path, layer: &'a Path },
}

/// Where a layer keeps the files that were written.
#[must_use]
pub fn written(layer: &Path) -> PathBuf {
    layer.join("written")
}

/// The first two arguments are the tree and the layer over it, or nothing. Then it mounts what follows `--` in threes (source, target, `ro` or `rw`), up to the next `--`; the rest is the command.
/// `/proc` is that of this machine: a namespace of processes would hide the command from who supervises it.
const SCRIPT: &str = r#"
root=$1 layer=$2; shift 2
mount --make-rprivate /
if [ -n "$layer" ]; then
  mkdir -p "$layer/written" "$layer/work" "$layer/root"
  mount -t overlay overlay -o "lowerdir=$root,upperdir=$layer/written,workdir=$layer/work" "$layer/root"
  root=$layer/root
fi
mount --rbind --make-rslave /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$(dirname "$root$2")"; [ -e "$root$2" ] || : > "$root$2"; fi
  mount --bind "$1" "$root$2"
  [ "$3" = rw ] || mount -o remount,ro,bind "$root$2"
  shift 3
done
shift
exec chroot "$root" "$@"
"#;

/// The command that runs `program` inside of `root`, in `workdir`, with nothing but `env` in its environment.
///
/// Its process id is that of `program` itself: every program on the way replaces itself by the next.
#[must_use]
pub fn command<S: AsRef<OsStr>>(
    root: Root<'_>,
    binds: &[Bind],
    env: &[(String, String)],
    workdir: &str,
    program: &[S],
) -> Command {
    let mut command = Command::new("unshare");
    let (below, layer) = match root {
        Root::Itself(below) => (below, Path::new("")),
        Root::Layered { below, layer } => (below, layer),
    };
    command.args(["--mount", "--", "sh", "-euc", SCRIPT, "sh"]).arg(below).arg(layer);
    for bind in binds {
        command.arg(&bind.source).arg(&bind.target).arg(if bind.writable { "rw" } else { "ro" });
    }
    command.args(["--", "/usr/bin/env", "--ignore-environment"]);
    command.arg(format!("--chdir={workdir}"));
    command.args(env.iter().map(|(name, value)| OsString::from(format!("{name}={value}"))));
    command.args(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_what_is_given_reaches_the_command() {
        let command = command(
            Root::Layered { below: Path::new("/root-of-it"), layer: Path::new("/layer") },
            &[Bind::read_only("/a", "/b"), Bind::writable("/c", "/d")],
            &[("A".into(), "1".into())],
            "/work",
            &["/bin/sh", "-c", "true"],
        );
        let arguments: Vec<_> = command.get_args().skip(6).map(|arg| arg.to_string_lossy()).collect();
        assert_eq!(
            arguments.join(" "),
            "/root-of-it /layer /a /b ro /c /d rw -- /usr/bin/env --ignore-environment --chdir=/work A=1 /bin/sh -c true"
        );
    }
}
