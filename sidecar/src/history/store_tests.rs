use super::*;
use serde_json::json;
use std::fs as std_fs;
use std::path::PathBuf;
use tempfile::TempDir;

struct State(TempDir);

impl State {
    fn new(store: &serde_json::Value) -> Self {
        let state = Self(tempfile::tempdir().unwrap());
        std_fs::create_dir_all(state.path("")).unwrap();
        std_fs::write(state.path(STORE), store.to_string()).unwrap();
        state
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(SESSIONS).join(name)
    }

    /// A transcript with a header and one message for each number, at that many milliseconds.
    fn transcript(&self, name: &str, times: impl IntoIterator<Item = u64> + Clone, mark: &str) {
        let mut text = String::new();
        let first = times.clone().into_iter().next().unwrap();
        text += &json!({"type": "session", "timestamp": first}).to_string();
        text.push('\n');
        for at in times {
            let content = format!("{mark}{at}");
            text += &json!({"message": {"role": "user", "content": content}, "timestamp": at}).to_string();
            text.push('\n');
        }
        std_fs::write(self.path(name), text).unwrap();
    }

    fn store(&self) -> Store {
        Store::open(self.0.path()).unwrap().unwrap()
    }

    /// Everything of `key`, in pages, newest page first, each read under a budget of its own.
    fn pages(&self, key: &str, limit: usize, budget: u64) -> Vec<Vec<String>> {
        let store = self.store();
        let (mut pages, mut cursor) = (Vec::new(), None);
        loop {
            let mut budget = Budget::new(budget);
            let page = store.page(key, cursor.as_ref(), limit, Roles::Talk, &mut budget).unwrap();
            let texts =
                page.entries.iter().map(|e| serde_json::from_str(e.content.as_ref().unwrap().get()).unwrap());
            pages.push(texts.collect());
            assert!(pages.len() < 1000, "paging does not end");
            match page.before {
                // Through its text, as a client would bring it.
                Some(before) => cursor = Some(Cursor::parse(&before.to_text()).unwrap()),
                None => return pages,
            }
        }
    }

    fn all(&self, key: &str) -> Vec<String> {
        self.pages(key, 1000, MAX_SCAN_BYTES).concat()
    }
}

#[test]
fn both_spellings_are_one_conversation_in_order_of_time() {
    let state = State::new(&json!({"main": {"sessionId": "a"}, "agent:main:main": {"sessionId": "b"}}));
    state.transcript("a.jsonl", [1000, 3000, 5000], "");
    state.transcript("b.jsonl", [2000, 4000, 6000], "");
    for key in ["main", "agent:main:main"] {
        assert_eq!(state.all(key), ["1000", "2000", "3000", "4000", "5000", "6000"]);
    }
    assert_eq!(state.all("work"), [""; 0]);
}

#[test]
fn orphans_belong_to_the_main_conversation_unless_a_timer_began_them() {
    let state = State::new(&json!({"main": {"sessionId": "now"}, "agent:main:work": {"sessionId": "work"}}));
    state.transcript("now.jsonl", [9000], "");
    state.transcript("work.jsonl", [8000], "");
    state.transcript("old.jsonl", [1000, 2000], "");
    state.transcript("job.jsonl", [3000], "[cron:1 x] ");
    state.transcript("gone.jsonl.deleted.5", [4000], "");
    state.transcript("kept.jsonl.bak", [4000], "");
    assert_eq!(state.all("main"), ["1000", "2000", "9000"]);
    assert_eq!(state.all("work"), ["8000"]);
}

#[test]
fn pages_show_every_message_once_whatever_their_size() {
    let state = State::new(&json!({"main": {"sessionId": "a"}, "agent:main:main": {"sessionId": "b"}}));
    state.transcript("a.jsonl", (0..50).map(|n| 1000 + n * 20), "");
    state.transcript("b.jsonl", (0..50).map(|n| 1010 + n * 20), "");
    state.transcript("older.jsonl", 1..20, "");
    state.transcript("between.jsonl", (0..5).map(|n| 1500 + n), "");
    let mut expected: Vec<u64> = (0..100).map(|n| 1000 + n * 10).chain(1..20).chain(1500..1505).collect();
    expected.sort_unstable();
    let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
    for limit in [1, 2, 7, 50, 1000] {
        let mut pages = state.pages("main", limit, MAX_SCAN_BYTES);
        pages.reverse();
        assert_eq!(pages.concat(), expected, "{limit}");
    }
}

#[test]
fn a_spent_budget_is_fewer_messages_and_a_cursor() {
    let state = State::new(&json!({"work": {"sessionId": "a"}}));
    state.transcript("a.jsonl", 1..100, "");
    let mut pages = state.pages("work", 1000, 700);
    assert!(pages.len() > 5, "{pages:?}");
    pages.reverse();
    assert_eq!(pages.concat(), (1..100).map(|n| n.to_string()).collect::<Vec<_>>());

    // A line that no request could read is passed over, and what is before it is found.
    let long = "x".repeat(5000);
    let text =
        format!("{{\"role\":\"user\",\"content\":\"a\"}}\n{long}\n{{\"role\":\"user\",\"content\":\"b\"}}\n");
    std_fs::write(state.path("a.jsonl"), text).unwrap();
    let mut pages = state.pages("work", 1000, 700);
    pages.reverse();
    assert_eq!(pages.concat(), ["a", "b"]);
}

#[test]
fn a_torn_end_is_not_yet() {
    let state = State::new(&json!({"main": {"sessionId": "a"}}));
    state.transcript("a.jsonl", [1000], "");
    let mut file = std_fs::OpenOptions::new().append(true).open(state.path("a.jsonl")).unwrap();
    io::Write::write_all(&mut file, br#"{"message":{"role":"user","content":"torn"}}"#).unwrap();
    assert_eq!(state.all("main"), ["1000"]);
}

#[test]
fn transcripts_lie_in_the_sessions_directory_and_nowhere_else() {
    for (id, file, name) in [
        (Some("s1"), None, Some("s1.jsonl")),
        (Some("s1"), Some("/root/.clawdbot/agents/main/sessions/s2.jsonl"), Some("s2.jsonl")),
        (Some("s1"), Some("s2.jsonl"), Some("s2.jsonl")),
        (Some("s1"), Some("/tmp/s2.jsonl"), Some("s1.jsonl")),
        (Some("s1"), Some("../../../etc/passwd"), Some("s1.jsonl")),
        (Some("../x"), None, None),
        (None, None, None),
    ] {
        let text = json!({"sessionId": id, "sessionFile": file}).to_string();
        assert_eq!(transcript_name(&serde_json::from_str(&text).unwrap()).as_deref(), name, "{text}");
    }
    let state = State::new(&json!({"main": {"sessionId": "out"}}));
    let outside = tempfile::tempdir().unwrap();
    std_fs::write(outside.path().join("x"), "{\"role\":\"user\",\"content\":\"secret\"}\n").unwrap();
    std::os::unix::fs::symlink(outside.path().join("x"), state.path("out.jsonl")).unwrap();
    let mut budget = Budget::new(MAX_SCAN_BYTES);
    assert!(state.store().page("main", None, 5, Roles::Talk, &mut budget).is_err());
}

#[test]
fn empty_and_unavailable_differ() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Store::open(dir.path()).unwrap().is_none());
    assert!(Store::open(&dir.path().join("missing")).is_err());
    let state = State::new(&json!({"main": 7, "agent:main:main": {"sessionId": "not-yet"}}));
    assert!(state.store().has("main"));
    assert_eq!(state.all("main"), [""; 0]);
    std_fs::write(state.path(STORE), "{").unwrap();
    assert!(Store::open(state.0.path()).is_err());
}

#[test]
#[ignore = "writes a file of 1 GB"]
fn the_newest_page_of_a_gigabyte_reads_less_than_half_a_megabyte() {
    let state = State::new(&json!({"main": {"sessionId": "a"}}));
    let content = "x".repeat(4000);
    let line = json!({"timestamp": 5, "message": {"role": "user", "content": content}}).to_string() + "\n";
    let block = line.repeat(1000);
    let mut file = File::create(state.path("a.jsonl")).unwrap();
    for _ in 0..(1 << 30) / block.len() + 1 {
        io::Write::write_all(&mut file, block.as_bytes()).unwrap();
    }
    let mut took = Vec::new();
    for _ in 0..200 {
        let began = std::time::Instant::now();
        let mut budget = Budget::new(MAX_SCAN_BYTES);
        let page = state.store().page("main", None, 50, Roles::Talk, &mut budget).unwrap();
        assert_eq!(page.entries.len(), 50);
        assert!(MAX_SCAN_BYTES - budget.left() < 500_000, "{} bytes", MAX_SCAN_BYTES - budget.left());
        took.push(began.elapsed());
    }
    took.sort_unstable();
    println!("p50 {:?}, p99 {:?}", took[100], took[198]);
}
