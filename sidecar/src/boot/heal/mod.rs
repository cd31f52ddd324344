//! Puts right what a crash, a power cut or a move to another machine left in the agent's state. It runs while no
//! agent does.
//!
//! In every `agents/*/sessions`: lock files go ([`Healed::locks`]), `sessions.json` is made readable and names
//! files that are here ([`index`]), temporary files go, and every transcript ends with a newline ([`transcript`]).
//! Elsewhere in the state only the temporary files of interrupted writes go.
//!
//! What is taken out of a file, and a file that cannot be read, is kept in the quarantine folder. Links are not
//! followed. To heal a second time changes nothing.

mod index;
mod transcript;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::alert::Alert;
use super::durable::Quarantine;

/// What was done, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Healed {
    /// Lock files of an agent that no longer runs.
    pub locks: u64,
    /// Unfinished copies of files that are whole.
    pub temporary_files: u64,
    /// Transcripts whose last line lacked only its newline.
    pub lines_completed: u64,
    /// Transcripts that ended in half a line.
    pub tails_cut: u64,
    /// Bytes of half lines, all of them kept in the quarantine folder.
    pub bytes_set_aside: u64,
    /// Transcripts without a single complete line, kept there as well.
    pub transcripts_set_aside: u64,
    /// Conversations whose transcript was named where it used to be.
    pub session_files_rewritten: u64,
    /// Conversations whose transcript is nowhere, so that they begin anew under their own name.
    pub session_files_dropped: u64,
    /// Lists of conversations that could not be read, kept in the quarantine folder.
    pub lists_set_aside: u64,
    /// Lists of conversations that were made from an unfinished copy.
    pub lists_restored: u64,
}

/// Heals the state in `state`. What cannot be healed stays as it is and is an alert: an agent with one broken
/// conversation is better than none.
pub(super) fn heal(state: &Path, quarantine: &Quarantine) -> (Healed, Vec<Alert>) {
    let mut work = Work { quarantine, healed: Healed::default(), alerts: Vec::new() };
    let agents = work.entries(&state.join("agents")).into_iter().filter(|entry| entry.is_dir);
    let agents: Vec<Entry> = agents.collect();
    for agent in &agents {
        work.sessions(&agent.name, &agent.path.join("sessions"));
        work.remove_temporary(&agent.path.join("agent"));
    }
    for dir in ["", "cron", "devices"] {
        work.remove_temporary(&state.join(dir));
    }
    (work.healed, work.alerts)
}

#[derive(Debug)]
struct Work<'a> {
    quarantine: &'a Quarantine,
    healed: Healed,
    alerts: Vec<Alert>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    path: PathBuf,
    is_dir: bool,
}

/// What a file in the folder of sessions is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Lock,
    Temporary,
    Transcript,
    /// Also what the agent has put away (`.jsonl.deleted.…`, `.jsonl.bak.…`).
    Other,
}

fn kind(name: &str) -> Kind {
    if name.ends_with(".jsonl.lock") || name == "sessions.json.lock" {
        Kind::Lock
    } else if name.ends_with(".tmp") {
        Kind::Temporary
    } else if name.ends_with(".jsonl") {
        Kind::Transcript
    } else {
        Kind::Other
    }
}

/// Whether a name is `<file>.<process id>.<anything>.tmp`, as the agent's writers make them. Elsewhere than among
/// the sessions a `.tmp` could be somebody's.
fn is_interrupted_write(name: &str) -> bool {
    let Some((rest, _)) = name.strip_suffix(".tmp").and_then(|stem| stem.rsplit_once('.')) else {
        return false;
    };
    rest.rsplit_once('.').is_some_and(|(file, process)| {
        !file.is_empty() && !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit())
    })
}

impl Work<'_> {
    fn sessions(&mut self, agent: &str, dir: &Path) {
        let files: Vec<Entry> = self.entries(dir).into_iter().filter(|entry| !entry.is_dir).collect();
        if files.is_empty() {
            return;
        }
        let of = |wanted: Kind| files.iter().filter(move |file| kind(&file.name) == wanted);
        for lock in of(Kind::Lock) {
            self.healed.locks = self.healed.locks.saturating_add(self.remove(lock));
        }
        let temporary: Vec<&Entry> = of(Kind::Temporary).collect();
        // An unfinished transcript is none; an unfinished list may be the only one.
        let copies: Vec<PathBuf> = temporary
            .iter()
            .filter(|file| file.name.contains(index::FILE))
            .map(|file| file.path.clone())
            .collect();
        // Before the list: a transcript that is taken away is no longer named by it.
        for file in of(Kind::Transcript) {
            match transcript::mend(&file.path, self.quarantine) {
                Ok(mended) => self.count(mended),
                Err(error) => self.failed(&file.name, &error),
            }
        }
        match index::mend(dir, &copies, self.quarantine) {
            Ok(mended) => {
                self.count_list(agent, mended);
                for file in temporary {
                    self.healed.temporary_files =
                        self.healed.temporary_files.saturating_add(self.remove(file));
                }
            }
            // The copies stay: one of them may be all that there is.
            Err(error) => self.failed(index::FILE, &error),
        }
    }

    fn count(&mut self, mended: transcript::Mended) {
        let healed = &mut self.healed;
        let (count, bytes) = match mended {
            transcript::Mended::Whole => return,
            transcript::Mended::Completed => (&mut healed.lines_completed, 0),
            transcript::Mended::Cut { bytes } => (&mut healed.tails_cut, bytes),
            transcript::Mended::TakenAway { bytes } => (&mut healed.transcripts_set_aside, bytes),
        };
        *count = count.saturating_add(1);
        healed.bytes_set_aside = healed.bytes_set_aside.saturating_add(bytes);
    }

    fn count_list(&mut self, agent: &str, mended: index::Mended) {
        let healed = &mut self.healed;
        healed.session_files_rewritten =
            healed.session_files_rewritten.saturating_add(mended.moved.rewritten);
        healed.session_files_dropped = healed.session_files_dropped.saturating_add(mended.moved.dropped);
        let mut restored = mended.adopted;
        if let Some((kept, instead)) = mended.set_aside {
            restored |= instead == super::alert::Instead::OlderCopy;
            healed.lists_set_aside = healed.lists_set_aside.saturating_add(1);
            let kept_as = kept.display().to_string();
            self.alerts.push(Alert::SessionsSetAside { agent: agent.to_owned(), kept_as, instead });
        }
        self.healed.lists_restored = self.healed.lists_restored.saturating_add(u64::from(restored));
    }

    fn remove_temporary(&mut self, dir: &Path) {
        let files = self.entries(dir);
        for file in files.iter().filter(|file| !file.is_dir && is_interrupted_write(&file.name)) {
            self.healed.temporary_files = self.healed.temporary_files.saturating_add(self.remove(file));
        }
    }

    /// How many files are gone: one or none.
    fn remove(&mut self, file: &Entry) -> u64 {
        match fs::remove_file(&file.path) {
            Ok(()) => 1,
            Err(error) => {
                self.failed(&file.name, &error);
                0
            }
        }
    }

    /// The regular files and the folders in `dir`, by name; none if it is missing.
    fn entries(&mut self, dir: &Path) -> Vec<Entry> {
        let read = || -> io::Result<Vec<Entry>> {
            // `read_dir` would follow a link.
            if !fs::symlink_metadata(dir)?.is_dir() {
                return Ok(Vec::new());
            }
            let mut entries = Vec::new();
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                if let Ok(name) = entry.file_name().into_string()
                    && (kind.is_file() || kind.is_dir())
                {
                    entries.push(Entry { name, path: entry.path(), is_dir: kind.is_dir() });
                }
            }
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(entries)
        };
        match read() {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                self.failed(&dir.display().to_string(), &error);
                Vec::new()
            }
        }
    }

    fn failed(&mut self, what: &str, error: &io::Error) {
        self.alerts.push(Alert::NotHealed { what: what.to_owned(), error: error.to_string() });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use shared::time::UnixMillis;

    use super::*;

    struct Bed {
        dir: tempfile::TempDir,
    }

    impl Bed {
        fn new(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for (name, content) in files {
                let path = dir.path().join("state").join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            Self { dir }
        }

        fn heal(&self) -> (Healed, Vec<Alert>) {
            let quarantine = Quarantine::new(self.dir.path().join("kept"), UnixMillis(1));
            heal(&self.dir.path().join("state"), &quarantine)
        }

        fn files(&self) -> BTreeMap<String, String> {
            fn walk(dir: &Path, base: &Path, found: &mut BTreeMap<String, String>) {
                for entry in fs::read_dir(dir).unwrap() {
                    let path = entry.unwrap().path();
                    if fs::symlink_metadata(&path).unwrap().is_dir() {
                        walk(&path, base, found);
                    } else {
                        let name = path.strip_prefix(base).unwrap().to_str().unwrap().to_owned();
                        found.insert(name, fs::read_to_string(&path).unwrap_or_default());
                    }
                }
            }
            let mut found = BTreeMap::new();
            let state = self.dir.path().join("state");
            walk(&state, &state, &mut found);
            found
        }
    }

    const LEFT_BEHIND: &[(&str, &str)] = &[
        ("clawdbot.json", "{}"),
        ("clawdbot.json.12.3f-a.tmp", "{"),
        ("notes.tmp", "mine"),
        ("agents/main/agent/models.json", "{}"),
        ("agents/main/agent/auth-profiles.json.9.x.tmp", "{"),
        ("agents/main/sessions/a.jsonl", "{}\n"),
        ("agents/main/sessions/a.jsonl.lock", r#"{"pid":1}"#),
        ("agents/main/sessions/b.jsonl", "{}\n{\"half"),
        ("agents/main/sessions/c.jsonl", "{}\n{\"whole\":1}"),
        ("agents/main/sessions/d.jsonl", ""),
        ("agents/main/sessions/e.jsonl.deleted.2026-01-01T00-00-00.000Z", "{\"half"),
        ("agents/main/sessions/sessions.json", r#"{"k":{"sessionId":"a","sessionFile":"/old/a.jsonl"}}"#),
        ("agents/main/sessions/sessions.json.lock", ""),
        ("agents/main/sessions/sessions.json.3.z.tmp", "{"),
        ("agents/other/sessions/sessions.json", r#"{"k":{"sessionFile":"/old/gone.jsonl"}}"#),
        ("cron/jobs.json", "{}"),
        ("cron/jobs.json.44.abc.tmp", "{"),
        ("devices/paired.json.1.b.tmp", "{"),
    ];

    #[test]
    fn everything_that_is_left_behind_is_put_right_once() {
        let bed = Bed::new(LEFT_BEHIND);
        let (healed, alerts) = bed.heal();
        let expect = Healed {
            locks: 2,
            temporary_files: 5,
            lines_completed: 1,
            tails_cut: 1,
            bytes_set_aside: 6,
            transcripts_set_aside: 1,
            session_files_rewritten: 1,
            session_files_dropped: 1,
            lists_set_aside: 0,
            lists_restored: 0,
        };
        assert_eq!(healed, expect);
        assert_eq!(alerts, []);
        let files = bed.files();
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "agents/main/agent/models.json",
                "agents/main/sessions/a.jsonl",
                "agents/main/sessions/b.jsonl",
                "agents/main/sessions/c.jsonl",
                "agents/main/sessions/e.jsonl.deleted.2026-01-01T00-00-00.000Z",
                "agents/main/sessions/sessions.json",
                "agents/other/sessions/sessions.json",
                "clawdbot.json",
                "cron/jobs.json",
                "notes.tmp",
            ]
        );
        assert_eq!(files["agents/main/sessions/b.jsonl"], "{}\n");
        assert_eq!(files["agents/main/sessions/c.jsonl"], "{}\n{\"whole\":1}\n");
        let sessions: serde_json::Value =
            serde_json::from_str(&files["agents/main/sessions/sessions.json"]).unwrap();
        let expect = bed.dir.path().join("state/agents/main/sessions/a.jsonl");
        assert_eq!(sessions["k"]["sessionFile"], expect.to_str().unwrap());
        assert_eq!(bed.heal(), (Healed::default(), Vec::new()));
        assert_eq!(bed.files(), files);
    }

    #[test]
    fn no_state_at_all_is_healthy() {
        assert_eq!(Bed::new(&[]).heal(), (Healed::default(), Vec::new()));
    }

    #[test]
    fn links_are_not_followed() {
        let bed = Bed::new(&[("agents/real/sessions/a.jsonl", "{}\n")]);
        let outside = tempfile::tempdir().unwrap();
        let torn = outside.path().join("sessions/x.jsonl");
        fs::create_dir_all(torn.parent().unwrap()).unwrap();
        fs::write(&torn, "{}\n{").unwrap();
        fs::write(outside.path().join("sessions/x.jsonl.lock"), "").unwrap();
        let link = |to: &Path, name: &str| {
            std::os::unix::fs::symlink(to, bed.dir.path().join("state/agents").join(name)).unwrap();
        };
        link(outside.path(), "linked");
        link(&torn, "real/sessions/x.jsonl");
        assert_eq!(bed.heal(), (Healed::default(), Vec::new()));
        assert_eq!(fs::read_to_string(&torn).unwrap(), "{}\n{");
        assert!(outside.path().join("sessions/x.jsonl.lock").exists());
    }

    #[test]
    fn one_file_that_cannot_be_healed_does_not_stop_the_rest() {
        let bed = Bed::new(&[("agents/main/sessions/b.jsonl", "{}\n{\"half")]);
        // The quarantine cannot be made, so nothing may be cut.
        fs::write(bed.dir.path().join("kept"), "").unwrap();
        fs::write(bed.dir.path().join("state/agents/main/sessions/a.jsonl.lock"), "").unwrap();
        let (healed, alerts) = bed.heal();
        assert_eq!((healed.locks, healed.tails_cut), (1, 0));
        assert!(matches!(&alerts[..], [Alert::NotHealed { what, .. }] if what == "b.jsonl"), "{alerts:?}");
        assert_eq!(bed.files()["agents/main/sessions/b.jsonl"], "{}\n{\"half");
    }

    #[test]
    fn names_of_interrupted_writes() {
        for (name, expect) in [
            ("jobs.json.44.abc.tmp", true),
            ("clawdbot.json.12.0c8e-11.tmp", true),
            ("notes.tmp", false),
            ("a.b.tmp", false),
            (".1.a.tmp", false),
            ("jobs.json..abc.tmp", false),
            ("jobs.json.44.abc", false),
        ] {
            assert_eq!(is_interrupted_write(name), expect, "{name}");
        }
    }
}
