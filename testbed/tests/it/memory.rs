//! Bodies never enter WASM, so their size does not show in the runtime's memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::support::Bed;

const USER: &str = "user_abc123";
const MIB: u64 = 1024 * 1024;
const BODY: u64 = 200 * 1000 * 1000 / 65_536 * 65_536;
const ALLOWED: u64 = 16 * MIB;

/// The highest resident memory of the runtime while `work` runs, in bytes.
async fn peak_during<T>(bed: &Bed, work: impl Future<Output = T>) -> (u64, T) {
    let peak = AtomicU64::new(0);
    let watch = async {
        loop {
            peak.fetch_max(bed.edge.process().rss_bytes().unwrap(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let done = tokio::select! {
        done = work => done,
        () = watch => unreachable!("the watch goes on until the work is done"),
    };
    (peak.load(Ordering::Relaxed), done)
}

#[tokio::test]
async fn two_hundred_megabytes_each_way_leave_memory_flat() {
    let bed = Bed::start().await;
    let upload = |path: String| {
        let chunk = Bytes::from(vec![1_u8; 65_536]);
        let chunks =
            futures_util::stream::iter(0..BODY / 65_536).map(move |_| Ok::<_, std::io::Error>(chunk.clone()));
        let request = bed
            .http
            .post(bed.url(&path))
            .header("content-length", BODY)
            .body(reqwest::Body::wrap_stream(chunks));
        async move { request.send().await.unwrap().status().as_u16() }
    };
    let download = |path: String| {
        let request = bed.http.get(bed.url(&path));
        async move {
            let mut stream = request.send().await.unwrap().bytes_stream();
            let mut bytes = 0;
            while let Some(chunk) = stream.next().await {
                bytes += chunk.unwrap().len() as u64;
            }
            bytes
        }
    };
    for backend in ["legacy", "fly"] {
        if backend == "fly" {
            bed.put_on_fly(USER).await;
        }
        for _ in 0..20 {
            bed.get(&bed.signed("/warm-up", USER)).await;
        }
        let idle = bed.edge.process().rss_bytes().unwrap();
        let (up, status) = peak_during(&bed, upload(bed.signed("/upload", USER))).await;
        assert_eq!(status, 200);
        let upstream = if backend == "fly" { &bed.machine } else { &bed.legacy };
        assert_eq!(upstream.seen().last().unwrap().body_bytes, BODY, "all of it arrived");
        let (down, bytes) =
            peak_during(&bed, download(bed.signed(&format!("/bulk?bytes={BODY}"), USER))).await;
        assert_eq!(bytes, BODY);
        let mib = |bytes: u64| bytes as f64 / MIB as f64;
        println!("{backend}: idle {:.1} MiB, upload {:.1}, download {:.1}", mib(idle), mib(up), mib(down));
        assert!(up.max(down) <= idle + ALLOWED, "{backend}: idle {idle}, upload {up}, download {down}");
    }
}
