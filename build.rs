//! Generates the protobuf and gRPC code with protox, so that no `protoc` need be installed.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    for package in ["queue", "admin", "peer", "geo", "log"] {
        for entry in std::fs::read_dir(format!("proto/zoneq/{package}/v1"))? {
            files.push(entry?.path());
        }
    }
    files.sort();
    println!("cargo:rerun-if-changed=proto");

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(false).open_files(&files)?;
    let descriptors = compiler.file_descriptor_set();
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;

    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        // Rare, and larger than all others.
        .boxed(".zoneq.log.v1.Envelope.command.region")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
