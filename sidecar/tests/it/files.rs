//! `/api/files/…` in the legacy contract's shapes.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Answer, Sidecar, eventually, names, only};

async fn post(sidecar: &Sidecar, route: &str, body: &Value) -> Answer {
    sidecar.post(&format!("/api/files/{route}"), &[], &body.to_string()).await
}

#[track_caller]
fn assert_failed(answer: &Answer, status: u16, error: &str) {
    let body = answer.json();
    assert_eq!((answer.status(), body["error"].as_str()), (status, Some(error)), "{body}");
    assert!(body["code"].is_string() && body["requestId"].is_string(), "{body}");
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn what_is_written_is_listed_and_read() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let body = json!({"path": "/root/clawd//notes/a.md/", "content": "héllo"});
    let written = post(&sidecar, "write", &body).await.json();
    assert_eq!(keys(&written), ["success", "path", "size", "modified", "source", "etag"]);
    assert_eq!(written["path"], "/root/clawd/notes/a.md");
    assert_eq!((&written["success"], &written["size"]), (&json!(true), &json!(6)));

    for prefix in ["/api", "/ws/api"] {
        let read = sidecar.get(&format!("{prefix}/files/read?path=/root/clawd/notes/a.md&fresh=true")).await;
        let read = read.json();
        assert_eq!(keys(&read), ["path", "content", "size", "modified", "encoding", "source", "etag"]);
        assert_eq!((&read["content"], &read["encoding"]), (&json!("héllo"), &json!("utf-8")));
        assert_eq!((&read["etag"], &read["modified"]), (&written["etag"], &written["modified"]));

        let listed = sidecar.get(&format!("{prefix}/files/list?path=/root/clawd/notes")).await.json();
        assert_eq!(keys(&listed), ["path", "files", "parent", "source"]);
        assert_eq!((&listed["parent"], &listed["source"]), (&json!("/root/clawd"), &json!("container")));
        let file = &listed["files"][0];
        assert_eq!(keys(file), ["name", "path", "type", "size", "modified", "extension"]);
        assert_eq!((&file["path"], &file["extension"]), (&written["path"], &json!("md")));
    }
    let root = sidecar.get("/api/files/list").await.json();
    assert_eq!((&root["path"], &root["parent"]), (&json!("/root/clawd"), &Value::Null));
    assert_eq!(keys(&root["files"][0]), ["name", "path", "type", "size", "modified"]);
    for missing in ["none", "notes/a.md"] {
        let listed = sidecar.get(&format!("/api/files/list?path=/root/clawd/{missing}")).await;
        assert_eq!((listed.status(), &listed.json()["files"]), (200, &json!([])));
    }

    let stale = json!({"path": "/root/clawd/notes/a.md", "content": "", "ifMatch": "\"b3-00\""});
    assert_failed(&post(&sidecar, "write", &stale).await, 412, "Precondition failed");
    let fresh = json!({"path": "/root/clawd/notes/a.md", "content": "", "ifMatch": written["etag"]});
    assert_eq!(post(&sidecar, "write", &fresh).await.json()["size"], 0);
}

#[tokio::test]
async fn bytes_survive_base64() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let path = "/root/clawd/a.bin";
    // White space as `base64` wraps it.
    let body = json!({"path": path, "content": "AP8Q\nAA==\n", "encoding": "base64"});
    assert_eq!(post(&sidecar, "write", &body).await.json()["size"], 4);
    assert_eq!(fs::read(sidecar.workspace().join("a.bin")).unwrap(), [0, 255, 16, 0]);
    let read = sidecar.get(&format!("/api/files/read?path={path}&encoding=base64")).await.json();
    assert_eq!((&read["content"], &read["encoding"]), (&json!("AP8QAA=="), &json!("base64")));
    let bad = json!({"path": path, "content": "!", "encoding": "base64"});
    assert_failed(&post(&sidecar, "write", &bad).await, 400, "Invalid base64 content");
}

#[tokio::test]
async fn the_bad_half_has_the_contracts_words() {
    let (sidecar, _gateway) = Sidecar::start().await;
    fs::create_dir(sidecar.workspace().join("dir")).unwrap();
    fs::write(sidecar.workspace().join("SOUL.md"), "soul").unwrap();
    let before = names(&sidecar);
    let rows = [
        ("GET", "list?path=/etc", 400, "Path must be within workspace"),
        ("GET", "list?path=/root/clawdX", 400, "Path must be within workspace"),
        ("GET", "list?path=/root/clawd/../x", 400, "Path traversal not allowed"),
        ("GET", "list?limit=0", 400, "Invalid limit"),
        ("GET", "list?cursor=x", 400, "Bad request"),
        ("GET", "read", 400, "Path required"),
        ("GET", "read?path=", 400, "Path required"),
        ("GET", "read?path=%2Froot%2Fclawd%2F%2e%2e%2Fx", 400, "Path traversal not allowed"),
        ("GET", "read?path=/root/clawd/%ff", 400, "Bad request"),
        ("GET", "read?path=/root/clawd/none", 404, "File not found"),
        ("GET", "read?path=/root/clawd/dir", 404, "File not found"),
        ("GET", "download", 400, "Path required"),
        ("GET", "download?path=/root/clawd/none", 404, "File not found"),
        ("GET", "download?path=/root/clawd/dir", 404, "File not found"),
        ("DELETE", "", 400, "Path required"),
        ("DELETE", "?path=/root/clawd/none", 404, "Path not found"),
        ("DELETE", "?path=/root/clawd/none&permanent=true", 404, "Path not found"),
        ("DELETE", "?path=/root/clawd", 403, "Cannot delete protected path"),
        ("DELETE", "?path=/root/clawd/SOUL.md", 403, "Cannot delete protected path"),
        ("DELETE", "?path=/root/clawd/SOUL.md&permanent=true", 403, "Cannot delete protected path"),
        ("PUT", "list", 405, "Method not allowed"),
    ];
    for (method, target, status, error) in rows {
        let answer = sidecar.call(method, &format!("/api/files/{target}"), &[], "").await;
        println!("{method} {target}");
        assert_failed(&answer, status, error);
    }
    let none = "/root/clawd/none";
    let rows = [
        ("write", json!({"path": none}), 400, "Path and content required"),
        ("write", json!({"content": ""}), 400, "Path and content required"),
        ("write", json!({"path": "/etc/x", "content": ""}), 400, "Path must be within workspace"),
        ("write", json!({"path": "/root/clawd/dir", "content": ""}), 409, "Not a file"),
        (
            "write",
            json!({"path": "/root/clawd/x/y", "content": "", "createDirs": false}),
            404,
            "Parent directory not found",
        ),
        ("mkdir", json!({}), 400, "Path required"),
        ("mkdir", json!({"path": "/root/clawd/SOUL.md"}), 409, "Already exists"),
        ("move", json!({"from": none}), 400, "From and to paths required"),
        ("move", json!({"to": none}), 400, "From and to paths required"),
        ("move", json!({"from": none, "to": "/root/clawd/b"}), 404, "Source path not found"),
        ("move", json!({"from": "/root/clawd/dir", "to": "/root/clawd/dir/x"}), 400, "Bad request"),
        ("copy", json!({"from": none}), 400, "From and to paths required"),
        ("copy", json!({"from": none, "to": "/root/clawd/b"}), 404, "Source path not found"),
        ("copy", json!({"from": "/root/clawd/SOUL.md", "to": "/root/clawd/dir"}), 409, "Already exists"),
        ("trash/restore", json!({}), 400, "Trash path required"),
        ("trash/restore", json!({"trashPath": none}), 404, "Trash item not found"),
    ];
    for (route, body, status, error) in rows {
        println!("{route} {body}");
        assert_failed(&post(&sidecar, route, &body).await, status, error);
    }
    for route in ["write", "mkdir", "move", "copy", "trash/restore"] {
        let bad = sidecar.post(&format!("/api/files/{route}"), &[], "{").await;
        assert_failed(&bad, 400, "Invalid JSON body");
    }
    assert_failed(&sidecar.post("/api/files/upload", &[], "x").await, 400, "Invalid form data");
    only(&sidecar, &before).await;
}

#[tokio::test]
async fn folders_are_made_and_things_moved_and_copied() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let root = sidecar.workspace();
    for _again in 0..2 {
        let made = post(&sidecar, "mkdir", &json!({"path": "/root/clawd/a/b"})).await;
        assert_eq!(made.json(), json!({"success": true, "path": "/root/clawd/a/b"}));
    }
    fs::write(root.join("x"), "x").unwrap();
    let copy = json!({"from": "/root/clawd/x", "to": "/root/clawd/new/y"});
    let copied = post(&sidecar, "copy", &copy).await.json();
    assert_eq!(copied, json!({"success": true, "from": "/root/clawd/x", "to": "/root/clawd/new/y"}));
    let moved = post(&sidecar, "move", &json!({"from": "/root/clawd/x", "to": "/root/clawd/a/b"})).await;
    let expected = json!({"success": true, "from": "/root/clawd/x", "to": "/root/clawd/a/b/x"});
    assert_eq!(moved.json(), expected);
    assert_eq!(fs::read(root.join("a/b/x")).unwrap(), b"x");
    assert_eq!(fs::read(root.join("new/y")).unwrap(), b"x");
    only(&sidecar, &["a", "new"]).await;
}

#[tokio::test]
async fn what_is_deleted_comes_back() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let root = sidecar.workspace();
    assert_eq!(sidecar.get("/api/files/trash").await.json(), json!({"items": []}));
    for (spelling, name) in [("/api/files", "a"), ("/ws/api/files/", "b")] {
        fs::create_dir_all(root.join(name)).unwrap();
        fs::write(root.join(name).join("x"), name).unwrap();
        let path = format!("/root/clawd/{name}");
        let deleted = sidecar.call("DELETE", &format!("{spelling}?path={path}"), &[], "").await.json();
        assert_eq!(keys(&deleted), ["success", "path", "trashPath", "trashedAt", "expiresAt"]);
        let items = sidecar.get("/api/files/trash").await.json();
        assert_eq!(items["items"][0]["trashPath"], deleted["trashPath"]);
        assert_eq!(items["items"][0]["originalPath"], path);
        assert!(!root.join(name).exists());

        let restore = json!({"trashPath": deleted["trashPath"]});
        let restored = post(&sidecar, "trash/restore", &restore).await.json();
        assert_eq!(restored, json!({"success": true, "path": path, "trashPath": deleted["trashPath"]}));
        assert_eq!(fs::read_to_string(root.join(name).join("x")).unwrap(), name);
    }
    let gone = sidecar.call("DELETE", "/api/files?path=/root/clawd/a&permanent=true", &[], "").await;
    assert_eq!(gone.json(), json!({"success": true, "path": "/root/clawd/a", "permanent": true}));

    sidecar.call("DELETE", "/api/files/?path=/root/clawd/b", &[], "").await;
    let emptied = sidecar.call("DELETE", "/api/files/trash", &[], "").await;
    assert_eq!(emptied.json(), json!({"success": true, "removed": 1}));
    assert_eq!(sidecar.get("/api/files/trash").await.json(), json!({"items": []}));
    only(&sidecar, &[".trash"]).await;
}

/// A form of these parts: header lines and content.
fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut form = Vec::new();
    for (head, content) in parts {
        form.extend_from_slice(format!("--X\r\nContent-Disposition: form-data; {head}\r\n\r\n").as_bytes());
        form.extend_from_slice(content);
        form.extend_from_slice(b"\r\n");
    }
    form.extend_from_slice(b"--X--\r\n");
    form
}

async fn upload(sidecar: &Sidecar, parts: &[(&str, &[u8])]) -> Answer {
    let headers = [("content-type", "multipart/form-data; boundary=X")];
    sidecar.call("POST", "/api/files/upload", &headers, form(parts)).await
}

#[tokio::test]
async fn uploads_in_either_order() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let content: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let file = ("name=\"file\"; filename=\"x.png\"\r\nContent-Type: image/png", content.as_slice());
    let path: (&str, &[u8]) = ("name=\"path\"", b"/root/clawd/up/x.png");
    for parts in [[file, path], [path, file]] {
        let uploaded = upload(&sidecar, &parts).await.json();
        let expected = json!({
            "success": true, "path": "/root/clawd/up/x.png", "size": 300_000, "mimeType": "image/png",
        });
        assert_eq!(uploaded, expected);
        assert!(fs::read(sidecar.workspace().join("up/x.png")).unwrap() == content);
    }
    assert_failed(&upload(&sidecar, &[file]).await, 400, "File and path required");
    assert_failed(&upload(&sidecar, &[path]).await, 400, "File and path required");
    let outside: (&str, &[u8]) = ("name=\"path\"", b"/etc/x");
    assert_failed(&upload(&sidecar, &[file, outside]).await, 400, "Path must be within workspace");
    only(&sidecar, &["up"]).await;
}

#[tokio::test]
async fn downloads_carry_their_type_name_and_tag() {
    let (sidecar, _gateway) = Sidecar::start().await;
    fs::write(sidecar.workspace().join("ü \"1\".md"), "text").unwrap();
    let target = "/api/files/download?path=/root/clawd/%C3%BC%20%221%22.md";
    let answer = sidecar.get(target).await;
    assert_eq!((answer.status(), &answer.body[..]), (200, &b"text"[..]));
    assert_eq!(answer.header("content-type"), Some("text/markdown"));
    assert_eq!(answer.header("content-length"), Some("4"));
    let disposition = "attachment; filename=\"_ _1_.md\"; filename*=UTF-8''%C3%BC%20%221%22.md";
    assert_eq!(answer.header("content-disposition"), Some(disposition));
    let etag = answer.header("etag").unwrap().to_owned();
    let again = sidecar.call("GET", target, &[("if-none-match", &etag)], "").await;
    assert_eq!(again.status(), 304);
    let part = sidecar.call("GET", target, &[("range", "bytes=1-2")], "").await;
    assert_eq!((part.status(), &part.body[..]), (206, &b"ex"[..]));
}

#[tokio::test]
async fn the_list_is_in_the_browsers_order_and_comes_in_pages() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let root = sidecar.workspace();
    for dir in ["z", "A"] {
        fs::create_dir(root.join(dir)).unwrap();
    }
    for file in ["b.txt", "B.txt", "a10", "_x", ".env", "1", "é|\n"] {
        fs::write(root.join(file), "").unwrap();
    }
    let expected = ["A", "z", "_x", ".env", "1", "a10", "b.txt", "B.txt", "é|\n"];
    let names = |listed: &Value| -> Vec<String> {
        let files = listed["files"].as_array().unwrap();
        files.iter().map(|file| file["name"].as_str().unwrap().to_owned()).collect()
    };
    let whole = sidecar.get("/api/files/list?path=/root/clawd/").await.json();
    assert_eq!(names(&whole), expected);
    assert_eq!(
        (&whole["files"][0]["type"], &whole["files"][3]["extension"]),
        (&json!("directory"), &json!("env"))
    );
    let (mut paged, mut target) = (Vec::new(), "/api/files/list?limit=2".to_owned());
    loop {
        let page = sidecar.get(&target).await.json();
        paged.extend(names(&page));
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        target = format!("/api/files/list?limit=2&cursor={cursor}");
    }
    assert_eq!(paged, expected);
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_leaves_nothing() {
    const MAX_TEXT: usize = 10 * 1024 * 1024;
    const MAX_UPLOAD: usize = 50 * 1024 * 1024;
    let (sidecar, _gateway) = Sidecar::start().await;
    let write = async |length| {
        post(&sidecar, "write", &json!({"path": "/root/clawd/a", "content": "x".repeat(length)})).await
    };
    assert_eq!(write(MAX_TEXT).await.json()["size"], MAX_TEXT);
    assert_eq!(sidecar.get("/api/files/read?path=/root/clawd/a").await.json()["size"], MAX_TEXT);
    let larger = write(MAX_TEXT + 1).await;
    assert_failed(&larger, 413, "Content too large");
    let larger = larger.json();
    assert_eq!((&larger["size"], &larger["maxSize"]), (&json!(MAX_TEXT + 1), &json!(MAX_TEXT)));
    assert_eq!(fs::metadata(sidecar.workspace().join("a")).unwrap().len(), MAX_TEXT as u64);
    // So large that it is not even read as JSON.
    assert_failed(&write(3 * MAX_TEXT).await, 413, "Content too large");

    fs::write(sidecar.workspace().join("a"), vec![b'x'; MAX_TEXT + 1]).unwrap();
    let read = sidecar.get("/api/files/read?path=/root/clawd/a").await;
    assert_failed(&read, 413, "File too large");
    let read = read.json();
    assert_eq!((&read["size"], &read["maxSize"]), (&json!(MAX_TEXT + 1), &json!(MAX_TEXT)));
    assert_eq!(read["hint"], "Use download endpoint for large files");

    let content = vec![b'x'; MAX_UPLOAD + 1];
    let path: (&str, &[u8]) = ("name=\"path\"", b"/root/clawd/b");
    let file = |content| ("name=\"file\"; filename=\"b\"", content);
    let uploaded = upload(&sidecar, &[file(&content[..MAX_UPLOAD]), path]).await.json();
    assert_eq!(
        (&uploaded["size"], &uploaded["mimeType"]),
        (&json!(MAX_UPLOAD), &json!("application/octet-stream"))
    );
    let path: (&str, &[u8]) = ("name=\"path\"", b"/root/clawd/new/c");
    let larger = upload(&sidecar, &[path, file(&content)]).await;
    assert_failed(&larger, 413, "File too large");
    let larger = larger.json();
    assert_eq!((&larger["size"], &larger["maxSize"]), (&json!(MAX_UPLOAD + 1), &json!(MAX_UPLOAD)));
    only(&sidecar, &["a", "b"]).await;
}

#[tokio::test]
async fn a_start_sweeps_litter_and_what_is_due_in_the_trash() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let root = sidecar.workspace();
    for dir in ["dir", ".trash"] {
        fs::create_dir(root.join(dir)).unwrap();
    }
    let litter = root.join("dir/.automna-tmp-0000000000000000-1");
    let due = root.join(".trash/old.1000000000000");
    for path in [&litter, &due, &root.join("kept")] {
        fs::write(path, "x").unwrap();
    }
    let deleted = sidecar.call("DELETE", "/api/files?path=/root/clawd/kept", &[], "").await.json();
    let sidecar = sidecar.restart().await;
    eventually("it is swept", async || !litter.exists() && !due.exists()).await;
    let items = sidecar.get("/api/files/trash").await.json();
    assert_eq!(items["items"].as_array().unwrap().len(), 1);
    assert_eq!(items["items"][0]["trashPath"], deleted["trashPath"]);
    assert_eq!(items["items"][0]["originalPath"], "/root/clawd/kept");
    only(&sidecar, &[".trash", "dir"]).await;
}
