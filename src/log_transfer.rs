//! `genie log export` and `genie log import`: the log by position, with the working tables that it
//! needs, in a folder of encrypted files.

use std::{fs::File, io::Read, os::unix::fs::PermissionsExt, path::Path, path::PathBuf};

use clap::{Args, Subcommand};
use genie_log::{
    Export,
    export::{Exported, export},
    import::{Imported, import},
};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::{
    cli::{output::say, runtime},
    config::Config,
    keys::file,
    store::{lock_store, read_log},
};

/// The shortest passphrase of a new export.
const SHORTEST: usize = 8;
/// The longest passphrase file, in bytes.
const LONGEST_FILE: u64 = 4096;

#[derive(Subcommand)]
pub enum LogCommand {
    /// Write the log and the tables that it needs into a folder, encrypted; continues an earlier
    /// export; may run beside the server
    Export(Folder),
    /// Import an export into an empty store, or continue an import; the server must be stopped
    Import(Folder),
}

/// The folder, and the passphrase: from the file, else from GENIE_EXPORT_PASSPHRASE, else from the
/// terminal.
#[derive(Args)]
pub struct Folder {
    /// The folder of the export
    dir: PathBuf,
    /// A file that holds the passphrase and that only its owner may read
    #[arg(long)]
    passphrase_file: Option<PathBuf>,
}

/// Exports or imports, and prints the result.
pub fn run(config: &Config, command: LogCommand) -> Result<(), String> {
    let said = match command {
        LogCommand::Export(folder) => runtime::run(write(config, &folder))?,
        LogCommand::Import(folder) => runtime::run(take_in(config, &folder))?,
    };
    say(&said);
    Ok(())
}

async fn write(
    config: &Config,
    Folder {
        dir,
        passphrase_file,
    }: &Folder,
) -> Result<String, String> {
    let is_new = !Export::is_begun(dir);
    let passphrase = passphrase(config, passphrase_file.as_deref(), is_new)?;
    let log = read_log(config).await?;
    let Exported { head, had } = export(&log, dir, &passphrase)
        .await
        .map_err(|error| error.to_string())?;
    Ok(format!(
        "{} holds positions 1 to {head}, {} of them new",
        dir.display(),
        head - had
    ))
}

async fn take_in(
    config: &Config,
    Folder {
        dir,
        passphrase_file,
    }: &Folder,
) -> Result<String, String> {
    let passphrase = passphrase(config, passphrase_file.as_deref(), false)?;
    let _only_process = lock_store(config)?;
    // Read-only: an import needs the keys that the log was written with, so it must not make new
    // ones.
    let masters = file::ring(config, true).await?;
    let export = Export::open(dir, &passphrase).map_err(|error| error.to_string())?;
    let Imported { head, had } = import(&config.target(), &masters, &export)
        .await
        .map_err(|error| error.to_string())?;
    Ok(format!(
        "the store holds positions 1 to {head}, {} of them new",
        head - had
    ))
}

/// Reads the passphrase of an export, from the file, the environment or the terminal.
pub fn passphrase(
    config: &Config,
    file: Option<&Path>,
    is_new: bool,
) -> Result<SecretString, String> {
    let passphrase = match (file, &config.export_passphrase) {
        (Some(file), _) => read(file)?,
        (None, Some(passphrase)) => passphrase.clone(),
        (None, None) => ask(is_new)?,
    };
    if is_new && passphrase.expose_secret().len() < SHORTEST {
        Err(format!(
            "the passphrase of an export must have at least {SHORTEST} characters; everybody who has it can read the export"
        ))
    } else {
        Ok(passphrase)
    }
}

fn read(path: &Path) -> Result<SecretString, String> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| format!("{shown}: {error}"))?;
    let mode = file
        .metadata()
        .map_err(|error| format!("{shown}: {error}"))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        return Err(format!(
            "{shown} can be read by others; run: chmod 600 {shown}"
        ));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST_FILE)
        .read_to_string(&mut text)
        .map_err(|error| format!("{shown}: {error}"))?;
    Ok(SecretString::from(text.trim_end_matches(['\r', '\n'])))
}

fn ask(is_new: bool) -> Result<SecretString, String> {
    let ask = |question: &str| {
        let answer = rpassword::prompt_password(question).map(Zeroizing::new);
        answer.map_err(|_| {
            "a passphrase is needed: give --passphrase-file or GENIE_EXPORT_PASSPHRASE, or run this on a terminal".to_owned()
        })
    };
    let passphrase = ask("Passphrase of the export: ")?;
    if is_new && *ask("Repeat the passphrase: ")? != *passphrase {
        return Err("the two passphrases differ".to_owned());
    }
    Ok(SecretString::from(passphrase.as_str()))
}
