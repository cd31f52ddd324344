//! What happened, and how a burst becomes as few changes as say the same.

use std::collections::HashMap;

/// A change below the root. Paths are bytes as the disk has them, relative to the root. One of a folder that is
/// deleted or moved stands for everything in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change {
    Created {
        path: Vec<u8>,
        is_dir: bool,
    },
    /// The content of a file, or which file has the name.
    Modified {
        path: Vec<u8>,
    },
    Deleted {
        path: Vec<u8>,
        is_dir: bool,
    },
    /// What had the name `to` before is gone. Who has not seen `from` knows that there is something at `to` now.
    Moved {
        from: Vec<u8>,
        to: Vec<u8>,
        is_dir: bool,
    },
}

/// Changes of a short time, in order; of one path as few as say the same. Changes are merged only between two that give
/// many paths another meaning: moves, and folders that go.
#[derive(Debug, Default)]
pub struct Batch {
    changes: Vec<Option<Change>>,
    /// Where the last change of a path stands.
    last: HashMap<Vec<u8>, usize>,
}

impl Batch {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Upper bound.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    pub fn created(&mut self, path: Vec<u8>, is_dir: bool) {
        match self.last(&path) {
            Some(Change::Created { .. } | Change::Modified { .. }) => {}
            Some(Change::Deleted { is_dir: false, .. }) if !is_dir => {
                let modified = Change::Modified { path: path.clone() };
                self.replace_last(&path, modified);
            }
            Some(Change::Deleted { .. } | Change::Moved { .. }) | None => {
                self.push(path.clone(), Change::Created { path, is_dir });
            }
        }
    }

    pub fn modified(&mut self, path: Vec<u8>) {
        match self.last(&path) {
            Some(Change::Created { .. } | Change::Modified { .. }) => {}
            Some(Change::Deleted { .. } | Change::Moved { .. }) | None => {
                self.push(path.clone(), Change::Modified { path });
            }
        }
    }

    pub fn deleted(&mut self, path: Vec<u8>, is_dir: bool) {
        if is_dir {
            // As a move, it is about many paths.
            self.changes.push(Some(Change::Deleted { path, is_dir }));
            return self.last.clear();
        }
        match self.last(&path) {
            Some(Change::Deleted { .. }) => {}
            // Nobody has seen it.
            Some(Change::Created { is_dir: false, .. }) => self.remove_last(&path),
            Some(Change::Modified { .. }) => {
                self.remove_last(&path);
                self.push(path.clone(), Change::Deleted { path, is_dir });
            }
            Some(Change::Created { .. } | Change::Moved { .. }) | None => {
                self.push(path.clone(), Change::Deleted { path, is_dir });
            }
        }
    }

    /// `replaced`: something had the name `to` before.
    pub fn moved(&mut self, from: Vec<u8>, to: Vec<u8>, is_dir: bool, replaced: bool) {
        if !is_dir && matches!(self.last(&from), Some(Change::Created { .. })) {
            // As editors save: the first name was never seen.
            self.remove_last(&from);
            return if replaced { self.modified(to) } else { self.created(to, false) };
        }
        self.changes.push(Some(Change::Moved { from, to, is_dir }));
        self.last.clear();
    }

    /// Whether there is nothing but modifications, all of paths in `known`.
    #[must_use]
    pub fn only_modifies(&self, known: &std::collections::HashSet<Vec<u8>>) -> bool {
        self.changes.iter().flatten().all(|change| match change {
            Change::Modified { path } => known.contains(path),
            Change::Created { .. } | Change::Deleted { .. } | Change::Moved { .. } => false,
        })
    }

    /// All of them; the batch is empty then.
    pub fn take(&mut self) -> Vec<Change> {
        self.last.clear();
        std::mem::take(&mut self.changes).into_iter().flatten().collect()
    }

    fn last(&self, path: &[u8]) -> Option<&Change> {
        self.changes.get(*self.last.get(path)?)?.as_ref()
    }

    fn push(&mut self, path: Vec<u8>, change: Change) {
        self.last.insert(path, self.changes.len());
        self.changes.push(Some(change));
    }

    fn replace_last(&mut self, path: &[u8], change: Change) {
        if let Some(slot) = self.last.get(path).and_then(|at| self.changes.get_mut(*at)) {
            *slot = Some(change);
        }
    }

    fn remove_last(&mut self, path: &[u8]) {
        if let Some(slot) = self.last.remove(path).and_then(|at| self.changes.get_mut(at)) {
            *slot = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// `+f` a file, `+d/` a folder, `~f` modified, `-f`, `-d/`, `f>g` moved, `f>>g` moved over what was there.
    fn merged(events: &str) -> String {
        let mut batch = Batch::default();
        for event in events.split_whitespace() {
            let (path, is_dir) = match event[1..].strip_suffix('/') {
                Some(path) => (path.into(), true),
                None => (event[1..].into(), false),
            };
            match event.as_bytes()[0] {
                b'+' => batch.created(path, is_dir),
                b'~' => batch.modified(path),
                b'-' => batch.deleted(path, is_dir),
                _ => {
                    let (from, to) = event.trim_end_matches('/').split_once('>').unwrap();
                    let over = to.starts_with('>');
                    let to = to.trim_start_matches('>');
                    batch.moved(from.into(), to.into(), event.ends_with('/'), over);
                }
            }
        }
        let text = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
        let slash = |is_dir| if is_dir { "/" } else { "" };
        let shown = batch.take().into_iter().map(|change| match change {
            Change::Created { path, is_dir } => format!("+{}{}", text(&path), slash(is_dir)),
            Change::Modified { path } => format!("~{}", text(&path)),
            Change::Deleted { path, is_dir } => format!("-{}{}", text(&path), slash(is_dir)),
            Change::Moved { from, to, is_dir } => format!("{}>{}{}", text(&from), text(&to), slash(is_dir)),
        });
        assert!(batch.is_empty());
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn rows() {
        let rows = [
            ("+f ~f ~f", "+f"),
            ("~f ~f ~g ~f", "~f ~g"),
            ("+f -f", ""),
            ("~f -f", "-f"),
            ("-f +f", "~f"),
            ("-f +f -f", "-f"),
            ("-f +f/", "-f +f/"),
            ("-f +f/ -f/ +f", "-f +f/ -f/ +f"),
            ("+d/ +d/f -d/ +d/ +d/f", "+d/ +d/f -d/ +d/ +d/f"),
            ("-d/ +d/", "-d/ +d/"),
            ("+d/ +d/f -d/f -d/", "+d/ -d/"),
            // As editors save.
            ("+t ~t t>f", "+f"),
            ("+t ~t t>>f", "~f"),
            ("f>b +f ~f", "f>b +f"),
            ("~f f>g ~g", "~f f>g ~g"),
            ("+f f>g -g", ""),
            ("+d/ +d/f d>e/ ~e/f", "+d/ +d/f d>e/ ~e/f"),
            ("~f g>h ~f", "~f g>h ~f"),
        ];
        for (events, expect) in rows {
            assert_eq!(merged(events), expect, "{events}");
        }
    }

    proptest! {
        /// Whoever follows the merged changes has the same files at the end, and knows of each whether it changed.
        #[test]
        fn merging_loses_nothing(steps in proptest::collection::vec((0..4_u8, 0..4_usize, 0..4_usize), 0..40)) {
            let names = ["a", "b", "c", "d"].map(|name| name.as_bytes().to_vec());
            // By name, a version of the content.
            let start: BTreeMap<Vec<u8>, u32> = [(names[0].clone(), 0), (names[1].clone(), 0)].into();
            let (mut disk, mut batch, mut version) = (start.clone(), Batch::default(), 0);
            for (what, one, two) in steps {
                let (one, two) = (&names[one], &names[two]);
                version += 1;
                match (what, disk.contains_key(one)) {
                    (0, false) => { disk.insert(one.clone(), version); batch.created(one.clone(), false); }
                    (1, true) => { disk.insert(one.clone(), version); batch.modified(one.clone()); }
                    (2, true) => { disk.remove(one); batch.deleted(one.clone(), false); }
                    (3, true) if one != two => {
                        let content = disk.remove(one).unwrap();
                        let replaced = disk.insert(two.clone(), content).is_some();
                        batch.moved(one.clone(), two.clone(), false, replaced);
                    }
                    _ => {}
                }
            }
            let mut seen = start;
            let unknown = u32::MAX;
            for change in batch.take() {
                match change {
                    Change::Created { path, .. } | Change::Modified { path } => drop(seen.insert(path, unknown)),
                    Change::Deleted { path, .. } => drop(seen.remove(&path)),
                    Change::Moved { from, to, .. } => {
                        let content = seen.remove(&from).unwrap_or(unknown);
                        seen.insert(to, content);
                    }
                }
            }
            prop_assert_eq!(seen.keys().collect::<Vec<_>>(), disk.keys().collect::<Vec<_>>());
            for (name, content) in &seen {
                prop_assert!(*content == unknown || *content == disk[name], "{:?}", name);
            }
        }
    }
}
