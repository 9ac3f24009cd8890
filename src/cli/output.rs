//! The output of commands.

use std::io::Write;

/// Prints a line. A reader that has gone away is no error.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
