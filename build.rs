//! Generates the peers' wire types from `proto/raft.proto`, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/raft.proto");
    let files = protox::compile(["raft.proto"], ["proto"])?;
    // `Bytes` fields share the received buffer instead of copying each entry.
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
