//! The command line.

use std::process::ExitCode;

use mimalloc::MiMalloc;

// A request takes and gives back some hundred small pieces, many of them freed by another thread: the log's writer.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    portcullis::cli::main()
}
