//! `GENIE_DATA_DIR/genie.sock`: commands reach the server that runs on that data folder through it.
//! Only the operator may connect (mode 0600).

use std::path::PathBuf;

use crate::config::Config;

/// The command's end of the socket.
pub mod client;
/// The requests of commands.
pub mod requests;
/// The server's end of the socket.
pub mod server;

/// The longest path of a socket that fits into `sun_path` on every system (104 bytes with the final
/// zero on macOS, 108 on Linux).
const LONGEST_PATH: usize = 103;

fn path(config: &Config) -> PathBuf {
    config.data_dir.join("genie.sock")
}
