//! Parses the command line, runs it, turns an error into an exit code.

/// Every message makes and frees some dozens of small blocks; docs/decisions/2026-11-25-mimalloc.md
/// has the measurements.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    zoneq::cli::main()
}
