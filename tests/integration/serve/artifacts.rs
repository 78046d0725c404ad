//! Files of a workspace over the public protocol: read, listed, brought, packed and unpacked.

use std::{
    io::Read as _,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};
use tokio_stream::iter;
use tonic::{Code, Status};
use tool_executor::pb::toolexecutor::{
    ArchiveArtifactsRequest, Artifact, ArtifactFormat, ListArtifactsRequest, Open, ReadArtifactRequest, Reset,
    TrajectoryOptions, TransferSummary, WriteArtifactHeader, WriteArtifactRequest, archive_artifacts_response,
    read_artifact_response, trajectory_request::Message as Request, trajectory_response::Message as Response,
    write_artifact_request,
};

use crate::support::{
    client::{PATIENCE, Stream, open},
    server::Server,
};

const ID: &str = "artifacts";

struct Bed {
    server: Server,
    stream: Stream,
}

impl Bed {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn with(settings: &[(&str, &str)]) -> Self {
        let server = Server::with(settings);
        let stream = Stream::open(&server, ID).await;
        let mut bed = Self { server, stream };
        bed.sh("true").await;
        bed
    }

    async fn sh(&mut self, script: &str) -> String {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
        let result = self.stream.bash(&id, script).await;
        assert!(result.success, "{script}: {result:?}");
        result.output
    }

    async fn read(
        &self,
        path: &str,
        offset: u64,
        max_bytes: u64,
    ) -> Result<(Artifact, Vec<u8>, TransferSummary), Status> {
        let request = ReadArtifactRequest { trajectory_id: ID.into(), path: path.into(), offset, max_bytes };
        let mut answers = self.server.client().await.read_artifact(request).await?.into_inner();
        let (mut artifact, mut content, mut summary) = (None, Vec::new(), None);
        while let Some(answer) = tokio::time::timeout(PATIENCE, answers.message()).await.expect("in time")? {
            match answer.message.expect("a message") {
                read_artifact_response::Message::Artifact(first) => artifact = Some(first),
                read_artifact_response::Message::Chunk(chunk) => content.extend(chunk),
                read_artifact_response::Message::Summary(last) => summary = Some(last),
            }
        }
        Ok((artifact.expect("an artifact"), content, summary.expect("a summary")))
    }

    async fn write(
        &self,
        path: &str,
        format: ArtifactFormat,
        mode: u32,
        content: &[u8],
    ) -> Result<TransferSummary, Status> {
        write(&self.server, path, format, mode, content).await
    }

    async fn archive(
        &self,
        path: &str,
        format: ArtifactFormat,
        max_bytes: u64,
    ) -> Result<(Vec<u8>, TransferSummary), Status> {
        let request =
            ArchiveArtifactsRequest { trajectory_id: ID.into(), path: path.into(), format: format.into(), max_bytes };
        let mut answers = self.server.client().await.archive_artifacts(request).await?.into_inner();
        let (mut content, mut summary) = (Vec::new(), None);
        while let Some(answer) = tokio::time::timeout(PATIENCE, answers.message()).await.expect("in time")? {
            match answer.message.expect("a message") {
                archive_artifacts_response::Message::Chunk(chunk) => content.extend(chunk),
                archive_artifacts_response::Message::Summary(last) => summary = Some(last),
            }
        }
        Ok((content, summary.expect("a summary")))
    }

    /// All pages, each of at most so many.
    async fn list(&self, path: &str, recursive: bool, include_hidden: bool, page_size: u32) -> Vec<String> {
        let mut request = ListArtifactsRequest {
            trajectory_id: ID.into(),
            path: path.into(),
            recursive,
            include_hidden,
            page_size,
            page_token: String::new(),
        };
        let mut paths = Vec::new();
        loop {
            let page = self.server.client().await.list_artifacts(request.clone()).await.expect("a page").into_inner();
            assert!(page_size == 0 || page.artifacts.len() <= page_size as usize);
            paths.extend(page.artifacts.into_iter().map(|artifact| artifact.path));
            if page.next_page_token.is_empty() {
                return paths;
            }
            request.page_token = page.next_page_token;
        }
    }
}

async fn write(
    server: &Server,
    path: &str,
    format: ArtifactFormat,
    mode: u32,
    content: &[u8],
) -> Result<TransferSummary, Status> {
    let header = WriteArtifactHeader { trajectory_id: ID.into(), path: path.into(), format: format.into(), mode };
    let first = write_artifact_request::Message::Header(header);
    let chunks = content.chunks(100_000).map(|chunk| write_artifact_request::Message::Chunk(chunk.to_vec().into()));
    let messages: Vec<_> =
        std::iter::once(first).chain(chunks).map(|message| WriteArtifactRequest { message: Some(message) }).collect();
    let mut client = server.client().await;
    let answer = tokio::time::timeout(PATIENCE, client.write_artifact(iter(messages))).await.expect("in time")?;
    Ok(answer.into_inner().summary.expect("a summary"))
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_whole_and_in_ranges() {
    let mut bed = Bed::new().await;
    bed.sh("printf hello > a.txt; printf 'a\\0b' > data; head -c 3000000 /dev/zero | tr '\\0' x > big; chmod 640 big")
        .await;
    let (artifact, content, summary) = bed.read("a.txt", 0, 0).await.expect("it is there");
    assert_eq!((&*artifact.path, artifact.size, &*artifact.media_type), ("a.txt", 5, "text/plain"));
    assert_eq!((&*content, summary.bytes, summary.truncated), (&b"hello"[..], 5, false));
    assert_eq!(summary.sha256, sha256(b"hello"));
    assert_eq!(bed.read("data", 0, 0).await.expect("it is there").0.media_type, "application/octet-stream");
    let (_, content, summary) = bed.read("/workspace/a.txt", 1, 3).await.expect("it is there");
    assert_eq!((&*content, summary.truncated, summary.sha256), (&b"ell"[..], true, sha256(b"ell")));
    let (artifact, content, summary) = bed.read("big", 0, 0).await.expect("it is there");
    assert_eq!((artifact.mode, content.len(), summary.bytes), (0o640, 3_000_000, 3_000_000));
    assert_eq!(summary.sha256, sha256(&content));
    assert_eq!(bed.read("a.txt", 5, 0).await.expect("its end is in it").1, b"");
    let big = Bed { server: bed.server, stream: bed.stream };
    for (path, offset, code) in [
        ("nope", 0, Code::NotFound),
        ("a.txt", 6, Code::OutOfRange),
        ("../x", 0, Code::PermissionDenied),
        ("/etc/passwd", 0, Code::PermissionDenied),
        (".", 0, Code::FailedPrecondition),
        ("", 0, Code::InvalidArgument),
    ] {
        assert_eq!(big.read(path, offset, 0).await.expect_err(path).code(), code, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_are_listed_page_by_page() {
    let mut bed = Bed::new().await;
    bed.sh("mkdir -p a/b c .h; touch a/1 a/2 a/b/3 c/4 .h/5 z a/.i; ln -s / out").await;
    assert_eq!(bed.list("", false, false, 0).await, ["a", "c", "out", "z"]);
    assert_eq!(bed.list("a", false, true, 0).await, ["a/.i", "a/1", "a/2", "a/b"]);
    let all = ["a", "a/1", "a/2", "a/b", "a/b/3", "c", "c/4", "out", "z"];
    for page_size in [0, 1, 2, 3, 8, 9, 10] {
        assert_eq!(bed.list("", true, false, page_size).await, all, "in pages of {page_size}");
    }
    assert_eq!(bed.list("/workspace/a/b", true, false, 1).await, ["/workspace/a/b/3"]);
    let list = |path: &str| ListArtifactsRequest { trajectory_id: ID.into(), path: path.into(), ..Default::default() };
    for (path, code) in [
        ("nope", Code::NotFound),
        ("z", Code::FailedPrecondition),
        ("out", Code::PermissionDenied),
        ("..", Code::PermissionDenied),
    ] {
        let refused = bed.server.client().await.list_artifacts(list(path)).await.expect_err(path);
        assert_eq!(refused.code(), code, "{path}: {refused:?}");
    }
    bed.sh("mkdir many; cd many; touch $(seq 1000)").await;
    let asked = Instant::now();
    assert_eq!(bed.list("many", false, false, 0).await.len(), 1000);
    println!("list of 1,000 with a new connection: {:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_brought_whole_or_not_at_all() {
    let mut bed = Bed::with(&[("SANDBOX_MAX_FILE_SIZE", "2MB")]).await;
    let content: Vec<u8> = (0..1_500_000_u32).map(|i| i as u8).collect();
    let summary = bed.write("deep/er/file", ArtifactFormat::Raw, 0o755, &content).await.expect("it is written");
    assert_eq!((summary.bytes, summary.entries, summary.sha256), (1_500_000, 1, sha256(&content)));
    assert_eq!(
        bed.sh("stat -c '%s %a' deep/er/file; id -u > /dev/null; test -O deep/er/file && echo own").await,
        "1500000 755\nown"
    );
    assert_eq!(bed.read("deep/er/file", 0, 0).await.expect("it is there").1, content);
    bed.write("deep/er/file", ArtifactFormat::Raw, 0, b"").await.expect("it is replaced");
    assert_eq!(bed.sh("stat -c '%s %a' deep/er/file").await, "0 644");

    bed.sh("echo old > kept").await;
    let refused = bed.write("kept", ArtifactFormat::Raw, 0, &vec![0; 3_000_000]).await.expect_err("it is too large");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("max_file_size"), "{refused:?}");
    for (path, code) in [
        ("../x", Code::PermissionDenied),
        ("deep", Code::FailedPrecondition),
        ("kept/x", Code::FailedPrecondition),
        ("/tmp/x", Code::PermissionDenied),
    ] {
        assert_eq!(bed.write(path, ArtifactFormat::Raw, 0, b"x").await.expect_err(path).code(), code, "{path}");
    }
    assert_eq!(
        bed.write("x", ArtifactFormat::Unspecified, 0, b"x").await.expect_err("no format").code(),
        Code::InvalidArgument
    );
    assert_eq!(
        bed.write("x", ArtifactFormat::Raw, 0o4755, b"x").await.expect_err("a bit").code(),
        Code::InvalidArgument
    );
    assert_eq!(bed.sh("cat kept; find . | sort").await, "old\n.\n./deep\n./deep/er\n./deep/er/file\n./kept");
}

/// A client that goes away in the middle leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_upload_leaves_nothing() {
    let mut bed = Bed::new().await;
    bed.sh("echo old > kept").await;
    let (requests, receiver) = tokio::sync::mpsc::channel(4);
    let header = WriteArtifactHeader {
        trajectory_id: ID.into(),
        path: "kept".into(),
        format: ArtifactFormat::Raw.into(),
        mode: 0,
    };
    for message in [
        write_artifact_request::Message::Header(header),
        write_artifact_request::Message::Chunk(vec![0; 200_000].into()),
    ] {
        requests.send(WriteArtifactRequest { message: Some(message) }).await.expect("there is room");
    }
    let mut client = bed.server.client().await;
    let writing =
        tokio::spawn(async move { client.write_artifact(tokio_stream::wrappers::ReceiverStream::new(receiver)).await });
    while bed.sh("ls -A").await == "kept" {}
    writing.abort();
    let _ = writing.await;
    drop(requests);
    while bed.sh("ls -A").await != "kept" {}
    assert_eq!(bed.sh("cat kept").await, "old");
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_go_out_and_in() {
    let mut bed = Bed::new().await;
    bed.sh("mkdir -p t/sub; cd t; echo one > one; chmod 755 one; echo two > sub/two; ln -s one link; mkfifo fifo; head -c 400000 /dev/urandom > sub/big").await;
    for format in [ArtifactFormat::Tar, ArtifactFormat::TarGz, ArtifactFormat::TarZst] {
        let (content, summary) = bed.archive("t", format, 0).await.expect("it is packed");
        assert_eq!((summary.bytes, summary.entries), (content.len() as u64, 5), "{format:?}");
        assert_eq!(summary.sha256, sha256(&content));
        let unpacked: Vec<u8> = match format {
            ArtifactFormat::TarGz => {
                let mut bytes = Vec::new();
                flate2::read::GzDecoder::new(&*content).read_to_end(&mut bytes).expect("it is gzip");
                bytes
            }
            ArtifactFormat::TarZst => zstd::decode_all(&*content).expect("it is zstd"),
            _ => content.clone(),
        };
        let mut archive = tar::Archive::new(&*unpacked);
        let names: Vec<_> = archive
            .entries()
            .expect("entries")
            .map(|entry| entry.expect("an entry").path().expect("a path").display().to_string())
            .collect();
        assert_eq!(names, ["link", "one", "sub", "sub/big", "sub/two"]);
        let summary = bed.write("back", format, 0, &content).await.expect("it is unpacked");
        assert_eq!((summary.entries, summary.bytes), (5, content.len() as u64));
        let same = "rm t/fifo 2>/dev/null; diff -r t back && stat -c %a back/one && readlink back/link && ls -A";
        assert_eq!(bed.sh(same).await, "755\none\nback\nt", "{format:?}");
        bed.write("back", format, 0, &content).await.expect("it is unpacked over what is there");
        bed.sh("rm -r back; mkfifo t/fifo").await;
    }
    let refused = bed.archive("t", ArtifactFormat::Tar, 1000).await.expect_err("it is larger");
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, "Archive too large: over 1000 bytes"));
    for (path, code) in [("nope", Code::NotFound), ("..", Code::PermissionDenied)] {
        assert_eq!(bed.archive(path, ArtifactFormat::Tar, 0).await.expect_err(path).code(), code, "{path}");
    }
    bed.sh("mkdir many; cd many; for i in $(seq 1000); do echo $i > $i; done").await;
    let asked = Instant::now();
    let (content, summary) = bed.archive("many", ArtifactFormat::TarGz, 0).await.expect("it is packed");
    println!("archive of 1,000: {} bytes in {:?}", content.len(), asked.elapsed());
    assert_eq!(summary.entries, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_workspace_there_are_no_files() {
    let server = Server::start();
    let list = || ListArtifactsRequest { trajectory_id: ID.into(), ..Default::default() };
    let asked = server.client().await.list_artifacts(list()).await.expect_err("nobody knows it");
    assert_eq!(asked.code(), Code::NotFound);
    let mut stream = Stream::open(&server, ID).await;
    let asked = server.client().await.list_artifacts(list()).await.expect_err("it has no slot");
    assert_eq!(
        (asked.code(), asked.message()),
        (Code::FailedPrecondition, "No active slot for trajectory (run a sandbox tool first)")
    );
    assert!(stream.bash("1", "true").await.success);
    server.client().await.list_artifacts(list()).await.expect("it has one");
    // Its processes are killed, and so its workspace is gone.
    let slot = crate::support::process::tree(server.agents()[0]);
    for pid in slot.into_iter().rev() {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("it is not 0");
        if pid.as_raw_pid().cast_unsigned() != server.agents()[0] {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    stream.until(|message| matches!(message, Response::Notice(_)).then_some(())).await;
    let asked = server.client().await.list_artifacts(list()).await.expect_err("it is gone");
    assert_eq!(asked.code(), Code::FailedPrecondition, "{asked:?}");
}

/// A transfer that runs keeps the trajectory alive, and a reset ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_keeps_the_lease_and_ends_with_its_workspace() {
    let server = Server::start();
    let lease = Some(prost_types::Duration { seconds: 0, nanos: 300_000_000 });
    let options = Some(TrajectoryOptions { lease, ..Default::default() });
    let mut stream = Stream::try_open(&server, Open { options, ..open(ID) }).await.expect("it opens");
    assert!(stream.bash("1", "truncate -s 1G big").await.success);
    let request = || ReadArtifactRequest { trajectory_id: ID.into(), path: "big".into(), ..Default::default() };
    let mut reading = server.client().await.read_artifact(request()).await.expect("it is there").into_inner();
    reading.message().await.expect("it begins");
    drop(stream);
    tokio::time::sleep(Duration::from_millis(900)).await;
    let resume = Open { require_existing: true, ..open(ID) };
    let mut stream = Stream::try_open(&server, resume).await.expect("it lives for as long as somebody reads");
    assert_eq!(stream.opened.generation, 1, "it has its workspace");
    stream.send(Request::Reset(Reset { generation: 1 })).await;
    stream.until(|message| matches!(message, Response::WorkspaceReset(_)).then_some(())).await;
    let ended = loop {
        match tokio::time::timeout(PATIENCE, reading.message()).await.expect("in time") {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(ended.expect_err("its file is gone").code(), Code::Aborted);
    let asked = server.client().await.read_artifact(request()).await.expect_err("the workspace is empty");
    assert_eq!(asked.code(), Code::NotFound);
}

/// A file of any size costs the same memory, and delays nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_costs_little_memory() {
    let mut bed = Bed::new().await;
    bed.sh("truncate -s 300M big").await;
    let agent = bed.server.agents()[0];
    let request = ReadArtifactRequest { trajectory_id: ID.into(), path: "big".into(), ..Default::default() };
    let mut answers = bed.server.client().await.read_artifact(request).await.expect("it is there").into_inner();
    let reading = tokio::spawn(async move {
        let mut bytes = 0;
        while let Some(answer) = answers.message().await.expect("it goes on") {
            if let Some(read_artifact_response::Message::Chunk(chunk)) = answer.message {
                bytes += chunk.len() as u64;
            }
        }
        bytes
    });
    let mut slowest = Duration::ZERO;
    let mut other = Stream::open(&bed.server, "other").await;
    for number in 0..20 {
        let asked = Instant::now();
        assert!(other.bash(&number.to_string(), "true").await.success);
        slowest = slowest.max(asked.elapsed());
    }
    println!("beside it the slowest of 20 calls took {slowest:?}");
    assert_eq!(reading.await.expect("it reads"), 300 << 20);
    let executor = u32::try_from(bed.server.pid().as_raw_pid()).expect("a process");
    for (who, pid) in [("agent", agent), ("executor", executor)] {
        let peak = crate::support::process::peak_memory(pid);
        println!("{who}: {peak} bytes");
        assert!(peak < 120 << 20, "{who}: {peak} bytes");
    }
}
