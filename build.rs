//! Compiles the protocols, without protoc: protox parses them, tonic-prost-build generates the code.
use std::{env, error::Error, fs, path::PathBuf};

use protox::prost::Message as _;

const PUBLIC: &str = "toolexecutor/v1/tool_executor.proto";
const JOURNAL: &str = "journal/v1/journal.proto";
const SANDBOX: &str = "sandbox/v1/sandbox.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let public = protox::compile([PUBLIC], ["proto"])?;
    fs::write(out.join("tool_executor.bin"), public.encode_to_vec())?;
    let sandbox = protox::compile([SANDBOX], ["proto"])?;
    fs::write(out.join("sandbox.bin"), sandbox.encode_to_vec())?;
    for protocol in [public, sandbox] {
        let mut config = tonic_prost_build::Config::new();
        // The codec finds a message's description by its name.
        config.enable_type_names();
        tonic_prost_build::configure()
            .bytes(".")
            .codec_path("crate::pb::codec::Codec")
            .compile_fds_with_config(protocol, config)?;
    }

    let journal = protox::compile([JOURNAL], ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(journal)?;

    // Every slot's helper processes are this binary again. Loaded at a fixed address it needs no relocations of its
    // own, so that a helper holds 140 KiB of memory instead of 604 and starts 0.3 ms sooner.
    if env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|libc| libc == "gnu") {
        println!("cargo:rustc-link-arg-bins=-no-pie");
    }
    Ok(())
}
