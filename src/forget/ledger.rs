//! The ledger: ids of forgotten users, outside the store. A backup of the store holds the keys of users who were forgotten after it
//! was made; where it is restored, they are forgotten again by what stands here.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use genie_events::{Moment, UserId};
use genie_log::forget::Forgetting;

/// A line for each: id, time, position, separated by spaces. Appended to and flushed; several servers may share one.
#[derive(Clone)]
pub struct Ledger {
    path: PathBuf,
    known: Arc<Mutex<HashSet<UserId>>>,
}

impl Ledger {
    /// Reads it, and makes it when it is not there. One that can't be read is an error: somebody in it might come back.
    pub fn open(path: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{}: {error}; GENIE_FORGOTTEN_FILE names another place", path.display());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(failed)?;
        let mut file = open_to_append(path).map_err(failed)?;
        file.lock().map_err(failed)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let mut known = HashSet::new();
        for (n, line) in text[..whole].lines().enumerate() {
            let user = line.split(' ').next().unwrap_or_default().parse();
            let unreadable = |_| format!("{}: line {} does not begin with a user's id; put it right", path.display(), n + 1);
            known.insert(user.map_err(unreadable)?);
        }
        // What a power cut left of a line. Its user is still in the store, and is written again.
        if whole < text.len() {
            file.set_len(whole as u64).map_err(failed)?;
        }
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(Self { path: path.to_owned(), known: Arc::new(Mutex::new(known)) })
    }

    /// Who stands in it.
    pub fn users(&self) -> Vec<UserId> {
        self.lock().iter().copied().collect()
    }

    /// Writes somebody who was forgotten, unless they stand in it.
    pub async fn note(&self, one: &Forgetting) -> Result<(), String> {
        self.write(one.user, one.forgotten_at.unwrap_or_default(), one.position).await
    }

    /// The same by what the fact says. When this answers `Ok`, it is flushed.
    pub async fn write(&self, user: UserId, at: Moment, position: u64) -> Result<(), String> {
        if self.lock().contains(&user) {
            return Ok(());
        }
        let (this, line) = (self.clone(), format!("{user} {} {position}\n", at.rfc3339()));
        let written = tokio::task::spawn_blocking(move || {
            let mut file = open_to_append(&this.path)?;
            file.lock()?; // others may append to it
            file.write_all(line.as_bytes())?;
            file.sync_all()?;
            this.lock().insert(user);
            Ok(())
        });
        let written = written.await.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped)));
        written.map_err(|error: std::io::Error| format!("{}: {error}", self.path.display()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<UserId>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_to_append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn who_stands_in_it_is_there_after_a_restart_and_a_broken_end_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/forgotten");
        let (ada, bob) = (UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let ledger = Ledger::open(&path).unwrap();
        for _ in 0..2 {
            ledger.write(ada, Moment(0), 7).await.unwrap();
        }
        let whole = fs::read_to_string(&path).unwrap();
        assert_eq!(whole, format!("{ada} 1970-01-01T00:00:00.000Z 7\n"));
        fs::write(&path, format!("{whole}{}", &bob.to_string()[..20])).unwrap();
        let again = Ledger::open(&path).unwrap();
        assert_eq!(again.users(), [ada]);
        again.write(bob, Moment(0), 9).await.unwrap();
        assert_eq!(Ledger::open(&path).unwrap().users().len(), 2);
        fs::write(&path, format!("nonsense\n{whole}")).unwrap();
        assert!(Ledger::open(&path).err().unwrap().contains("line 1"));
    }
}
