//! Connections that cost more than they are for: silent, slow, endless, too many. Each is closed in its time, and
//! whoever comes meanwhile is served.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    bed::Watched,
    port::{PREFACE, descriptors, framed, literal},
};
use crate::support::{authority::Authority, client::PATIENCE, http::Request};

/// Of the settings below.
const SHORT: Duration = Duration::from_secs(1);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A server that has little patience.
fn impatient(settings: &[(&str, &str)]) -> Watched {
    Watched::with(|command| {
        command.env("TOOL_EXECUTOR_HANDSHAKE_TIMEOUT", "1s").env("TOOL_EXECUTOR_HEADER_TIMEOUT", "1s");
        command.envs(settings.iter().map(|(name, value)| (format!("TOOL_EXECUTOR_{name}"), value)));
    })
}

async fn connect(watched: &Watched) -> TcpStream {
    TcpStream::connect(&watched.server.address).await.expect("it listens")
}

/// What is said until the connection is closed, which it must be.
async fn until_closed(connection: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    // Closed with something unread, it is reset.
    let _ = timeout(PATIENCE, connection.read_to_end(&mut said)).await.expect("it is closed");
    said
}

/// Says one byte after the other, with a pause, until nobody listens; returns how long that took.
async fn drip(connection: &mut TcpStream, bytes: Vec<u8>) -> Duration {
    let begun = Instant::now();
    let mut answer = [0; 1024];
    for byte in bytes {
        if connection.write_all(&[byte]).await.is_err() {
            break;
        }
        if let Ok(Ok(0) | Err(_)) = timeout(Duration::from_millis(50), connection.read(&mut answer)).await {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "it listens for ever");
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_silent_connections_are_closed() {
    let watched = impatient(&[]);
    let before = descriptors(&watched);
    let mut silent = Vec::new();
    for _ in 0..1_000 {
        silent.push(connect(&watched).await);
    }
    watched.is_well().await;
    for connection in &mut silent {
        assert!(until_closed(connection).await.is_empty());
    }
    assert!(descriptors(&watched) < before + 100);
    watched.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_requests_are_not_waited_for() {
    let watched = impatient(&[]);
    let mut slow = Vec::new();
    // A request with headers without end, and HTTP/2 that never begins.
    let request = [&b"GET /health HTTP/1.1\r\n"[..], &b"X-Header: x\r\n".repeat(1_000)].concat();
    for bytes in [request, PREFACE[..23].to_vec()] {
        let mut connection = connect(&watched).await;
        slow.push(tokio::spawn(async move {
            let took = drip(&mut connection, bytes).await;
            until_closed(&mut connection).await;
            took
        }));
    }
    watched.is_well().await;
    for slow in slow {
        let took = slow.await.expect("it is closed");
        assert!(took < 10 * SHORT, "{took:?}");
    }
    watched.is_well().await;
}

#[tokio::test]
async fn a_connection_that_is_kept_for_nothing_is_closed() {
    let watched = impatient(&[]);
    let mut idle = connect(&watched).await;
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("it reads");
    let answered = Instant::now();
    let said = String::from_utf8(until_closed(&mut idle).await).expect("text");
    assert!(said.starts_with("HTTP/1.1 200 OK"), "{said}");
    assert!(answered.elapsed() >= SHORT / 2, "it is kept for a while");
    // A request that takes longer than that is no idle connection.
    let slow = Request::execute(&watched.server.address, "slow", "a", "sleep 0.9; sleep 0.9; echo done");
    let answer = slow.send().await.done();
    assert!(answer.to_string().contains("timed out") || answer.to_string().contains("done"), "{answer}");
}

#[tokio::test]
async fn a_header_without_end_is_cut() {
    let watched = impatient(&[]);
    let mut flood = connect(&watched).await;
    let _ = flood.write_all(b"GET /health HTTP/1.1\r\n").await;
    let line = format!("X-{}: {}\r\n", "n".repeat(100), "x".repeat(4_000));
    let mut sent = 0;
    while sent < 64 << 20 && flood.write_all(line.as_bytes()).await.is_ok() {
        sent += line.len();
    }
    assert!(sent < 32 << 20, "{sent} bytes of headers were read");
    watched.is_well().await;

    // On HTTP/2, a block of headers in ever more frames.
    let mut flood = begin(&watched).await;
    let _ = flood.write_all(&framed(HEADERS, 0, 1, &request_headers())).await;
    let more = framed(CONTINUATION, 0, 1, &literal("x-header", &"x".repeat(120)).repeat(100));
    let mut sent = 0;
    while sent < 64 << 20 && flood.write_all(&more).await.is_ok() {
        sent += more.len();
    }
    assert!(sent < 32 << 20, "{sent} bytes of headers were read");
    watched.is_well().await;
}

#[tokio::test]
async fn requests_that_are_taken_back_at_once_are_an_attack() {
    let watched = impatient(&[]);
    let mut rapid = begin(&watched).await;
    let (mut reader, mut writer) = rapid.split();
    let flood = async {
        for first in (0..200_000_u32).step_by(500) {
            let requests = (first..first + 500).flat_map(|number| {
                let stream = 2 * number + 1;
                let request = framed(HEADERS, END_HEADERS, stream, &request_headers());
                [request, framed(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
            });
            if writer.write_all(&requests.collect::<Vec<_>>()).await.is_err() {
                return true;
            }
        }
        false
    };
    let mut said = Vec::new();
    let (hung_up, _) =
        timeout(PATIENCE, async { tokio::join!(flood, reader.read_to_end(&mut said)) }).await.expect("it is closed");
    assert!(hung_up, "it took 200,000 requests");
    let reason = frames(&said).find(|frame| frame.kind == GOAWAY).map(|frame| number(&frame.payload[4..8]));
    // What it said may be lost with the connection.
    assert!(reason.is_none_or(|reason| reason == ENHANCE_YOUR_CALM), "{reason:?}");
    watched.is_well().await;
}

#[tokio::test]
async fn a_trainer_may_take_many_requests_back() {
    let watched = impatient(&[]);
    let mut hurried = begin(&watched).await;
    let requests = (0..100_u32).flat_map(|number| {
        let stream = 2 * number + 1;
        let request = framed(HEADERS, END_HEADERS, stream, &request_headers());
        [request, framed(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    });
    hurried.write_all(&requests.collect::<Vec<_>>()).await.expect("it reads");
    // And is answered all the same.
    let last = [framed(HEADERS, END_HEADERS, 201, &request_headers()), framed(DATA, 1, 201, &[0, 0, 0, 0, 0])];
    hurried.write_all(&last.concat()).await.expect("it reads");
    let mut said = Vec::new();
    let answered = async {
        while !frames(&said).any(|frame| frame.kind == HEADERS && frame.stream == 201) {
            assert!(hurried.read_buf(&mut said).await.expect("it is open") > 0, "it is closed");
        }
    };
    timeout(PATIENCE, answered).await.expect("it answers");
}

#[tokio::test]
async fn nobody_waits_for_what_a_stranger_has_to_say() {
    let watched = Watched::with(|command| {
        command.env("TOOL_EXECUTOR_TOKEN", "s3cret");
    });
    let mut stranger = begin(&watched).await;
    // Calls that never come.
    for number in 0..100_u32 {
        let request = framed(HEADERS, END_HEADERS, 2 * number + 1, &request_headers());
        stranger.write_all(&request).await.expect("it reads");
    }
    const END_STREAM: u8 = 1;
    let mut said = Vec::new();
    let refused = async {
        while frames(&said).filter(|frame| frame.kind == HEADERS && frame.flags & END_STREAM != 0).count() < 100 {
            assert!(stranger.read_buf(&mut said).await.expect("it is open") > 0, "it is closed");
        }
    };
    timeout(PATIENCE, refused).await.expect("each is refused at once");
    watched.no_panics();
}

#[tokio::test]
async fn streams_of_a_connection_are_bounded() {
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    let watched = impatient(&[("MAX_STREAMS_PER_CONNECTION", "7")]);
    let mut connection = begin(&watched).await;
    let mut said = Vec::new();
    // Streams that stay open, one too many.
    for number in 0..8_u32 {
        let request = framed(HEADERS, END_HEADERS, 2 * number + 1, &request_headers());
        connection.write_all(&request).await.expect("it reads");
    }
    let refused = async {
        while !frames(&said).any(|frame| frame.kind == RST_STREAM) {
            assert!(connection.read_buf(&mut said).await.expect("it is open") > 0, "it is closed");
        }
    };
    timeout(PATIENCE, refused).await.expect("one is refused");
    let settings =
        frames(&said).find(|frame| frame.kind == SETTINGS && !frame.payload.is_empty()).expect("its settings");
    let told = settings.payload.chunks(6).find(|setting| setting[..2] == MAX_CONCURRENT_STREAMS.to_be_bytes());
    assert_eq!(told.map(|setting| number(&setting[2..])), Some(7));
    assert!(frames(&said).filter(|frame| frame.kind == RST_STREAM).all(|frame| frame.stream == 15));
    watched.is_well().await;
}

#[tokio::test]
async fn a_client_that_answers_no_question_is_gone() {
    let watched = impatient(&[("KEEPALIVE_INTERVAL", "1s"), ("KEEPALIVE_TIMEOUT", "1s")]);
    let mut deaf = begin(&watched).await;
    until_closed(&mut deaf).await;
    watched.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_there_may_be_are_closed_at_once() {
    let watched = impatient(&[("MAX_CONNECTIONS", "20"), ("HANDSHAKE_TIMEOUT", "1h")]);
    let mut held = Vec::new();
    for _ in 0..20 {
        let mut connection = connect(&watched).await;
        connection.write_all(&PREFACE[..1]).await.expect("it reads");
        held.push(connection);
    }
    for _ in 0..100 {
        assert!(until_closed(&mut connect(&watched).await).await.is_empty());
    }
    drop(held);
    // As soon as it has seen that they are gone.
    let mut answer = Vec::new();
    let asked = Instant::now();
    while answer.is_empty() {
        assert!(asked.elapsed() < PATIENCE, "it is never served again");
        let mut connection = connect(&watched).await;
        let request = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let _ = connection.write_all(request).await;
        answer = until_closed(&mut connection).await;
    }
    watched.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_is_never_finished_is_ended() {
    let authority = Authority::new();
    let identity = authority.server("executor");
    let watched = impatient(&identity.settings());
    let mut stuck = Vec::new();
    for said in [
        &b""[..],
        // The beginning of a record that says that much follows.
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        for _ in 0..100 {
            let mut connection = connect(&watched).await;
            connection.write_all(said).await.expect("it reads");
            stuck.push(connection);
        }
    }
    let channel = watched.server.private_channel(authority.trusted_by_tonic(None)).await;
    channel.expect("whoever does it right is let in meanwhile");
    for connection in &mut stuck {
        until_closed(connection).await;
    }
    watched.no_panics();
    let channel = watched.server.private_channel(authority.trusted_by_tonic(None)).await;
    channel.expect("and afterwards");
}

/// A connection on which HTTP/2 has begun.
async fn begin(watched: &Watched) -> TcpStream {
    let mut connection = connect(watched).await;
    connection.write_all(&[PREFACE, &framed(SETTINGS, 0, 0, &[])].concat()).await.expect("it reads");
    connection
}

/// Of a call whose message is still to come.
fn request_headers() -> Vec<u8> {
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/toolexecutor.v1.ToolExecutor/Execute"),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    headers.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

/// Those that are whole.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_at_checked(9)?;
        let length = number(&[&[0], &head[..3]].concat()) as usize;
        let (payload, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        Some(Frame { kind: head[3], flags: head[4], stream: number(&head[5..9]), payload })
    })
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}
