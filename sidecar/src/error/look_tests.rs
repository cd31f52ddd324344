use std::sync::Arc;

use super::*;

fn looks(action: Action, error: FileError) -> (u16, &'static str, Vec<&'static str>) {
    let Look { status, error, size, .. } = action.failed()(error).look();
    let fields = serde_json::to_value(size).unwrap();
    let present = ["size", "maxSize", "hint"].into_iter().filter(|name| fields.get(name).is_some());
    (status.as_u16(), error, present.collect())
}

#[test]
fn faults_have_the_words_of_their_route() {
    let io = |kind: io::ErrorKind| FileError::Io { what: "test", source: Arc::new(kind.into()) };
    let rows = [
        (Action::List, "Failed to list directory"),
        (Action::Read, "Failed to read file"),
        (Action::Write, "Failed to write file"),
        (Action::Upload, "Upload failed"),
        (Action::Download, "Download failed"),
        (Action::Delete, "Delete failed"),
        (Action::Mkdir, "Failed to create directory"),
        (Action::Move, "Move failed"),
    ];
    for (action, text) in rows {
        assert_eq!(looks(action, io(io::ErrorKind::Other)), (500, text, vec![]));
        assert_eq!(looks(action, io(io::ErrorKind::StorageFull)), (507, "No space left", vec![]));
        assert_eq!(looks(action, io(io::ErrorKind::PermissionDenied)).0, 403);
        assert_eq!(looks(action, FileError::Exists).0, 409);
        assert_eq!(looks(action, FileError::Precondition { current: None }).0, 412);
    }
}

#[test]
fn what_is_too_large_says_how_large() {
    let large = || FileError::TooLarge { size: 2, max: 1 };
    let write = (413, "Content too large", vec!["size", "maxSize"]);
    assert_eq!(looks(Action::Write, large()), write);
    assert_eq!(looks(Action::Upload, large()), (413, "File too large", vec!["size", "maxSize"]));
    assert_eq!(looks(Action::Read, large()), (413, "File too large", vec!["size", "maxSize", "hint"]));
}
