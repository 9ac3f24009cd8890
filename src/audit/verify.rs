//! `genie audit verify`: the whole log against its digests, its tree and its signed heads, and heads that were kept outside.

use std::{fs::File, io::BufReader, path::Path};

use genie_log::{Log, heads::Notes, verify::CantVerify};

use crate::app::say;

/// Checks, and prints what was checked; an error names the first position that is bad.
pub async fn run(log: Log, heads: Option<&Path>) -> Result<(), String> {
    let file = heads.map(|path| File::open(path).map_err(|error| format!("{}: {error}", path.display()))).transpose()?;
    let pinned = file.into_iter().flat_map(|file| Notes::new(BufReader::new(file)));
    let verified = log.verify(pinned).await.map_err(|error| match error {
        CantVerify::Log(error) => format!("the log can't be read: {error}"),
        wrong => format!("the log does not verify: {wrong}"),
    })?;
    say(&format!("verified {} facts, {} heads", verified.facts, verified.heads));
    if heads.is_some() {
        say(&format!("{} heads kept outside agree with them", verified.pinned));
    }
    if verified.covered < verified.facts {
        let (facts, from) = (verified.facts - verified.covered, verified.covered + 1);
        say(&format!("no signed head covers the last {facts} facts yet, from position {from} on"));
    }
    if verified.uncounted > 0 {
        say(&format!("the order among their owner's was not checked for {} facts: too many owners", verified.uncounted));
    }
    Ok(())
}
