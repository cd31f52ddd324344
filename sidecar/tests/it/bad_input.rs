//! Whatever a client gets wrong, on every route that takes it: a 4xx in our shape, nothing changed on the disk, and
//! the same connection serves the next request.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde_json::json;

use crate::harness::Sidecar;
use crate::kept::{Headers, Kept, chunked, whole};

const MIB: usize = 1 << 20;

fn furnished(sidecar: &Sidecar) {
    let root = sidecar.workspace();
    fs::create_dir(root.join("dir")).unwrap();
    fs::write(root.join("dir/file"), "file").unwrap();
    fs::write(root.join("kept"), "kept").unwrap();
}

/// Texts that are no path of the workspace, however they come.
fn bad_paths() -> Vec<(&'static str, String)> {
    let at = |rest: &str| format!("/root/clawd/{rest}");
    vec![
        ("NUL", at("a\0b")),
        ("NUL at the end", at("kept\0")),
        ("..", at("..")),
        (".. in the middle", at("dir/../kept")),
        (".. and out", at("../../etc/passwd")),
        (".", at(".")),
        (". in the middle", at("dir/./file")),
        ("outside", "/etc/passwd".to_owned()),
        ("a sibling", "/root/clawdX/kept".to_owned()),
        ("relative", "kept".to_owned()),
        ("a name of 256 bytes", at(&"n".repeat(256))),
        ("a name of 129 characters and 258 bytes", at(&"é".repeat(129))),
        ("a path of 4,097 bytes", format!("/root/clawd{}", "/n".repeat(2043))),
        ("a name of ours", at(".automna-tmp-x")),
        ("the index of the trash", at(".trash/.automna-trash-index")),
    ]
}

fn escaped(text: &[u8]) -> String {
    percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[tokio::test]
async fn paths_that_are_none_are_refused_by_every_route() {
    let (sidecar, _gateway) = Sidecar::start_quiet().await;
    furnished(&sidecar);
    let mut kept = Kept::connect(&sidecar).await;
    let queries = [
        ("GET", "/api/files/list"),
        ("GET", "/api/files/read"),
        ("GET", "/ws/api/files/download"),
        ("GET", "/api/files/archive"),
        ("DELETE", "/api/files"),
        ("DELETE", "/ws/api/files/"),
    ];
    for (what, path) in bad_paths() {
        for (method, route) in queries {
            for more in ["", "&permanent=true"] {
                let target = format!("{route}?path={}{more}", escaped(path.as_bytes()));
                kept.refused(what, 400, (method, &target, &[]), whole("")).await;
            }
        }
        let good = "/root/clawd/kept";
        let bodies = [
            ("write", json!({"path": path, "content": "new"})),
            ("mkdir", json!({"path": path})),
            ("move", json!({"from": path, "to": "/root/clawd/new"})),
            ("move", json!({"from": good, "to": path})),
            ("copy", json!({"from": path, "to": "/root/clawd/new"})),
            ("copy", json!({"from": good, "to": path})),
            ("trash/restore", json!({"trashPath": path})),
            ("trash/restore", json!({"trashPath": "/root/clawd/.trash/x.1700000000000", "to": path})),
        ];
        for (route, body) in bodies {
            let target = format!("/api/files/{route}");
            kept.refused(what, 400, ("POST", &target, &[]), whole(body.to_string())).await;
        }
        let form =
            [form_part("path", path.as_bytes()), form_part("file", b"new"), b"--X--\r\n".to_vec()].concat();
        let upload = ("POST", "/api/files/upload", &[("content-type", FORM)][..]);
        kept.refused(what, 400, upload, whole(form)).await;
        // tus also takes paths that are relative to the workspace.
        if what != "relative" {
            let metadata = format!("path {}", STANDARD.encode(&path));
            let headers =
                [("tus-resumable", "1.0.0"), ("upload-length", "3"), ("upload-metadata", metadata.as_str())];
            kept.refused(what, 400, ("POST", "/api/files/tus", &headers), whole("")).await;
        }
    }
    println!("{} rows", kept.rows);
}

#[tokio::test]
async fn escapes_that_hide_something_are_refused() {
    let (sidecar, _gateway) = Sidecar::start_quiet().await;
    furnished(&sidecar);
    let mut kept = Kept::connect(&sidecar).await;
    let long = "n".repeat(256);
    let deep = "n/".repeat(2043) + "n";
    let targets = [
        ("..", ".."),
        ("an escaped ..", "%2e%2E/kept"),
        ("an escaped separator", "dir%2Ffile"),
        ("escaped, up and out", "..%2f..%2fetc%2fpasswd"),
        ("a separator escaped twice", "dir%252Ffile"),
        (".. escaped twice", "%252e%252e/kept"),
        ("a backslash escaped twice", "dir%255cfile"),
        ("NUL", "kept%00"),
        ("NUL escaped twice", "kept%2500"),
        ("an empty part", "dir//file"),
        ("an absolute path", "/etc/passwd"),
        ("a dot", "dir/%2e/file"),
        ("no hexadecimal digits", "kept%zz"),
        ("half an escape", "kept%2"),
        ("not UTF-8", "%ff"),
        ("an overlong dot", "%c0%ae%c0%ae/kept"),
        ("a surrogate", "%ed%a0%80"),
        ("a name of 256 bytes", &long),
        ("a path of 4,097 bytes", &deep),
        ("a name of ours", ".automna-tmp-x"),
        ("a name of ours, escaped", "%2eautomna-tmp-x"),
    ];
    for (what, target) in targets {
        for method in ["GET", "PUT", "DELETE"] {
            let target = format!("/api/files/raw/{target}");
            let body = if method == "PUT" { "new" } else { "" };
            kept.refused(what, 400, (method, &target, &[]), whole(body)).await;
        }
    }
    // A query is decoded once: what it hides then is a path like any other, or only an odd name, which nobody has.
    let queries = [
        ("escaped ..", "%2Froot%2Fclawd%2F%2e%2e%2Fx", 400),
        ("not UTF-8", "/root/clawd/%ff", 400),
        ("an overlong dot", "/root/clawd/%c0%ae%c0%ae/x", 400),
        (".. escaped twice", "/root/clawd/%252e%252e%252fx", 404),
        ("a separator escaped twice", "/root/clawd/dir%252Ffile", 404),
    ];
    for (what, path, status) in queries {
        for (method, route) in [("GET", "read"), ("GET", "download"), ("GET", "archive"), ("DELETE", "")] {
            let target = format!("/api/files/{route}?path={path}");
            kept.refused(what, status, (method, &target, &[]), whole("")).await;
        }
    }
    let metadata = format!("path {}", STANDARD.encode(b"/root/clawd/\xff"));
    for (what, metadata) in [
        ("not UTF-8", metadata.as_str()),
        ("no base64", "path !!"),
        ("no path", "filename eA=="),
        ("twice", "path eA==,path eQ=="),
        ("empty", ""),
    ] {
        let headers = [("tus-resumable", "1.0.0"), ("upload-length", "3"), ("upload-metadata", metadata)];
        kept.refused(what, 400, ("POST", "/api/files/tus", &headers), whole("")).await;
    }
    println!("{} rows", kept.rows);
}

#[tokio::test]
async fn json_of_the_wrong_kind_is_refused() {
    let (sidecar, _gateway) = Sidecar::start_quiet().await;
    furnished(&sidecar);
    let mut kept = Kept::connect(&sidecar).await;
    let deep = "[".repeat(100_000);
    let deep_path = format!("{{\"path\":{}", "{\"path\":".repeat(20_000));
    let wrong: [(&str, &[u8]); 20] = [
        ("nothing", b""),
        ("white space", b" \n"),
        ("half", b"{"),
        ("null", b"null"),
        ("a number", b"7"),
        ("a text", b"\"/root/clawd/new\""),
        ("an empty list", b"[]"),
        ("a list of one", b"[\"/root/clawd/new\"]"),
        ("a list of two", b"[\"/root/clawd/kept\",\"/root/clawd/new\"]"),
        ("a list of five", b"[\"/root/clawd/new\",\"x\",null,null,null]"),
        (
            "numbers",
            br#"{"path":7,"content":"x","from":7,"to":7,"trashPath":7,"message":7}"#,
        ),
        ("lists", br#"{"path":["a"],"from":["a"],"to":[],"trashPath":[],"message":[]}"#),
        ("objects", br#"{"path":{},"from":{},"to":{},"trashPath":{},"message":{}}"#),
        ("two of each", br#"{"path":"a","path":"b","from":"a","from":"b","trashPath":"a","trashPath":"b","message":"a","message":"b"}"#),
        ("not UTF-8", b"{\"path\":\"/root/clawd/\xff\",\"from\":\"\xff\",\"trashPath\":\"\xff\",\"message\":\"\xff\"}"),
        ("half a pair", br#"{"path":"/root/clawd/\ud800","from":"\ud800","trashPath":"\ud800","message":"\ud800"}"#),
        ("two values", br#"{} {}"#),
        ("a comma too much", br#"{"path":"/root/clawd/new",}"#),
        ("deep", deep.as_bytes()),
        ("deep in a field", deep_path.as_bytes()),
    ];
    for (what, body) in wrong {
        for route in ["write", "mkdir", "move", "copy", "trash/restore"] {
            let target = format!("/api/files/{route}");
            kept.refused(what, 400, ("POST", &target, &[]), whole(body.to_vec())).await;
        }
        kept.refused(what, 400, ("POST", "/api/chat/send", &[]), whole(body.to_vec())).await;
    }
    let fields = [
        ("write", json!({"path": "/root/clawd/new", "content": ["x"]}), 400),
        ("write", json!({"path": "/root/clawd/new", "content": "x", "encoding": 7}), 400),
        ("write", json!({"path": "/root/clawd/new", "content": "x", "createDirs": "yes"}), 400),
        ("write", json!({"path": "/root/clawd/kept", "content": "x", "ifMatch": "not a tag"}), 400),
        ("write", json!({"path": "/root/clawd/kept", "content": "x", "ifMatch": 7}), 400),
        ("write", json!({"path": "/root/clawd/new", "content": "é", "encoding": "base64"}), 400),
        ("write", json!({"path": "/root/clawd/kept/new", "content": "x"}), 409),
        ("mkdir", json!({"path": "/root/clawd/kept"}), 409),
        ("move", json!({"from": "/root/clawd/dir", "to": "/root/clawd/dir/new"}), 400),
        ("copy", json!({"from": "/root/clawd/dir", "to": "/root/clawd/dir/new"}), 400),
    ];
    for (route, body, status) in fields {
        let target = format!("/api/files/{route}");
        kept.refused("a field", status, ("POST", &target, &[]), whole(body.to_string())).await;
    }
    println!("{} rows", kept.rows);
}

#[tokio::test]
async fn parameters_and_headers_that_mean_nothing_are_refused() {
    let (sidecar, _gateway) = Sidecar::start_quiet().await;
    furnished(&sidecar);
    fs::create_dir_all(sidecar.sessions_dir()).unwrap();
    let mut kept = Kept::connect(&sidecar).await;
    let long_key = "k".repeat(101);
    let targets = [
        "/api/files/list?cursor=x".to_owned(),
        format!("/api/files/list?cursor={}", escaped(STANDARD.encode("no kind").as_bytes())),
        "/api/files/list?cursor=%ff".to_owned(),
        format!("/api/files/list?cursor={}", "A".repeat(8000)),
        "/api/files/list?limit=0".to_owned(),
        "/api/files/list?limit=-1".to_owned(),
        "/api/files/list?limit=ten".to_owned(),
        format!("/api/files/list?limit={}", "9".repeat(40)),
        "/api/files/archive?format=rar".to_owned(),
        "/api/history?before=x".to_owned(),
        "/ws/api/history?before=5~../a.jsonl~1".to_owned(),
        format!("/ws/api/history?before=5{}", "~a.jsonl~1".repeat(300)),
        "/api/history?sessionKey=a..b".to_owned(),
        "/api/history?sessionKey=a%2Fb".to_owned(),
        "/ws/api/history?sessionKey=a%00".to_owned(),
        format!("/ws/api/history?sessionKey={long_key}"),
        "/api/history/search".to_owned(),
        format!("/api/history/search?q={}", "q".repeat(257)),
        "/api/history/search?q=x&before=x".to_owned(),
    ];
    for target in targets {
        kept.refused("a parameter", 400, ("GET", &target, &[]), whole("")).await;
    }
    let raw = "/api/files/raw/kept";
    let no_upload = format!("/api/files/tus/{}", "0".repeat(32));
    let version = ("tus-resumable", "1.0.0");
    let rows: [(u16, &str, &str, Headers<'_>); 17] = [
        (400, "PUT", raw, &[("if-match", "not a tag")]),
        (400, "PUT", raw, &[("if-none-match", "\"open")]),
        (400, "PUT", raw, &[("content-range", "bytes 0-1/2")]),
        (415, "PUT", raw, &[("content-encoding", "gzip")]),
        (400, "PUT", raw, &[("content-digest", "nonsense")]),
        (400, "PUT", raw, &[("content-digest", "sha-256=:AAAA:")]),
        (412, "PUT", raw, &[("if-none-match", "*")]),
        (428, "DELETE", raw, &[("x-require-precondition", "1")]),
        (416, "GET", raw, &[("range", "bytes=99-")]),
        (405, "PATCH", raw, &[]),
        (412, "POST", "/api/files/tus", &[("tus-resumable", "0.2.2")]),
        (400, "POST", "/api/files/tus", &[version]),
        (
            400,
            "POST",
            "/api/files/tus",
            &[version, ("upload-length", "-1"), ("upload-metadata", "path eA==")],
        ),
        (404, "HEAD2", &no_upload, &[version, ("x-http-method-override", "DELETE")]),
        (405, "GET", &no_upload, &[version]),
        (415, "PATCH", &no_upload, &[version]),
        (405, "POST", "/api/files/list", &[]),
    ];
    for (status, method, target, headers) in rows {
        let body = if method == "PUT" { "new" } else { "" };
        kept.refused("a header", status, (method, target, headers), whole(body)).await;
    }
    let keys = ["a/b", "..", "a b", &long_key];
    for key in keys {
        let body = json!({"message": "hi", "sessionKey": key}).to_string();
        kept.refused(key, 400, ("POST", "/api/chat/send", &[]), whole(body)).await;
    }
    let body = || whole(json!({"message": "hi"}).to_string());
    for key in ["", "a b", &"k".repeat(129)] {
        let send = ("POST", "/api/chat/send", &[("idempotency-key", key)][..]);
        kept.refused("an idempotency key", 400, send, body()).await;
    }
    println!("{} rows", kept.rows);
}

const FORM: &str = "multipart/form-data; boundary=X";

fn form_part(name: &str, content: &[u8]) -> Vec<u8> {
    let head = format!("--X\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
    [head.as_bytes(), content, b"\r\n"].concat()
}

#[tokio::test]
async fn forms_that_are_none_are_refused() {
    let (sidecar, _gateway) = Sidecar::start_quiet().await;
    furnished(&sidecar);
    let mut kept = Kept::connect(&sidecar).await;
    let path = form_part("path", b"/root/clawd/new");
    let file = form_part("file", b"new");
    let end = b"--X--\r\n".to_vec();
    let good = [path.clone(), file.clone(), end.clone()].concat();
    let torn = &good[..good.len() - 10];
    let many_headers = format!("--X\r\n{}\r\n", "a: b\r\n".repeat(1000));
    let long_header = format!("--X\r\na: {}\r\n\r\n\r\n", "b".repeat(100_000));
    let rows: Vec<(&str, &str, Vec<u8>)> = vec![
        ("another type", "text/plain", good.clone()),
        ("JSON", "application/json", b"{}".to_vec()),
        ("no boundary", "multipart/form-data", good.clone()),
        ("an empty boundary", "multipart/form-data; boundary=", good.clone()),
        ("another boundary", "multipart/form-data; boundary=Y", good.clone()),
        ("nothing", FORM, Vec::new()),
        ("only an end", FORM, end.clone()),
        ("torn", FORM, torn.to_vec()),
        ("torn in a head", FORM, good[..20].to_vec()),
        ("without an end", FORM, [path.clone(), file.clone()].concat()),
        ("no file", FORM, [path.clone(), end.clone()].concat()),
        ("no path", FORM, [file.clone(), end.clone()].concat()),
        ("an empty path", FORM, [form_part("path", b""), file.clone(), end.clone()].concat()),
        (
            "a path that is not UTF-8",
            FORM,
            [form_part("path", b"/root/clawd/\xff"), file.clone(), end.clone()].concat(),
        ),
        ("a head without a name", FORM, [b"--X\r\n\r\nx\r\n".to_vec(), end.clone()].concat()),
        ("a head that is none", FORM, [b"--X\r\nnonsense\r\n\r\nx\r\n".to_vec(), end.clone()].concat()),
        ("many headers", FORM, [many_headers.into_bytes(), end.clone()].concat()),
        ("a long header", FORM, [long_header.into_bytes(), end.clone()].concat()),
        ("bytes", FORM, (0..=255_u8).cycle().take(100_000).collect()),
    ];
    for (what, kind, body) in rows {
        for body in [whole(body.clone()), chunked(body)] {
            let upload = ("POST", "/api/files/upload", &[("content-type", kind)][..]);
            kept.refused(what, 400, upload, body).await;
        }
    }
    kept.refused("no type", 400, ("POST", "/api/files/upload", &[]), whole(good)).await;
    println!("{} rows", kept.rows);
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_whether_they_say_so_or_not() {
    let (sidecar, _gateway) = Sidecar::start_quiet().await;
    furnished(&sidecar);
    let mut kept = Kept::connect(&sidecar).await;
    let write = json!({"path": "/root/clawd/new", "content": "x".repeat(10 * MIB + 1)}).to_string();
    let huge_write = json!({"path": "/root/clawd/new", "content": "x".repeat(22 * MIB)}).to_string();
    let upload = [
        form_part("path", b"/root/clawd/new"),
        form_part("file", &vec![b'x'; 50 * MIB + 1]),
        b"--X--\r\n".to_vec(),
    ]
    .concat();
    let large_mkdir = json!({"path": "/root/clawd/new", "more": "x".repeat(MIB)}).to_string();
    let long_path = json!({"path": format!("/root/clawd/{}", "x".repeat(MIB))}).to_string();
    let chat = json!({"message": "x".repeat(2 * MIB)}).to_string();
    let huge_chat = json!({"message": "x".repeat(8 * MIB)}).to_string();
    let rows: Vec<(u16, &str, Headers<'_>, Vec<u8>)> = vec![
        (413, "/api/files/write", &[], write.into()),
        (413, "/api/files/write", &[], huge_write.into()),
        (413, "/api/files/upload", &[("content-type", FORM)], upload),
        (400, "/api/files/mkdir", &[], large_mkdir.into()),
        (400, "/api/files/move", &[], long_path.into()),
        (413, "/api/chat/send", &[], chat.into()),
        (413, "/api/chat/send", &[], huge_chat.into()),
    ];
    for (status, target, headers, body) in rows {
        for (what, body) in [("said", whole(body.clone())), ("not said", chunked(body))] {
            kept.refused(what, status, ("POST", target, headers), body).await;
        }
    }
    // An upload that says its length beforehand, and then sends more.
    let metadata = format!("path {}", STANDARD.encode("new"));
    let version = ("tus-resumable", "1.0.0");
    let headers = [version, ("upload-length", "3"), ("upload-metadata", metadata.as_str())];
    let made = kept.send("POST", "/api/files/tus", &headers, whole("")).await;
    let location = made.header("location").unwrap().to_owned();
    let headers = [version, ("upload-offset", "0"), ("content-type", "application/offset+octet-stream")];
    for body in [whole("four"), chunked("four")] {
        kept.refused("more than said", 413, ("PATCH", &location, &headers), body).await;
    }
}

/// Names that look alike are different names, and what looks like a separator or a dot is none.
#[tokio::test]
async fn twins_of_unicode_are_files_of_their_own() {
    let (sidecar, _gateway) = Sidecar::start_quiet().await;
    let twins =
        ["é", "e\u{301}", "Å", "A\u{30a}", "\u{212b}", "ﬁ", "fi", "Fi", "․․", "a∕b", "a／b", "a\u{202e}b"];
    for (n, name) in twins.iter().enumerate() {
        let answer = sidecar
            .call("PUT", &format!("/api/files/raw/{}", escaped(name.as_bytes())), &[], n.to_string())
            .await;
        assert_eq!(answer.status(), 201, "{name:?}");
    }
    let root = sidecar.workspace();
    assert_eq!(fs::read_dir(&root).unwrap().count(), twins.len());
    for (n, name) in twins.iter().enumerate() {
        assert_eq!(fs::read_to_string(root.join(name)).unwrap(), n.to_string(), "{name:?}");
        let path = escaped(format!("/root/clawd/{name}").as_bytes());
        let read = sidecar.get(&format!("/api/files/read?path={path}")).await.json();
        assert_eq!(read["content"], n.to_string(), "{name:?}");
    }
    let listed = sidecar.get("/api/files/list").await.json();
    let mut names: Vec<&str> =
        listed["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    let mut expected = twins.to_vec();
    expected.sort_unstable();
    assert_eq!(names, expected);
}
