//! The machine's image without a container engine: `Dockerfile.fly`, executed into a folder.
//!
//! 1. The recipe is read; what it does not understand stops the build ([`recipe`]).
//! 2. Each stage that the last one needs is made in order: a copy of its base ([`base`]), then its steps in a
//!    chroot ([`chroot`]), then it is renamed into place under the hash of all that went into it. A stage whose
//!    hash is there already is not made again.
//! 3. Stages of earlier builds that no stage refers to any more are removed.
//!
//! Registries are reached as this machine reaches them: its package sources, name server and certificates are
//! mounted while a step runs, and are in no image.

pub mod base;
pub mod chroot;
pub mod machine;
pub mod recipe;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use ignore::WalkBuilder;
use sha2::{Digest as _, Sha256};

use self::base::{BaseImage, Kind};
use self::chroot::{Bind, Root};
use self::recipe::{Base, Recipe, Stage, Step};
use crate::tools::{self, Tools, hex, progress};

/// Changed whenever this module makes something else of the same recipe.
const FORMAT: &str = "2";

/// What of this machine's environment a step needs to reach the registries.
const NETWORK_VARIABLES: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];

/// What of this machine's files a step needs for the same, where they are.
const NETWORK_FILES: [&str; 3] = ["/etc/apt", "/etc/hosts", "/etc/resolv.conf"];

/// Certificates that this machine trusts. They appear beside those of the image, whose packages may change theirs.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where the certificates appear: `/run` is a file system of the step's own, so nothing of it stays.
const CERTIFICATES_INSIDE: &str = "/run/build/certificates.pem";

/// Who is told of them: OpenSSL and its relatives, Node, cargo.
const CERTIFICATE_VARIABLES: [&str; 3] = ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "CARGO_HTTP_CAINFO"];

/// What a container engine would keep beside the files.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Settings {
    pub env: Vec<(String, String)>,
    pub workdir: String,
    pub entrypoint: Vec<String>,
    pub ports: Vec<u16>,
    pub stop_signal: Option<String>,
    pub labels: Vec<(String, String)>,
}

/// A finished image.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Image {
    pub root: PathBuf,
    pub settings: Settings,
    #[serde(skip)]
    parts: Vec<Part>,
}

/// How much of an image is due to what.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Size {
    pub part: String,
    pub bytes: u64,
}

impl Image {
    /// The command that starts the image's entry point, as a machine does. `env` comes on top of the image's own;
    /// what is written beside the binds goes below `layer` ([`chroot::written`]), and the image stays as it is.
    #[must_use]
    pub fn start(&self, layer: &Path, binds: &[Bind], env: &[(String, String)]) -> Command {
        let mut all = self.settings.env.clone();
        for (name, value) in env {
            set(&mut all, name, value);
        }
        self.run(layer, binds, &all, &self.settings.entrypoint)
    }

    /// As [`Self::start`], for another program, with nothing but `env` in its environment.
    #[must_use]
    pub fn run<S: AsRef<OsStr>>(
        &self,
        layer: &Path,
        binds: &[Bind],
        env: &[(String, String)],
        program: &[S],
    ) -> Command {
        let root = Root::Layered { below: &self.root, layer };
        chroot::command(root, binds, env, &self.settings.workdir, program)
    }

    /// The bytes of the files that each part adds.
    ///
    /// # Errors
    /// A file cannot be looked at.
    pub fn sizes(&self) -> Result<Vec<Size>> {
        let mut below = 0;
        let mut sizes = Vec::new();
        for part in &self.parts {
            let all = bytes_below(&part.root)?;
            // A part may also remove something.
            sizes.push(Size { part: part.name.clone(), bytes: all.saturating_sub(below) });
            below = all;
        }
        Ok(sizes)
    }
}

/// Builds the image that `Dockerfile.fly` describes, and says on standard error what it does.
///
/// # Errors
/// The step that failed, with the end of what it printed.
pub fn build(tools: &Tools) -> Result<Image> {
    must_be_root()?;
    let recipe = recipe(tools)?;
    let store = Store::open(tools.dir().join("image"))?;
    let _one_at_a_time = store.lock()?;
    let builder = Builder { tools, store: &store };

    let mut made: Vec<Made> = Vec::new();
    for (index, stage) in recipe.stages.iter().enumerate() {
        let title = stage.name.clone().unwrap_or_else(|| "image".to_owned());
        let number = index.saturating_add(1);
        progress(&format!("stage {number} of {}: {title}", recipe.stages.len()));
        made.push(builder.stage(stage, &made).with_context(|| format!("stage {title}"))?);
    }
    let last = made.last().context("the recipe has no stage")?;
    let image = Image { root: last.root.clone(), settings: last.settings.clone(), parts: last.parts.clone() };
    store.sweep(&made.iter().flat_map(|made| made.trees.iter().cloned()).collect())?;
    Ok(image)
}

/// What `Dockerfile.fly` says.
///
/// # Errors
/// It cannot be read, or holds what is not known.
pub fn recipe(tools: &Tools) -> Result<Recipe> {
    let path = tools.repository().join("Dockerfile.fly");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Recipe::parse(&text).with_context(|| format!("in {}", path.display()))
}

/// Whether this process can make and start images.
///
/// # Errors
/// One sentence: it is not root.
pub fn must_be_root() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "The image is made and started with chroot and mounts, for which this command must be run as root."
    );
    Ok(())
}

/// A stage that is there.
struct Made {
    key: String,
    root: PathBuf,
    settings: Settings,
    base: BaseImage,
    /// The trees that it consists of, for the sweep.
    trees: Vec<String>,
    /// What it was made of, the base first and itself last: each is a copy of the one before it, and more.
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
struct Part {
    name: String,
    root: PathBuf,
}

struct Builder<'a> {
    tools: &'a Tools,
    store: &'a Store,
}

impl Builder<'_> {
    fn stage(&self, stage: &Stage, earlier: &[Made]) -> Result<Made> {
        let mut parts = Vec::new();
        let (base, base_key, mut settings, mut trees) = match &stage.base {
            Base::Stage(index) => {
                let made = earlier.get(*index).context("a stage refers to a later one")?;
                parts.clone_from(&made.parts);
                (made.base.clone(), made.key.clone(), made.settings.clone(), Vec::new())
            }
            Base::Image(name) => {
                let base = BaseImage::named(name, self.tools)?;
                let settings = Settings { env: base.env(), workdir: "/".to_owned(), ..Settings::default() };
                let (debian, key) = self.base(name, &base, &settings)?;
                parts.push(Part { name: name.clone(), root: self.store.path(&key) });
                (base, key.clone(), settings, vec![debian, key])
            }
        };
        let mut inputs = format!("{base_key}\n");
        for step in &stage.steps {
            inputs.push_str(&format!("{step:?}\n"));
            if let Step::Copy { from, sources, .. } = step {
                match from {
                    Some(index) => inputs.push_str(&earlier.get(*index).context("no such stage")?.key),
                    None => inputs.push_str(&self.fingerprint(sources)?),
                }
            }
        }
        let key = self.store.tree(&inputs, |root| {
            let from = self.store.path(&base_key);
            copy_tree(&from, root)?;
            let mut settings = settings.clone();
            for step in &stage.steps {
                self.perform(step, root, &base, &settings, earlier)?;
                apply(step, &mut settings);
            }
            Ok(())
        })?;
        stage.steps.iter().for_each(|step| apply(step, &mut settings));
        trees.push(key.clone());
        let root = self.store.path(&key);
        parts.push(Part {
            name: stage.name.clone().unwrap_or_else(|| "image".to_owned()),
            root: root.clone(),
        });
        Ok(Made { root, key, settings, base, trees, parts })
    }

    /// The keys of Debian's tree and of the base's own, which are the same for Debian itself.
    fn base(&self, name: &str, base: &BaseImage, settings: &Settings) -> Result<(String, String)> {
        let debian = self.store.tree("base debian", |root| {
            progress("  making a Debian");
            base::make_debian(root)
        })?;
        if base.kind == Kind::Debian {
            return Ok((debian.clone(), debian));
        }
        let key = self.store.tree(&format!("base {base:?}\n{debian}"), |root| {
            progress(&format!("  making {name} from Debian"));
            copy_tree(&self.store.path(&debian), root)?;
            if let Some(command) = base.packages() {
                self.run(command, &[], root, base, settings)?;
            }
            base.add_files(self.tools, root)
        })?;
        Ok((debian, key))
    }

    fn perform(
        &self,
        step: &Step,
        root: &Path,
        base: &BaseImage,
        settings: &Settings,
        earlier: &[Made],
    ) -> Result<()> {
        match step {
            Step::Run { command, caches } => {
                let started = Instant::now();
                progress(&format!("  RUN {}", shortened(command)));
                self.run(command, caches, root, base, settings)?;
                progress(&format!("  … took {} s", started.elapsed().as_secs()));
            }
            Step::Copy { from, sources, to } => {
                let to = inside(root, &settings.workdir, to)?;
                for source in sources {
                    match from {
                        Some(index) => copy_tree(
                            &inside(&earlier.get(*index).context("no such stage")?.root, "/", source)?,
                            &to,
                        )?,
                        None => self.copy_from_repository(source, &to)?,
                    }
                }
            }
            Step::Workdir(path) => fs::create_dir_all(inside(root, "/", path)?)?,
            Step::Env { .. }
            | Step::Entrypoint(_)
            | Step::Expose(_)
            | Step::StopSignal(_)
            | Step::Label { .. } => {}
        }
        Ok(())
    }

    /// Runs a command line inside, with this machine's way to the registries.
    fn run(
        &self,
        command: &str,
        caches: &[String],
        root: &Path,
        base: &BaseImage,
        settings: &Settings,
    ) -> Result<()> {
        let mut binds = base.binds()?;
        let files = NETWORK_FILES.iter().filter(|file| Path::new(file).exists());
        binds.extend(files.map(|file| Bind::read_only(file, file)));
        for target in caches {
            binds.push(Bind::writable(self.store.cache(target)?, target));
        }
        let mut env = settings.env.clone();
        if Path::new(CERTIFICATES).exists() {
            binds.push(Bind::read_only(CERTIFICATES, CERTIFICATES_INSIDE));
            CERTIFICATE_VARIABLES.iter().for_each(|name| set(&mut env, name, CERTIFICATES_INSIDE));
        }
        for name in NETWORK_VARIABLES {
            if let Some(value) = variable(name) {
                set(&mut env, name, &value);
            }
        }
        let shell = ["/bin/sh", "-c", command];
        tools::run(&mut chroot::command(Root::Itself(root), &binds, &env, &settings.workdir, &shell))
    }

    /// Files of the repository below `source` that `.dockerignore` leaves in, in a fixed order.
    fn files(&self, source: &str) -> Result<Vec<PathBuf>> {
        let top = self.tools.repository().join(source);
        ensure!(top.exists(), "COPY {source}: there is no such file");
        let mut walk = WalkBuilder::new(&top);
        walk.standard_filters(false).sort_by_file_name(Ord::cmp);
        let mut matcher = ignore::gitignore::GitignoreBuilder::new(self.tools.repository());
        if let Some(error) = matcher.add(self.tools.repository().join(".dockerignore")) {
            bail!(".dockerignore: {error}");
        }
        let matcher = matcher.build()?;
        walk.filter_entry(move |entry| {
            let folder = entry.file_type().is_some_and(|kind| kind.is_dir());
            !matcher.matched(entry.path(), folder).is_ignore()
        });
        let mut files = Vec::new();
        for entry in walk.build() {
            let entry = entry?;
            if !entry.file_type().is_some_and(|kind| kind.is_dir()) {
                files.push(entry.into_path());
            }
        }
        Ok(files)
    }

    fn fingerprint(&self, sources: &[String]) -> Result<String> {
        let mut hash = Sha256::new();
        for source in sources {
            for file in self.files(source)? {
                hash.update(file.strip_prefix(self.tools.repository())?.as_os_str().as_encoded_bytes());
                hash.update([0]);
                hash.update(Sha256::digest(
                    fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?,
                ));
            }
        }
        Ok(hex(&hash.finalize()))
    }

    /// As COPY does: a folder's contents go into `to`; a file goes to `to`, or into it if that is a folder or was
    /// written with a slash at its end.
    fn copy_from_repository(&self, source: &str, to: &Path) -> Result<()> {
        let top = self.tools.repository().join(source);
        for file in self.files(source)? {
            let target = match file.strip_prefix(&top) {
                Ok(rest) if !rest.as_os_str().is_empty() => to.join(rest),
                _ => file_target(&file, to)?,
            };
            if let Some(folder) = target.parent() {
                fs::create_dir_all(folder)?;
            }
            copy_file(&file, &target).with_context(|| format!("cannot copy {}", file.display()))?;
        }
        Ok(())
    }
}

/// The lengths of all files, without what folders and links take.
fn bytes_below(root: &Path) -> Result<u64> {
    let mut bytes = 0_u64;
    for entry in WalkBuilder::new(root).standard_filters(false).build() {
        let meta = entry?.metadata()?;
        if meta.is_file() {
            bytes = bytes.saturating_add(meta.len());
        }
    }
    Ok(bytes)
}

fn file_target(file: &Path, to: &Path) -> Result<PathBuf> {
    let into = to.is_dir() || to.as_os_str().as_encoded_bytes().ends_with(b"/");
    Ok(if into { to.join(file.file_name().context("a file without a name")?) } else { to.to_owned() })
}

/// Contents, mode and time: cargo builds again what is newer than its result.
fn copy_file(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::copy(from, to)?;
    fs::File::options().append(true).open(to)?.set_modified(fs::metadata(from)?.modified()?)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    copy.args(["-a", "--reflink=auto"]);
    if from.is_dir() {
        fs::create_dir_all(to)?;
        copy.arg("-T").arg(from).arg(to);
    } else {
        let target = file_target(from, to)?;
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        copy.arg(from).arg(target);
    }
    tools::run(&mut copy)
}

/// A path of the recipe as a path of this machine. Keeps a slash at the end.
fn inside(root: &Path, workdir: &str, path: &str) -> Result<PathBuf> {
    let path = Path::new(workdir).join(path);
    let mut all = root.to_owned();
    for component in path.components() {
        match component {
            Component::Normal(name) => all.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => bail!("{} leads upwards", path.display()),
        }
    }
    if path.as_os_str().as_encoded_bytes().ends_with(b"/")
        || path.as_os_str().as_encoded_bytes().ends_with(b"/.")
    {
        all.push("");
    }
    Ok(all)
}

fn apply(step: &Step, settings: &mut Settings) {
    match step {
        Step::Run { .. } | Step::Copy { .. } => {}
        Step::Env { name, value } => set(&mut settings.env, name, value),
        Step::Workdir(path) => settings.workdir.clone_from(path),
        Step::Entrypoint(words) => settings.entrypoint.clone_from(words),
        Step::Expose(port) => settings.ports.push(*port),
        Step::StopSignal(signal) => settings.stop_signal = Some(signal.clone()),
        Step::Label { name, value } => set(&mut settings.labels, name, value),
    }
}

fn set(pairs: &mut Vec<(String, String)>, name: &str, value: &str) {
    pairs.retain(|(known, _)| known != name);
    pairs.push((name.to_owned(), value.to_owned()));
}

fn shortened(command: &str) -> String {
    const SHOWN: usize = 90;
    if command.chars().count() <= SHOWN {
        command.to_owned()
    } else {
        format!("{}…", command.chars().take(SHOWN).collect::<String>())
    }
}

#[expect(clippy::disallowed_methods, reason = "not a setting: steps reach the network as this machine does")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Trees of files by what went into them, and caches that outlive builds.
struct Store {
    dir: PathBuf,
}

impl Store {
    fn open(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(dir.join("trees"))?;
        fs::create_dir_all(dir.join("caches"))?;
        Ok(Self { dir })
    }

    fn lock(&self) -> Result<fs::File> {
        let lock = fs::File::create(self.dir.join("lock"))?;
        lock.lock().context("cannot lock the image store")?;
        Ok(lock)
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join("trees").join(key)
    }

    /// The key of the tree that `inputs` make. It is made if it is not there.
    fn tree(&self, inputs: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<String> {
        let mut key = hex(&Sha256::digest(format!("{FORMAT}\n{inputs}")));
        key.truncate(24);
        let path = self.path(&key);
        if !path.exists() {
            let unfinished = self.dir.join("unfinished");
            remove_tree(&unfinished)?;
            // Inside of another folder, whose mode keeps others out of a half-made system.
            fs::DirBuilder::new().mode(0o700).create(&unfinished)?;
            let tree = unfinished.join("tree");
            make(&tree)?;
            fs::rename(&tree, &path).with_context(|| format!("cannot rename to {}", path.display()))?;
            remove_tree(&unfinished)?;
        }
        Ok(key)
    }

    fn cache(&self, target: &str) -> Result<PathBuf> {
        let path = self.dir.join("caches").join(target.trim_matches('/').replace('/', "-"));
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    fn sweep(&self, used: &BTreeSet<String>) -> Result<()> {
        for entry in fs::read_dir(self.dir.join("trees"))? {
            let entry = entry?;
            if !used.contains(entry.file_name().to_string_lossy().as_ref()) {
                remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        let root = Path::new("/r");
        assert_eq!(inside(root, "/src", "a/b").unwrap(), Path::new("/r/src/a/b"));
        assert_eq!(inside(root, "/src", "/a").unwrap(), Path::new("/r/a"));
        assert!(inside(root, "/src", "./").unwrap().as_os_str().as_encoded_bytes().ends_with(b"/"));
        assert!(inside(root, "/src", "../../etc").is_err());
    }

    #[test]
    fn a_later_setting_replaces_an_earlier_one() {
        let mut settings = Settings::default();
        for value in ["1", "2"] {
            apply(&Step::Env { name: "A".into(), value: value.into() }, &mut settings);
        }
        assert_eq!(settings.env, [("A".to_owned(), "2".to_owned())]);
    }

    #[test]
    fn a_tree_is_made_once_and_a_failed_one_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().to_owned()).unwrap();
        assert!(
            store
                .tree("x", |root| {
                    fs::create_dir(root)?;
                    bail!("no")
                })
                .is_err()
        );
        let key = store.tree("x", |root| Ok(fs::create_dir(root)?)).unwrap();
        assert_eq!(store.tree("x", |_| bail!("made twice")).unwrap(), key);
        store.sweep(&BTreeSet::new()).unwrap();
        assert!(!store.path(&key).exists());
    }
}
