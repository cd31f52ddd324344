//! Paths as clients write them: below `/root/clawd`, wherever the workspace really lies.

use std::path::{Path, PathBuf};

use super::Refused;

/// What clients take for the workspace's place.
const ROOT: &str = "/root/clawd";

/// Below the root; what may not be deleted, besides the root itself.
const PROTECTED: [&str; 2] = ["SOUL.md", "AGENTS.md"];

/// A path that has passed, normalised: no repeated slashes, none at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Virtual(String);

impl Virtual {
    /// Checks a path, in the contract's order: first where it begins, then whether it climbs.
    pub(super) fn parse(text: &str) -> Result<Self, Refused> {
        let mut normal = String::with_capacity(text.len());
        for c in text.chars() {
            if c != '/' || !normal.ends_with('/') {
                normal.push(c);
            }
        }
        if normal.len() > 1 && normal.ends_with('/') {
            normal.pop();
        }
        let within = normal.strip_prefix(ROOT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if !within {
            return Err(Refused::bad("Path must be within workspace"));
        }
        if normal.split('/').any(|component| component == "..") {
            return Err(Refused::bad("Path traversal not allowed"));
        }
        Ok(Self(normal))
    }

    /// Where something of this name goes when it is deleted at this time.
    pub(super) fn in_trash(name: &str, millis: u64) -> Self {
        Self(format!("{ROOT}/.trash/{name}.{millis}"))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Below the root; empty for the root.
    fn relative(&self) -> &str {
        self.0.strip_prefix(ROOT).unwrap_or_default().trim_start_matches('/')
    }

    /// The file that is meant.
    pub(super) fn under(&self, root: &Path) -> PathBuf {
        match self.relative() {
            "" => root.to_owned(),
            relative => root.join(relative),
        }
    }

    /// The last component.
    pub(super) fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The directory that it is in; `None` for the root.
    pub(super) fn parent(&self) -> Option<&str> {
        let (parent, _) = self.0.rsplit_once('/')?;
        (!self.relative().is_empty()).then_some(parent)
    }

    /// The path of an entry of this directory.
    pub(super) fn child(&self, name: &str) -> String {
        format!("{}/{name}", self.0)
    }

    pub(super) fn is_protected(&self) -> bool {
        let relative = self.relative();
        relative.is_empty() || PROTECTED.contains(&relative)
    }
}

impl Default for Virtual {
    /// The root.
    fn default() -> Self {
        Self(ROOT.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_paths_pass_and_as_what() {
        let outside = Err("Path must be within workspace");
        let climbs = Err("Path traversal not allowed");
        for (text, expected) in [
            ("/root/clawd", Ok("/root/clawd")),
            ("/root/clawd/", Ok("/root/clawd")),
            ("//root///clawd//a//b/", Ok("/root/clawd/a/b")),
            ("/root/clawd/a..b", Ok("/root/clawd/a..b")),
            ("/etc/passwd", outside),
            ("/root/other", outside),
            ("/root/clawdX", outside),
            ("root/clawd", outside),
            ("/", outside),
            ("/root/.clawdbot/config.json", outside),
            ("/root/clawd/../.ssh/id_rsa", climbs),
            ("/root/clawd/../.clawdbot/config.json", climbs),
            ("/root/clawd/..", climbs),
        ] {
            let found = Virtual::parse(text).map_err(|refused| match refused {
                Refused::Plain(_, error) => error,
                Refused::TooLarge(_) | Refused::Body => "",
            });
            assert_eq!(found.as_ref().map(Virtual::as_str).map_err(|e| *e), expected, "{text}");
        }
    }

    #[test]
    fn where_paths_lead() {
        let root = Path::new("/w");
        for (text, real, name, parent, protected) in [
            ("/root/clawd", "/w", "clawd", None, true),
            ("/root/clawd/SOUL.md", "/w/SOUL.md", "SOUL.md", Some("/root/clawd"), true),
            ("/root/clawd/a/SOUL.md", "/w/a/SOUL.md", "SOUL.md", Some("/root/clawd/a"), false),
        ] {
            let path = Virtual::parse(text).unwrap();
            assert_eq!(
                (path.under(root).to_str().unwrap(), path.name(), path.parent(), path.is_protected()),
                (real, name, parent, protected),
                "{text}"
            );
        }
    }
}
