//! Putting a conversation away, so that no history shows it and nothing is lost.

use std::io;
use std::path::Path;

use rustix::fs::{self, Mode};
use shared::time::UnixMillis;

use super::store::Store;

/// Moves the transcripts of the main conversation into `reset-<ms>` in the sessions directory. Call it after the
/// agent has reset the session, or it would go on writing to one of them. `false`: there were no sessions.
///
/// # Errors
/// The directory cannot be read or written. What was moved before stays moved; the call can be repeated.
pub fn main_conversation(state: &Path, now: UnixMillis) -> io::Result<bool> {
    let Some(store) = Store::open(state)? else { return Ok(false) };
    let names = store.transcripts("main")?;
    let folder = format!("reset-{}", now.0);
    match fs::mkdirat(store.dir(), folder.as_str(), Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    for name in names {
        match fs::renameat(store.dir(), name.as_str(), store.dir(), format!("{folder}/{name}")) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}
