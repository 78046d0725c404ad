//! The port, from clients that speak something else, or HTTP as nobody should.

use std::time::Duration;

use proptest::{collection::vec, prelude::*, sample::select};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    bed::{Watched, cases, runtime},
    mutate::mutated,
};

/// For its answer: it may wait for more.
const LISTEN: Duration = Duration::from_millis(30);

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[test]
fn bytes_that_are_no_requests_are_survived() {
    let (runtime, watched) = (runtime(), Watched::start());
    let open_before = descriptors(&watched);
    let sent = prop_oneof![
        1 => vec(any::<u8>(), 0..200),
        3 => mutated(http1()),
        4 => mutated(http2()),
    ];
    cases(96, &sent, |bytes| {
        runtime.block_on(async {
            say(&watched, &bytes).await;
            watched.no_panics();
        });
    });
    runtime.block_on(async {
        watched.is_well().await;
        // No connection is left open.
        for _ in 0..200 {
            if descriptors(&watched) <= open_before + 16 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} descriptors are open, and {open_before} were", descriptors(&watched));
    });
}

async fn say(watched: &Watched, bytes: &[u8]) {
    let mut connection = TcpStream::connect(&watched.server.address).await.expect("it listens");
    // It may hang up in the middle.
    let _ = connection.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = timeout(LISTEN, connection.read_to_end(&mut answer)).await;
}

pub(super) fn descriptors(watched: &Watched) -> usize {
    let pid = watched.server.pid().as_raw_pid();
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count()
}

fn http1() -> BoxedStrategy<Vec<u8>> {
    let line = select(vec!["GET / HTTP/1.1", "GET /health HTTP/1.1", "POST /health HTTP/1.0", "OPTIONS * HTTP/1.1"]);
    let header = select(vec![
        "Host: x",
        "Content-Length: 18446744073709551615",
        "Content-Length: 3",
        "Content-Length: -1",
        "Transfer-Encoding: chunked",
        "Connection: upgrade",
        "Upgrade: h2c",
        "Expect: 100-continue",
        "Authorization: Bearer \u{e9}",
    ]);
    let body = select(vec!["", "abc", "ffffffffffffffff\r\n", "0\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"]);
    (line, vec(header, 0..5), body)
        .prop_map(|(line, headers, body)| format!("{line}\r\n{}\r\n\r\n{body}", headers.join("\r\n")).into_bytes())
        .boxed()
}

/// The preface, and frames of which most are well-formed.
fn http2() -> BoxedStrategy<Vec<u8>> {
    vec(prop_oneof![3 => request(), 3 => frame()], 0..6)
        .prop_map(|frames| {
            let settings = framed(4, 0, 0, &[]);
            [PREFACE.to_vec(), settings, frames.concat()].concat()
        })
        .boxed()
}

pub(super) fn framed(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("it is short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn frame() -> BoxedStrategy<Vec<u8>> {
    (0..12_u8, any::<u8>(), prop_oneof![0..6_u32, any::<u32>()], vec(any::<u8>(), 0..24))
        .prop_map(|(kind, flags, stream, payload)| framed(kind, flags, stream, &payload))
        .boxed()
}

/// A call, with headers that are not indexed, and a message whose length may be a lie.
fn request() -> BoxedStrategy<Vec<u8>> {
    let path =
        select(vec!["/toolexecutor.v1.ToolExecutor/Execute", "/toolexecutor.v1.ToolExecutor/Trajectory", "/", ""]);
    let timeout = select(vec!["", "1n", "99999999H", "-1S", "x"]);
    let length = prop_oneof![Just(0_u32), Just(4), Just(u32::MAX), any::<u32>()];
    (select(vec![1_u32, 3, 5]), path, timeout, any::<u8>(), length, vec(any::<u8>(), 0..24))
        .prop_map(|(stream, path, timeout, compressed, length, message)| {
            let headers = [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", "x"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("grpc-encoding", if compressed > 128 { "gzip" } else { "identity" }),
                ("grpc-timeout", timeout),
            ];
            let block: Vec<u8> = headers.iter().flat_map(|(name, value)| literal(name, value)).collect();
            let data = [&[compressed % 2], &length.to_be_bytes()[..], &message].concat();
            [framed(1, 4, stream, &block), framed(0, u8::from(compressed > 64), stream, &data)].concat()
        })
        .boxed()
}

/// As HPACK writes a header that is in no table.
pub(super) fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("it is short")], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}
