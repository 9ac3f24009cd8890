//! Confines itself and becomes another program, as `genie sandbox-exec` does.

fn main() -> std::process::ExitCode {
    genie_media::sandbox::exec_if_asked().unwrap_or(std::process::ExitCode::FAILURE)
}
