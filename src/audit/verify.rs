//! `genie audit verify`: checks the whole log against its digests, its tree, its signed heads, and
//! the heads that were kept outside. Checking an export needs no store.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use clap::Args;
use genie_log::{
    export::Export,
    signed_heads::{Notes, PublicHeadKey},
    verify::{CantVerify, Verified},
};

use crate::{audit, cli::output::say, config::Config, log_transfer};

#[derive(Args)]
pub struct VerifyArguments {
    /// A file of signed heads, as GENIE_HEADS_FILE writes it, that must agree with the log
    #[arg(long)]
    heads: Option<PathBuf>,
    /// Check the export in this folder instead of the store
    #[arg(long)]
    export: Option<PathBuf>,
    /// The public key of the heads, as `genie audit key` prints it; only with --export, which holds
    /// no key
    #[arg(long, requires = "export")]
    key: Option<String>,
    /// A file that holds the export's passphrase and that only its owner may read
    #[arg(long, requires = "export")]
    passphrase_file: Option<PathBuf>,
}

/// Checks the log or an export, and prints what was checked. An error names the first bad position.
pub fn run(config: &Config, wanted: &VerifyArguments) -> Result<(), String> {
    let verified = match &wanted.export {
        Some(dir) => of_export(config, dir, wanted)?,
        None => {
            let mut verified = Verified::default();
            audit::with_log(config, async |log| {
                verified = log
                    .proofs()
                    .verify(notes(wanted.heads.as_deref())?)
                    .await
                    .map_err(sentence)?;
                Ok(())
            })?;
            verified
        }
    };
    tell(verified, wanted.heads.is_some());
    Ok(())
}

fn of_export(config: &Config, dir: &Path, wanted: &VerifyArguments) -> Result<Verified, String> {
    let key = wanted
        .key
        .as_deref()
        .map(PublicHeadKey::parse)
        .transpose()
        .map_err(|error| format!("--key: {error}"))?;
    if wanted.heads.is_some() && key.is_none() {
        return Err("--heads with an export needs --key, as `genie audit key` prints it".into());
    }
    let passphrase = log_transfer::passphrase(config, wanted.passphrase_file.as_deref(), false)?;
    let export = Export::open(dir, &passphrase).map_err(|error| error.to_string())?;
    export
        .verify(notes(wanted.heads.as_deref())?, key.as_ref())
        .map_err(sentence)
}

fn notes(
    heads: Option<&Path>,
) -> Result<impl Iterator<Item = std::io::Result<String>> + use<>, String> {
    let file = heads
        .map(|path| File::open(path).map_err(|error| format!("{}: {error}", path.display())))
        .transpose()?;
    Ok(file
        .into_iter()
        .flat_map(|file| Notes::new(BufReader::new(file))))
}

fn sentence(error: CantVerify) -> String {
    match error {
        CantVerify::Log(error) => format!("the log can't be read: {error}"),
        wrong => format!("the log does not verify: {wrong}"),
    }
}

fn tell(verified: Verified, has_heads: bool) {
    say(&format!(
        "verified {} facts, {} heads",
        verified.facts, verified.heads
    ));
    if has_heads {
        say(&format!("{} heads kept outside agree", verified.pinned));
    }
    if verified.covered < verified.facts {
        let facts = verified.facts - verified.covered;
        let from = verified.covered + 1;
        say(&format!(
            "no signed head covers the last {facts} facts yet (from position {from})"
        ));
    }
    if verified.uncounted > 0 {
        say(&format!(
            "for {} facts the order among their owner's facts was not checked: too many owners",
            verified.uncounted
        ));
    }
}
