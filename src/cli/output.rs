//! The output of commands.

use std::io::Write;

/// Prints a line. The reader may have gone away, which is no error.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
