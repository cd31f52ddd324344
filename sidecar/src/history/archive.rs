//! Putting conversations away, so that no history shows it and nothing is lost.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use rustix::fs::{self, Mode};
use shared::time::UnixMillis;

use super::store::{Store, canonical_key};

/// The conversations that there are now, and the files that hold them.
#[derive(Debug)]
pub struct Conversations {
    store: Store,
    keys: Vec<String>,
    transcripts: Vec<String>,
}

impl Conversations {
    /// Looks what there is, after the agent has begun its main conversation anew. `None`: the agent has had no session yet.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn look(state: &Path) -> io::Result<Option<Self>> {
        let Some(store) = Store::open(state)? else { return Ok(None) };
        let keys: Vec<String> = store.sessions().iter().map(|session| session.key.clone()).collect();
        let mut transcripts = BTreeSet::new();
        for key in keys.iter().map(String::as_str).chain(["main"]) {
            transcripts.extend(store.transcripts(key)?);
        }
        // What the main conversation goes on in belongs to whoever writes after the reset.
        let current =
            store.sessions().iter().filter(|session| canonical_key(&session.key) == canonical_key("main"));
        for id in current.filter_map(|session| session.session_id.as_deref()) {
            transcripts.remove(&format!("{id}.jsonl"));
        }
        Ok(Some(Self { store, keys, transcripts: transcripts.into_iter().collect() }))
    }

    /// Their keys, as the agent's store has them.
    #[must_use]
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// Moves the files into `reset-<ms>` in the sessions directory. Call it after the agent has let go of the
    /// sessions, or it would go on writing to one of them.
    ///
    /// # Errors
    /// The directory cannot be written. What was moved before stays moved; the call can be repeated.
    pub fn put_away(&self, now: UnixMillis) -> io::Result<()> {
        let dir = self.store.dir();
        let folder = format!("reset-{}", now.0);
        match fs::mkdirat(dir, folder.as_str(), Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        for name in &self.transcripts {
            match fs::renameat(dir, name.as_str(), dir, format!("{folder}/{name}")) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
