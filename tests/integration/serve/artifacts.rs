//! Files of a workspace over the public protocol: read, listed, brought, packed and unpacked.

use std::{
    io::Read as _,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};
use tokio_stream::iter;
use tonic::{Code, Status};
use tool_executor::pb::toolexecutor::{
    ArchiveArtifactsRequest, Artifact, ArtifactFormat, Call, ListArtifactsRequest, Open, ReadArtifactRequest, Reset,
    TrajectoryOptions, TransferSummary, WriteArtifactHeader, WriteArtifactRequest, archive_artifacts_response,
    read_artifact_response, trajectory_request::Message as Request, trajectory_response::Message as Response,
    write_artifact_request,
};

use crate::support::{
    client::{PATIENCE, Stream, bash, open, seconds},
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

/// Tries to bring more than there is room for, as a file and as archives, to where `kept` lies.
async fn nothing_of_what_does_not_fit_is_left(bed: &mut Bed, limit: &str) {
    bed.sh("echo old > kept").await;
    let content = vec![b'x'; 30 << 20];
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    for (name, size) in [("small", 5), ("kept", content.len())] {
        header.set_size(size as u64);
        archive.append_data(&mut header, name, &content[..size]).expect("it is packed");
    }
    let tar = archive.into_inner().expect("it is whole");
    let zst = zstd::encode_all(&*tar, 1).expect("it is packed");
    for (path, format, content) in
        [("kept", ArtifactFormat::Raw, &content), (".", ArtifactFormat::Tar, &tar), (".", ArtifactFormat::TarZst, &zst)]
    {
        let refused = bed.write(path, format, 0, content).await.expect_err("there is no room for it");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{format:?}: {refused:?}");
        assert!(refused.message().contains(limit), "{format:?}: {}", refused.message());
        assert_eq!(bed.sh("cat kept; ls -A").await, "old\nkept", "{format:?}");
    }
    bed.write("fits", ArtifactFormat::Raw, 0, &content[..8 << 20]).await.expect("there is room for that");
    assert_eq!(bed.sh("stat -c %s fits; rm fits").await, (8 << 20).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_workspace_is_said_and_nothing_is_half_there() {
    // In memory the kernel says so, and on disk what was measured.
    for (workspace, size) in [("tmpfs", "20MiB"), ("disk", "20MiB")] {
        let settings = [("SANDBOX_WORKSPACE", workspace), ("SANDBOX_WORKSPACE_SIZE", size)];
        let mut bed = Bed::with(&[&settings[..], &[("SANDBOX_MAX_FILE_SIZE", "1GiB")]].concat()).await;
        nothing_of_what_does_not_fit_is_left(&mut bed, "sandbox.workspace_size").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_nothing_is_half_there() {
    if !rustix::process::getuid().is_root() {
        return println!("only root can mount a small file system");
    }
    let state = tempfile::TempDir::new().expect("a directory");
    let containers = state.path().join("containers");
    std::fs::create_dir(&containers).expect("a directory");
    let mut serve = Server::command(&state);
    serve.env("TOOL_EXECUTOR_SANDBOX_WORKSPACE_SIZE", "0").env("TOOL_EXECUTOR_MAX_CONTAINERS", "1");
    let mut start = std::process::Command::new("unshare");
    start.args(["--mount", "sh", "-c", "mount -t tmpfs -o size=25m disk \"$0\" && exec \"$@\""]).arg(&containers);
    start.arg(serve.get_program()).args(serve.get_args()).current_dir(state.path()).env_clear();
    start.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let server = Server::run(start, state);
    let stream = Stream::open(&server, ID).await;
    let mut bed = Bed { server, stream };
    nothing_of_what_does_not_fit_is_left(&mut bed, "the workspace's disk").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_come_at_once_and_out_of_one_archive_is_set() {
    let settings =
        [("SANDBOX_MAX_TRANSFERS", "1"), ("SANDBOX_MAX_ARCHIVE_ENTRIES", "2"), ("SANDBOX_MAX_ARCHIVE_SIZE", "1MiB")];
    let mut bed = Bed::with(&settings).await;
    bed.sh("truncate -s 2M large; mkdir -p many/a/b; echo x > many/a/b/c").await;
    let refused = bed.archive("many", ArtifactFormat::Tar, 0).await.expect_err("it has three");
    assert_eq!(refused.message(), "Archive too large: over 2 entries (sandbox.max_archive_entries)");
    let (packed, _) = bed.archive("large", ArtifactFormat::TarZst, 0).await.expect("it is packed");
    let refused = bed.write("back", ArtifactFormat::TarZst, 0, &packed).await.expect_err("it is larger");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("sandbox.max_archive_size"), "{}", refused.message());
    assert_eq!(bed.sh("ls -A").await, "large\nmany");

    // One is not read to its end.
    bed.sh("truncate -s 100M large").await;
    let request = ReadArtifactRequest { trajectory_id: ID.into(), path: "large".into(), ..Default::default() };
    let mut answers = bed.server.client().await.read_artifact(request).await.expect("it is there").into_inner();
    let refused = bed.read("many/a/b/c", 0, 0).await.expect_err("another is under way");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().starts_with("1 transfers run in the workspace"), "{}", refused.message());
    while answers.message().await.expect("it goes on").is_some() {}
    let began = Instant::now();
    while let Err(refused) = bed.read("many/a/b/c", 0, 0).await {
        assert!(began.elapsed() < PATIENCE, "{refused:?}");
    }
}

/// They are sent as what they read as, and cost no disk that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn holes_are_zeros_to_whoever_reads_them() {
    let mut bed = Bed::new().await;
    let size: u64 = 64 << 20;
    let make =
        "mkdir t; truncate -s 64M t/sparse; printf middle | dd of=t/sparse bs=1 seek=50000000 conv=notrunc 2>/dev/null";
    bed.sh(make).await;
    let (_, content, summary) = bed.read("t/sparse", 0, 0).await.expect("it is read");
    assert_eq!((summary.bytes, content.len() as u64), (size, size));
    assert_eq!(&content[50_000_000..50_000_006], b"middle");
    assert_eq!(content.iter().filter(|byte| **byte != 0).count(), 6);
    assert_eq!(bed.sh("sha256sum < t/sparse").await, format!("{}  -", summary.sha256));
    let (packed, _) = bed.archive("t", ArtifactFormat::TarZst, 0).await.expect("it is packed");
    assert!(packed.len() < 1 << 20, "zeros are packed well: {} bytes", packed.len());
    bed.write("back", ArtifactFormat::TarZst, 0, &packed).await.expect("it is unpacked");
    bed.sh("cmp t/sparse back/sparse").await;
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

/// Ten gigabytes that are all there: more than the machine keeps in memory of a file, or ever should.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs 25 GB of disk and minutes"]
async fn ten_gigabytes_go_out_and_in_and_memory_stays_flat() {
    const GIB: u64 = 10;
    let mut bed = Bed::with(&[("SANDBOX_WORKSPACE_SIZE", "0"), ("SANDBOX_MAX_FILE_SIZE", "64GiB")]).await;
    let command = format!("for n in $(seq {GIB}); do head -c 1G /dev/urandom >> big || exit 1; done; sync");
    let made = Call { timeout: seconds(1800), ..bash("made", &command) };
    bed.stream.batch(vec![made]).await;
    let Ok(result) = tokio::time::timeout(Duration::from_secs(1800), bed.stream.result()).await else {
        panic!("it should have been made")
    };
    assert!(result.success, "{result:?}");

    let executor = u32::try_from(bed.server.pid().as_raw_pid()).expect("a process");
    let processes = [("executor", executor), ("agent", bed.server.agents()[0])];
    let peaks = || processes.map(|(who, pid)| (who, crate::support::process::peak_memory(pid)));
    let request = ReadArtifactRequest { trajectory_id: ID.into(), path: "big".into(), ..Default::default() };
    let mut answers = bed.server.client().await.read_artifact(request).await.expect("it is there").into_inner();
    // What comes out goes in again, as it comes.
    let (requests, receiver) = tokio::sync::mpsc::channel(4);
    let header = WriteArtifactHeader {
        trajectory_id: ID.into(),
        path: "back".into(),
        format: ArtifactFormat::Raw.into(),
        mode: 0,
    };
    let header = WriteArtifactRequest { message: Some(write_artifact_request::Message::Header(header)) };
    requests.send(header).await.expect("there is room");
    let mut client = bed.server.client().await;
    let writing =
        tokio::spawn(async move { client.write_artifact(tokio_stream::wrappers::ReceiverStream::new(receiver)).await });
    let began = Instant::now();
    let (mut bytes, mut early) = (0, None);
    let mut read = None;
    while let Some(answer) = answers.message().await.expect("it goes on") {
        match answer.message.expect("a message") {
            read_artifact_response::Message::Artifact(_) => {}
            read_artifact_response::Message::Chunk(chunk) => {
                bytes += chunk.len() as u64;
                if bytes > 256 << 20 && early.is_none() {
                    early = Some(peaks());
                }
                let chunk = WriteArtifactRequest { message: Some(write_artifact_request::Message::Chunk(chunk)) };
                requests.send(chunk).await.expect("it is written");
            }
            read_artifact_response::Message::Summary(summary) => read = Some(summary),
        }
    }
    drop(requests);
    let wrote = writing.await.expect("it ends").expect("it is written").into_inner().summary.expect("a summary");
    let (read, took) = (read.expect("a summary"), began.elapsed());
    println!("{} MB/s out and in again", (bytes / 1_000_000) as f64 / took.as_secs_f64());
    assert_eq!((read.bytes, wrote.bytes, read.sha256), (GIB << 30, GIB << 30, wrote.sha256));
    for ((who, early), (_, late)) in early.expect("it was large").into_iter().zip(peaks()) {
        println!("{who}: {early} bytes after 256 MiB, {late} bytes at the end");
        assert!(late < early + (32 << 20), "{who}: {early} bytes, and {late} at the end");
    }
}
