//! The program `genie`. Its code is in the library of the same name.

/// Commands are allocated on one thread and freed on another, which the system's allocator does
/// slowly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    if let Some(code) = genie_media::sandbox::exec_if_asked() {
        return code;
    }
    if let Err(sentence) = genie::core_dumps::forbid() {
        return genie::cli::fail(sentence); // before any key is read
    }
    genie::data_folder::make_private_files();
    // reqwest needs a chosen provider. An error would mean that one is chosen already, which is as
    // good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    genie::cli::run()
}
