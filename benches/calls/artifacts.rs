//! Files of a workspace: a list and an archive of many small ones, and one large one against `cat` to a pipe.

use std::{
    io::Read as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tokio::runtime::Runtime;
use tool_executor::pb::toolexecutor::{
    ArchiveArtifactsRequest, ArtifactFormat, ListArtifactsRequest, ReadArtifactRequest, read_artifact_response,
    tool_executor_client::ToolExecutorClient,
};

use crate::{
    Result,
    load::{self, Trajectory},
    micros,
    servers::Server,
    support::process,
};

const ID: &str = "artifacts";
const FILES: u64 = 1000;
const ROUNDS: usize = 50;
/// Of the large file.
const BYTES: u64 = 2_000_000_000;
const GOALS: [(&str, f64); 2] = [("list", 5_000.0), ("archive", 25_000.0)];

pub(crate) fn measure(runtime: &Runtime) -> Result<()> {
    let server = Server::executor()?;
    runtime.block_on(async {
        let channel = load::connect(&server.address).await?;
        let mut trajectory = Trajectory::open(channel.clone(), ID.to_owned()).await?;
        trajectory.shell(format!("mkdir many; cd many; for i in $(seq {FILES}); do echo $i > $i; done")).await?;
        trajectory.shell(format!("head -c {BYTES} /dev/zero > large")).await?;
        let mut client = ToolExecutorClient::new(channel);

        let (mut lists, mut archives) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let request = ListArtifactsRequest {
                trajectory_id: ID.into(),
                path: "many".into(),
                ..ListArtifactsRequest::default()
            };
            let listed = client.list_artifacts(request).await?.into_inner().artifacts.len() as u64;
            lists.push(begun.elapsed());
            let begun = Instant::now();
            let request = ArchiveArtifactsRequest {
                trajectory_id: ID.into(),
                path: "many".into(),
                format: ArtifactFormat::TarGz.into(),
                max_bytes: 0,
            };
            let mut answers = client.archive_artifacts(request).await?.into_inner();
            while answers.message().await?.is_some() {}
            archives.push(begun.elapsed());
            if listed != FILES {
                return Err(format!("{listed} files are listed").into());
            }
        }
        for ((what, goal), times) in GOALS.into_iter().zip([lists, archives]) {
            let (median, p99) = load::percentiles(times);
            println!(
                "{what:8} of {FILES} files   p50 {:7.0} us   p99 {:7.0} us   goal <= {goal:.0} us",
                micros(median),
                micros(p99)
            );
        }

        let begun = Instant::now();
        let request =
            ReadArtifactRequest { trajectory_id: ID.into(), path: "large".into(), ..ReadArtifactRequest::default() };
        let mut answers = client.read_artifact(request).await?.into_inner();
        let mut bytes = 0;
        while let Some(answer) = answers.message().await? {
            if let Some(read_artifact_response::Message::Chunk(chunk)) = answer.message {
                bytes += chunk.len() as u64;
            }
        }
        let executor = rate(bytes, begun.elapsed());
        let cat = cat()?;
        println!(
            "a file of {} MB   {executor:.0} MB/s   cat to a pipe {cat:.0} MB/s   peak memory: executor {:.0} MB",
            BYTES / 1_000_000,
            process::peak_memory(server.pid()) as f64 / 1e6,
        );
        trajectory.release().await
    })
}

fn rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64() / 1e6
}

/// Of a file as large, which is in the cache as the other was.
fn cat() -> Result<f64> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("large");
    std::io::copy(&mut std::io::repeat(0).take(BYTES), &mut std::fs::File::create(&path)?)?;
    let begun = Instant::now();
    let mut cat = Command::new("cat").arg(&path).stdout(Stdio::piped()).spawn()?;
    let mut stdout = cat.stdout.take().ok_or("it has no output")?;
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        match stdout.read(&mut buffer)? {
            0 => break,
            read => bytes += read as u64,
        }
    }
    cat.wait()?;
    Ok(rate(bytes, begun.elapsed()))
}
