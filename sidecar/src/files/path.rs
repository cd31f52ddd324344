//! Paths as clients write them, parsed once. Nothing below takes a path in another form.

use std::fmt;

use serde::{Serialize, Serializer};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// What clients call the workspace, wherever it really is.
pub const VIRTUAL_ROOT: &str = "/root/clawd";

/// Longest name of one component: what Linux file systems can hold.
pub const MAX_SEGMENT_BYTES: usize = 255;

/// Longest path, the virtual root included: the kernel's own limit.
pub const MAX_PATH_BYTES: usize = 4096;

/// Names that begin like this are the sidecar's own: temporary files and the index of the trash. No client can
/// name them, and no listing shows them.
pub const RESERVED_PREFIX: &str = ".automna-";

/// The folder, right below the root, that deleted things are moved to.
pub const TRASH_DIR: &str = ".trash";

/// What the agent cannot do without; right below the root only.
const PROTECTED: [&str; 3] = ["SOUL.md", "AGENTS.md", TRASH_DIR];

/// A path inside the workspace: no empty, `.` or `..` component, no NUL, nothing too long. It says nothing about
/// what is there, and it is no promise about symbolic links: [`super::root::Root`] sees to those.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkspacePath {
    /// Components with `/` between them; empty for the root itself.
    relative: String,
}

/// Why a text is no path of the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("Path must be within workspace")]
    Outside,
    #[error("Path traversal not allowed")]
    Traversal,
    #[error("Path must not contain . components")]
    Dot,
    #[error("Path must not contain NUL")]
    Nul,
    #[error("Path is too long")]
    TooLong,
    #[error("File name is too long")]
    SegmentTooLong,
    #[error("File name is reserved")]
    Reserved,
}

impl WorkspacePath {
    /// Parses a decoded path, as in `/root/clawd/notes/a.md`. Runs of `/` count as one, and one at the end does
    /// not count. Names are kept as they are: no case folding, no Unicode normalisation.
    ///
    /// # Errors
    /// In this order: too long, NUL, not below the root, a `..` component, a `.` component, a name that is too
    /// long or ours.
    pub fn parse(raw: &str) -> Result<Self, PathError> {
        if raw.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        if raw.contains('\0') {
            return Err(PathError::Nul);
        }
        let absolute = raw.strip_prefix('/').ok_or(PathError::Outside)?;
        let mut components = absolute.split('/').filter(|component| !component.is_empty());
        if VIRTUAL_ROOT.split('/').skip(1).any(|expected| components.next() != Some(expected)) {
            return Err(PathError::Outside);
        }
        let components: Vec<&str> = components.collect();
        if components.contains(&"..") {
            return Err(PathError::Traversal);
        }
        if components.contains(&".") {
            return Err(PathError::Dot);
        }
        if components.iter().any(|component| component.len() > MAX_SEGMENT_BYTES) {
            return Err(PathError::SegmentTooLong);
        }
        if components.iter().any(|component| component.starts_with(RESERVED_PREFIX)) {
            return Err(PathError::Reserved);
        }
        Ok(Self { relative: components.join("/") })
    }

    /// The workspace itself.
    #[must_use]
    pub const fn root() -> Self {
        Self { relative: String::new() }
    }

    #[must_use]
    pub fn is_root(&self) -> bool {
        self.relative.is_empty()
    }

    /// Relative to the root, without a leading `/`; empty for the root.
    #[must_use]
    pub fn relative(&self) -> &str {
        &self.relative
    }

    /// The last component; the root has none.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.relative.rsplit('/').next().filter(|name| !name.is_empty())
    }

    /// The folder that holds it; the root has none.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let relative = self.relative.rsplit_once('/').map_or("", |(parent, _)| parent);
        Some(Self { relative: relative.to_owned() })
    }

    /// The path of `name` inside this folder.
    ///
    /// # Errors
    /// `name` is no plain name, or the result is too long.
    pub fn join(&self, name: &str) -> Result<Self, PathError> {
        if name.contains('/') || name.is_empty() {
            return Err(PathError::Traversal);
        }
        Self::parse(&format!("{self}/{name}"))
    }

    /// Whether this is `other` or lies below it, by name.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        other.is_root()
            || self
                .relative
                .strip_prefix(&other.relative)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.relative.split('/').filter(|component| !component.is_empty())
    }
}

/// Whether a name right below the root can be deleted, moved away, or become a folder.
#[must_use]
pub fn is_protected_name(name: &str) -> bool {
    PROTECTED.contains(&name)
}

impl fmt::Display for WorkspacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(VIRTUAL_ROOT)?;
        if self.is_root() { Ok(()) } else { write!(f, "/{}", self.relative) }
    }
}

impl Serialize for WorkspacePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl PartialSchema for WorkspacePath {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(
                "An absolute path in the workspace: at most 4,096 bytes, each name at most 255.",
            ))
            .pattern(Some("^/+root/+clawd(/|$)"))
            .into()
    }
}

impl ToSchema for WorkspacePath {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses() {
        let long = "x".repeat(256);
        let just = "x".repeat(255);
        let deep = "/y".repeat(2043);
        let rows: &[(&str, Result<&str, PathError>)] = &[
            // The contract's fixed cases.
            ("/root/clawd", Ok("/root/clawd")),
            ("//root//clawd//a", Ok("/root/clawd/a")),
            ("/root/clawd/a/", Ok("/root/clawd/a")),
            ("/etc/passwd", Err(PathError::Outside)),
            ("/root/other", Err(PathError::Outside)),
            ("/root/clawd/../.ssh/id_rsa", Err(PathError::Traversal)),
            ("/root/.clawdbot/config.json", Err(PathError::Outside)),
            ("/root/clawd/../.clawdbot/config.json", Err(PathError::Traversal)),
            // Its quirks, fixed.
            ("/root/clawdX", Err(PathError::Outside)),
            ("/root/clawd/a..b", Ok("/root/clawd/a..b")),
            ("/root/clawd/..a", Ok("/root/clawd/..a")),
            ("/root/clawd/...", Ok("/root/clawd/...")),
            // The bad half.
            ("", Err(PathError::Outside)),
            ("/", Err(PathError::Outside)),
            ("root/clawd/a", Err(PathError::Outside)),
            ("a.md", Err(PathError::Outside)),
            ("/ROOT/clawd", Err(PathError::Outside)),
            ("/root/../root/clawd", Err(PathError::Outside)),
            ("/root/./clawd", Err(PathError::Outside)),
            ("/root/clawd/..", Err(PathError::Traversal)),
            ("/root/clawd/a/../b", Err(PathError::Traversal)),
            ("/root/clawd/./a", Err(PathError::Dot)),
            ("/root/clawd/.", Err(PathError::Dot)),
            ("/root/clawd/a\0b", Err(PathError::Nul)),
            ("/root/clawd/.automna-tmp-x", Err(PathError::Reserved)),
            ("/root/clawd/a/.automna-x/b", Err(PathError::Reserved)),
            // Names that only look odd.
            ("/root/clawd/%2e%2e/a", Ok("/root/clawd/%2e%2e/a")),
            ("/root/clawd/a\\..\\b", Ok("/root/clawd/a\\..\\b")),
            ("/root/clawd/a\nb|\"$(x)`", Ok("/root/clawd/a\nb|\"$(x)`")),
            ("/root/clawd/e\u{301}", Ok("/root/clawd/e\u{301}")),
        ];
        for (raw, expect) in rows {
            let parsed = WorkspacePath::parse(raw);
            assert_eq!(parsed.map(|path| path.to_string()), expect.map(str::to_owned), "{raw:?}");
        }
        assert!(WorkspacePath::parse(&format!("/root/clawd/{just}")).is_ok());
        assert_eq!(WorkspacePath::parse(&format!("/root/clawd/{long}")), Err(PathError::SegmentTooLong));
        assert_eq!(WorkspacePath::parse(&format!("/root/clawd{deep}")), Err(PathError::TooLong));
    }

    #[test]
    fn families() {
        let path = |text: &str| WorkspacePath::parse(text).unwrap();
        let (a, ab) = (path("/root/clawd/a"), path("/root/clawd/a/b"));
        assert_eq!(ab.parent(), Some(a.clone()));
        assert_eq!(a.parent(), Some(WorkspacePath::root()));
        assert_eq!(WorkspacePath::root().parent(), None);
        assert_eq!((ab.name(), WorkspacePath::root().name()), (Some("b"), None));
        assert_eq!(a.join("b"), Ok(ab.clone()));
        assert!(ab.is_within(&a) && ab.is_within(&ab) && !a.is_within(&ab));
        assert!(!path("/root/clawd/ab").is_within(&a));
        for bad in ["", "..", ".", "a/b", "\0"] {
            assert!(a.join(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_stays_inside_and_reads_back(
            raw in "(/root/clawd)?(/|[a-z.]|\\.\\.|%2e|\\\\|\u{e9}|\0|\\PC){0,40}"
        ) {
            if let Ok(path) = WorkspacePath::parse(&raw) {
                let text = path.to_string();
                prop_assert!(text == VIRTUAL_ROOT || text.starts_with("/root/clawd/"));
                prop_assert!(!text.contains('\0') && !text.contains("//"));
                prop_assert!(path.components().all(|c| c != ".." && c != "." && c.len() <= MAX_SEGMENT_BYTES));
                prop_assert_eq!(WorkspacePath::parse(&text), Ok(path));
            }
        }

        #[test]
        fn a_dot_dot_component_never_parses(before in "[a-z/]{0,8}", after in "(/[a-z.]{0,8})?") {
            let raw = format!("/root/clawd/{before}/..{after}");
            prop_assert!(WorkspacePath::parse(&raw).is_err());
        }
    }
}
