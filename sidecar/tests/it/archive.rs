//! `/api/files/archive`: a folder as one download.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::symlink;

use crate::harness::Sidecar;

/// A folder with everything in it that can be.
fn fill(sidecar: &Sidecar) -> Vec<u8> {
    let root = sidecar.workspace();
    fs::create_dir_all(root.join("p/sub/empty")).unwrap();
    fs::create_dir_all(root.join(".trash")).unwrap();
    let big: Vec<u8> = (0..1_000_000u32).map(|n| (n.wrapping_mul(n) % 251) as u8).collect();
    fs::write(root.join("p/big.bin"), &big).unwrap();
    fs::write(root.join("p/sub/é.md"), "é").unwrap();
    fs::write(root.join(format!("p/{}", "n".repeat(200))), "long").unwrap();
    fs::write(root.join(".trash/old"), "old").unwrap();
    fs::write(root.parent().unwrap().join("secret"), "secret").unwrap();
    symlink("../../secret", root.join("p/climbs")).unwrap();
    symlink("sub", root.join("p/link")).unwrap();
    big
}

fn tar(bytes: impl Read) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(bytes);
    let mut found = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut content = Vec::new();
        match entry.link_name().unwrap() {
            Some(link) => content.extend_from_slice(format!("-> {}", link.display()).as_bytes()),
            None => drop(entry.read_to_end(&mut content).unwrap()),
        }
        assert!(found.insert(name, content).is_none());
    }
    found
}

#[tokio::test]
async fn tar_and_zip_hold_the_folder_and_nothing_else() {
    let (sidecar, _gateway) = Sidecar::start().await;
    let big = fill(&sidecar);
    let long = format!("p/{}", "n".repeat(200));
    let answer = sidecar.get("/api/files/archive?path=/root/clawd/p&format=tar").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("content-disposition"), Some("attachment; filename=\"p.tar\""));
    let found = tar(&answer.body[..]);
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["p/", "p/big.bin", "p/climbs", "p/link", &long, "p/sub/", "p/sub/empty/", "p/sub/é.md"]
    );
    assert!(found["p/big.bin"] == big);
    assert_eq!(found["p/climbs"], b"-> ../../secret");

    let answer = sidecar.get("/ws/api/files/archive?path=/root/clawd/p&format=tar.gz").await;
    assert!(tar(flate2::read::GzDecoder::new(&answer.body[..])) == found);

    let answer = sidecar.get("/api/files/archive").await;
    assert_eq!(answer.header("content-disposition"), Some("attachment; filename=\"workspace.zip\""));
    let mut archive = zip::ZipArchive::new(Cursor::new(&answer.body[..])).unwrap();
    let mut content = Vec::new();
    archive.by_name("workspace/p/big.bin").unwrap().read_to_end(&mut content).unwrap();
    assert!(content == big);
    let mut skipped = String::new();
    archive.by_name("workspace/automna-skipped.txt").unwrap().read_to_string(&mut skipped).unwrap();
    assert_eq!(skipped, "workspace/p/climbs\nworkspace/p/link");
    let names: Vec<_> = archive.file_names().map(|name| name.unwrap().into_owned()).collect();
    assert!(names.iter().all(|name| !name.contains("trash") && !name.contains("secret")), "{names:?}");
    assert_eq!(names.len(), 8);
}

#[tokio::test]
async fn what_is_no_folder_is_refused() {
    let (sidecar, _gateway) = Sidecar::start().await;
    fill(&sidecar);
    let rows = [
        ("path=/root/clawd/p/big.bin", 409, "not_a_directory"),
        ("path=/root/clawd/nothing", 404, "file_not_found"),
        ("path=/root/clawd/p/climbs", 403, "outside_workspace"),
        ("path=/etc", 400, "bad_path"),
        ("path=/root/clawd/%2e%2e", 400, "bad_path"),
        ("path=/root/clawd/p&format=rar", 400, "bad_format"),
    ];
    for (query, status, code) in rows {
        sidecar.get(&format!("/api/files/archive?{query}")).await.assert_error(status, code);
    }
}
