//! Which watch is which folder. A watch stays with its folder when that is moved, so paths are put together from
//! names on the way up.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, RandomState};

use crate::files::below::join;

/// What the kernel calls a watch.
pub type Watch = i32;

/// Longest way up. Below a root there is nothing deeper that can be opened; it ends a loop that should not be.
const MAX_DEPTH: usize = 4096;

/// The folders that are watched.
#[derive(Debug)]
pub struct Tree {
    root: Watch,
    folders: HashMap<Watch, Folder>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Folder {
    /// None for the root.
    parent: Option<Watch>,
    name: OsString,
    children: HashMap<OsString, Watch>,
    /// Hashes of all names in it: who takes the place of another by a rename has changed it, else it is new. Of a
    /// million files that is some megabytes. Two names with the same hash make one of them look changed, not new.
    known: HashSet<u32>,
}

impl Tree {
    #[must_use]
    pub fn new(root: Watch) -> Self {
        Self { root, folders: [(root, Folder::default())].into(), hasher: RandomState::new() }
    }

    #[must_use]
    pub const fn root(&self) -> Watch {
        self.root
    }

    /// How many there are, the root included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.folders.len()
    }

    #[must_use]
    pub fn has(&self, watch: Watch) -> bool {
        self.folders.contains_key(&watch)
    }

    /// Relative to the root.
    #[must_use]
    pub fn path(&self, watch: Watch) -> Option<Vec<u8>> {
        let (mut names, mut at) = (Vec::new(), self.folders.get(&watch)?);
        while let Some(parent) = at.parent {
            names.push(at.name.as_os_str());
            at = self.folders.get(&parent)?;
            if names.len() > MAX_DEPTH {
                return None;
            }
        }
        Some(names.iter().rev().fold(Vec::new(), |path, name| join(&path, name)))
    }

    #[must_use]
    pub fn child(&self, folder: Watch, name: &OsStr) -> Option<Watch> {
        self.folders.get(&folder)?.children.get(name).copied()
    }

    /// The folder that this one is in, and its name there; the root is in none.
    #[must_use]
    pub fn place(&self, watch: Watch) -> Option<(Watch, OsString)> {
        let folder = self.folders.get(&watch)?;
        Some((folder.parent?, folder.name.clone()))
    }

    /// Puts the folder `watch` at `name` in `parent`, wherever it was before. Returns the watches of what was at that
    /// place.
    pub fn put(&mut self, parent: Watch, name: &OsStr, watch: Watch) -> Vec<Watch> {
        if watch == self.root || self.child(parent, name) == Some(watch) {
            return Vec::new();
        }
        self.detach(watch);
        let displaced = self.remove(parent, name);
        let folder = self.folders.entry(watch).or_default();
        (folder.parent, folder.name) = (Some(parent), name.to_owned());
        if let Some(parent) = self.folders.get_mut(&parent) {
            parent.children.insert(name.to_owned(), watch);
        }
        displaced
    }

    /// Takes out the folder at `name` with all that is below; returns their watches.
    pub fn remove(&mut self, parent: Watch, name: &OsStr) -> Vec<Watch> {
        let Some(top) = self.child(parent, name) else { return Vec::new() };
        self.detach(top);
        let (mut removed, mut pending) = (Vec::new(), vec![top]);
        while let Some(watch) = pending.pop() {
            if let Some(folder) = self.folders.remove(&watch) {
                pending.extend(folder.children.into_values());
                removed.push(watch);
            }
        }
        removed
    }

    /// Notes that `name` is in `folder`; false if it was known.
    pub fn know(&mut self, folder: Watch, name: &OsStr) -> bool {
        let hash = self.hash(name);
        self.folders.get_mut(&folder).is_some_and(|folder| folder.known.insert(hash))
    }

    pub fn forget(&mut self, folder: Watch, name: &OsStr) {
        let hash = self.hash(name);
        if let Some(folder) = self.folders.get_mut(&folder) {
            folder.known.remove(&hash);
        }
    }

    fn hash(&self, name: &OsStr) -> u32 {
        // The lower half is as good as the whole.
        u32::try_from(self.hasher.hash_one(name) & u64::from(u32::MAX)).unwrap_or(0)
    }

    fn detach(&mut self, watch: Watch) {
        let Some(folder) = self.folders.get_mut(&watch) else { return };
        let (parent, name) = (folder.parent.take(), std::mem::take(&mut folder.name));
        if let Some(parent) = parent.and_then(|parent| self.folders.get_mut(&parent))
            && parent.children.get(&name) == Some(&watch)
        {
            parent.children.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(tree: &Tree, watch: Watch) -> Option<String> {
        tree.path(watch).map(|path| String::from_utf8(path).unwrap())
    }

    #[test]
    fn folders_move_with_what_is_below() {
        let mut tree = Tree::new(1);
        for (parent, name, watch) in [(1, "a", 2), (2, "b", 3), (3, "c", 4), (1, "x", 5)] {
            assert!(tree.put(parent, name.as_ref(), watch).is_empty());
        }
        assert_eq!((path(&tree, 1).as_deref(), path(&tree, 4).as_deref()), (Some(""), Some("a/b/c")));
        // Moved: a/b to x/y.
        tree.put(5, "y".as_ref(), 3);
        assert_eq!((path(&tree, 4).as_deref(), tree.child(2, "b".as_ref())), (Some("x/y/c"), None));
        // Moved over it: a to x/y.
        let mut displaced = tree.put(5, "y".as_ref(), 2);
        displaced.sort_unstable();
        assert_eq!((displaced, path(&tree, 2).as_deref()), (vec![3, 4], Some("x/y")));
        assert_eq!((path(&tree, 3), tree.count()), (None, 3));
        assert_eq!(tree.remove(1, "x".as_ref()).len(), 2);
        assert_eq!((tree.count(), tree.has(1)), (1, true));
    }

    #[test]
    fn names_are_known_once() {
        let mut tree = Tree::new(1);
        assert!(tree.know(1, "f".as_ref()) && !tree.know(1, "f".as_ref()) && tree.know(1, "g".as_ref()));
        tree.forget(1, "f".as_ref());
        assert!(tree.know(1, "f".as_ref()) && !tree.know(7, "f".as_ref()));
    }
}
