//! The program `genie`. Everything it does is in the library of the same name.

/// Commands are made on one thread and end on another, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    if let Err(sentence) = genie::core_dumps::forbid() {
        return genie::cli::fail(sentence); // before any key is read
    }
    // reqwest asks for a provider to be chosen; this is the first thing that happens, so none was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    genie::cli::run()
}
