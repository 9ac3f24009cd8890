//! `genie keys`: lists, adds, rotates and retires master keys. The server that runs on the data
//! folder does the work. Without one, this process does it in the store. A command that broke off
//! continues when it is run again.

use std::{collections::BTreeSet, fs::File, path::Path};

use clap::Subcommand;
use genie_log::{
    Clock, Log, MasterKeys, Opened,
    keys::{
        masters::is_id,
        rotation::{RotationCursor, RotationStep},
    },
};
use serde::de::DeserializeOwned;

use crate::{
    cli::{output::say, runtime},
    config::Config,
    socket::{
        client,
        requests::{KeyList, KeyRequest},
    },
    store::{lock_store, open_log},
};

/// Finds and changes the ring: in the environment, or in a file.
pub mod file;
/// The ring of a running server, and the requests about master keys.
pub mod server;

use server::perform;

/// The most passes of a rotation over all data keys. Other servers may keep adding keys meanwhile.
const PASSES: u32 = 5;
/// The most owners that an error names.
const NAMED: usize = 10;

#[derive(Subcommand)]
pub enum KeysCommand {
    /// Print the keys, the current one, and the number of data keys that each wraps
    List,
    /// Make a new key and put it first in the ring's file; it wraps nothing until you rotate
    Add {
        /// Its id: 1 to 32 letters, digits, `-` or `_`; without it, `m` and the next number
        id: Option<String>,
    },
    /// Make the first key of the ring current and wrap all data keys by it; may run beside the
    /// servers, and be repeated
    Rotate,
    /// Retire a key that no data key needs, and remove it from the ring's file
    Retire {
        /// Its id
        id: String,
    },
}

pub fn run(config: &Config, command: KeysCommand) -> Result<(), String> {
    runtime::run(async {
        let mut keeper = Keeper { config, here: None };
        match command {
            KeysCommand::List => list(&mut keeper).await,
            KeysCommand::Add { id } => add(&mut keeper, id).await,
            KeysCommand::Rotate => rotate(&mut keeper).await,
            KeysCommand::Retire { id } => retire(&mut keeper, &id).await,
        }
    })
}

/// Does the requests about master keys: the running server, or else this process in the store,
/// which it opens once.
struct Keeper<'a> {
    config: &'a Config,
    here: Option<Here>,
}

struct Here {
    log: Log,
    _only_process: Option<File>,
}

impl Keeper<'_> {
    async fn ask<T: DeserializeOwned>(&mut self, asked: KeyRequest) -> Result<T, String> {
        let answer = if self.here.is_none() {
            client::ask(self.config, "/keys", &asked)
                .await?
                .map(|mut answer| answer["data"].take())
        } else {
            None
        };
        let answer = match answer {
            Some(answer) => answer,
            None => perform(&self.here().await?.log, None, asked).await?,
        };
        serde_json::from_value(answer).map_err(|_| client::NOT_UNDERSTOOD.to_owned())
    }

    async fn here(&mut self) -> Result<&Here, String> {
        let here = match self.here.take() {
            Some(here) => here,
            None => {
                let only_process = lock_store(self.config)?;
                let Opened { log, .. } = open_log(self.config, Clock::system(), false).await?;
                Here {
                    log,
                    _only_process: only_process,
                }
            }
        };
        Ok(self.here.insert(here))
    }
}

async fn list(keeper: &mut Keeper<'_>) -> Result<(), String> {
    let listed: KeyList = keeper.ask(KeyRequest::List).await?;
    match file::path(keeper.config) {
        Some(path) => say(&format!("The ring is in {}", path.display())),
        None => say("The ring is in GENIE_MASTER_KEYS"),
    }
    for (n, id) in listed.ring.iter().enumerate() {
        let state = match n {
            _ if *id == listed.current => "current",
            0 => "first: `genie keys rotate` makes it current",
            _ => "",
        };
        say(&format!(
            "{id:<16} wraps {} data keys  {state}",
            listed.wrapped_by(id)
        ));
    }
    for (id, at) in &listed.retired {
        say(&format!("{id:<16} retired {at}"));
    }
    for (node, ids) in &listed.servers {
        say(&format!("{node} has {}", ids.join(", ")));
    }
    Ok(())
}

async fn add(keeper: &mut Keeper<'_>, id: Option<String>) -> Result<(), String> {
    let listed: KeyList = keeper.ask(KeyRequest::List).await?;
    let known: BTreeSet<&str> = listed
        .ring
        .iter()
        .chain(listed.retired.iter().map(|(id, _)| id))
        .map(String::as_str)
        .collect();
    let id = match id {
        Some(id) if !is_id(&id) => {
            return Err("an id has 1 to 32 letters, digits, `-` or `_`".into());
        }
        Some(id) if known.contains(id.as_str()) => {
            return Err(format!(
                "master key `{id}` exists or existed; backups may need it, so take another id"
            ));
        }
        Some(id) => id,
        None => next_id(&known),
    };
    let entry = MasterKeys::new_entry(&id);
    let Some(path) = file::path(keeper.config) else {
        say(&entry);
        eprintln!(
            "This is master key `{id}`; no server has it yet. Put it first in GENIE_MASTER_KEYS of every server, with a comma after it,\n\
             and restart the servers one after the other. Then run: genie keys rotate"
        );
        return Ok(());
    };
    file::add(&path, &id, &entry)?;
    keeper
        .ask::<KeyList>(KeyRequest::Reload)
        .await
        .map_err(|reason| not_taken(&path, &reason))?;
    say(&format!(
        "master key `{id}` is first in {} and wraps nothing yet; keep a copy of the file in a safe place",
        path.display()
    ));
    say("Servers with other key files need the new key too. Then run: genie keys rotate");
    Ok(())
}

/// The number after the highest of `m1`, `m2` ...
fn next_id(known: &BTreeSet<&str>) -> String {
    let highest = known
        .iter()
        .filter_map(|id| id.strip_prefix('m')?.parse::<u32>().ok())
        .max();
    format!("m{}", u64::from(highest.unwrap_or(0)) + 1)
}

async fn rotate(keeper: &mut Keeper<'_>) -> Result<(), String> {
    let before: KeyList = keeper.ask(KeyRequest::List).await?;
    if before.ring.first() == Some(&before.current)
        && before.wrapped_by_others(&before.current) == 0
    {
        say(&format!(
            "nothing to do: all data keys are wrapped by master key `{}`, the first of the ring",
            before.current
        ));
        return Ok(());
    }
    let to: String = keeper.ask(KeyRequest::Begin).await?;
    let mut listed: KeyList = keeper.ask(KeyRequest::List).await?;
    let mut remain = listed.wrapped_by_others(&to);
    let mut unreadable = BTreeSet::new();
    say(&format!(
        "master key `{to}` is current: new data keys are wrapped by it; {remain} others remain"
    ));
    for _ in 0..PASSES {
        unreadable.extend(wrap_all(keeper, &to, remain).await?);
        listed = keeper.ask(KeyRequest::List).await?;
        remain = listed.wrapped_by_others(&to);
        if remain <= unreadable.len() as u64 {
            break; // otherwise a server that did not know of the rotation wrapped more by the old key
        }
    }
    if !unreadable.is_empty() {
        let named: Vec<&str> = unreadable.iter().take(NAMED).map(String::as_str).collect();
        return Err(format!(
            "{} data keys cannot be opened with the master keys that they name, and stay unchanged. They belong to {}",
            unreadable.len(),
            named.join(", ")
        ));
    }
    if remain > 0 {
        return Err(format!(
            "other servers wrapped {remain} data keys by other master keys meanwhile; run: genie keys rotate"
        ));
    }
    say(&format!(
        "all {} data keys are wrapped by master key `{to}`",
        listed.wrapped_by(&to)
    ));
    let old: Vec<&String> = listed.ring.iter().filter(|id| **id != to).collect();
    old.iter().for_each(|id| {
        say(&format!(
            "no data key needs master key `{id}` now; to retire it, run: genie keys retire {id}"
        ))
    });
    Ok(())
}

/// Goes through all data keys once. Returns the owners whose keys do not open.
async fn wrap_all(
    keeper: &mut Keeper<'_>,
    to: &str,
    mut remain: u64,
) -> Result<BTreeSet<String>, String> {
    let mut unreadable = BTreeSet::new();
    let mut from = Some(RotationCursor::default());
    while let Some(place) = from {
        let request = KeyRequest::Step {
            to: to.to_owned(),
            from: place,
        };
        let step: RotationStep = keeper.ask(request).await?;
        remain = remain.saturating_sub(step.wrapped);
        say(&format!("{} wrapped anew, {remain} remain", step.wrapped));
        unreadable.extend(step.unreadable);
        from = step.next;
    }
    Ok(unreadable)
}

async fn retire(keeper: &mut Keeper<'_>, id: &str) -> Result<(), String> {
    let listed: KeyList = keeper.ask(KeyRequest::List).await?;
    let file = file::path(keeper.config);
    let in_file = match &file {
        Some(path) => file::in_file(path)?.has(id),
        None => false,
    };
    let retired = listed.retired.iter().find(|(retired, _)| retired == id);
    let is_known = in_file || listed.ring.iter().any(|own| own == id) || listed.wrapped_by(id) > 0;
    match retired {
        Some((_, at)) if !is_known => {
            say(&format!(
                "nothing to do: master key `{id}` was retired {at}"
            ));
            return Ok(());
        }
        None if !is_known => {
            return Err(format!(
                "there is no master key `{id}`; run: genie keys list"
            ));
        }
        _ => {}
    }
    let at: String = keeper.ask(KeyRequest::Retire { id: id.to_owned() }).await?;
    match &file {
        Some(path) => {
            file::remove(path, id)?;
            keeper
                .ask::<KeyList>(KeyRequest::Reload)
                .await
                .map_err(|reason| not_taken(path, &reason))?;
            say(&format!(
                "master key `{id}` is retired, and removed from {}",
                path.display()
            ));
            say("Remove it from the key files of other servers too.");
        }
        None => say(&format!(
            "master key `{id}` is retired; remove it from GENIE_MASTER_KEYS of every server"
        )),
    }
    say(&format!(
        "Backups and exports made before {at} still need it: keep a copy of it, apart from them, for as long as you keep any of them."
    ));
    Ok(())
}

fn not_taken(path: &Path, reason: &str) -> String {
    format!(
        "{} was changed, but the running server did not accept it: {reason}",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_id_is_the_next_number() {
        assert_eq!(
            next_id(&BTreeSet::from(["m1", "m9", "m10", "spring", "mx"])),
            "m11"
        );
        assert_eq!(next_id(&BTreeSet::from(["spring"])), "m1");
    }
}
