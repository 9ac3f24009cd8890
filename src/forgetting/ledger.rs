//! The ledger: ids of forgotten users, outside the store. A backup of the store holds the keys of users who were forgotten after it
//! was made; where it is restored, they are forgotten again by what stands here.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use genie_events::{Timestamp, UserId};
use genie_log::forgetting::Forgetting;
use parking_lot::{Mutex, MutexGuard};

/// A line for each: id, time, position, separated by spaces. Appended to and flushed; several servers may share one.
#[derive(Clone)]
pub struct ForgottenLedger {
    path: PathBuf,
    known: Arc<Mutex<HashSet<UserId>>>,
}

impl ForgottenLedger {
    /// Reads it, and makes it when it is not there. One that can't be read is an error: somebody in it might come back.
    pub fn open(path: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| {
            format!(
                "{}: {error}; GENIE_FORGOTTEN_FILE names another place",
                path.display()
            )
        };
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(failed)?;
        drop(open_to_append(path).map_err(failed)?);
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)?;
        let ledger = Self {
            path: path.to_owned(),
            known: Arc::default(),
        };
        ledger.read()?;
        Ok(ledger)
    }

    /// Reads the users in the ledger now: others may have written to it, or have brought an older one back.
    pub fn read(&self) -> Result<Vec<UserId>, String> {
        let shown = self.path.display();
        let text = open_to_append(&self.path).and_then(|mut file| {
            file.lock()?;
            whole_lines(&mut file)
        });
        let text = text.map_err(|error| {
            format!("{shown}: {error}; GENIE_FORGOTTEN_FILE names another place")
        })?;
        let mut known = HashSet::new();
        for (n, line) in text.lines().enumerate() {
            let user = line.split(' ').next().unwrap_or_default().parse();
            known.insert(user.map_err(|_| {
                format!(
                    "{shown}: line {} does not begin with a user's id; put it right",
                    n + 1
                )
            })?);
        }
        let users = known.iter().copied().collect();
        *self.lock() = known;
        Ok(users)
    }

    /// Writes somebody who was forgotten, unless they stand in it.
    pub async fn note(&self, one: &Forgetting) -> Result<(), String> {
        self.write(one.user, one.forgotten_at.unwrap_or_default(), one.position)
            .await
    }

    /// The same by what the fact says. When this answers `Ok`, it is flushed.
    pub async fn write(&self, user: UserId, at: Timestamp, position: u64) -> Result<(), String> {
        if self.lock().contains(&user) {
            return Ok(());
        }
        let this = self.clone();
        let line = format!("{user} {} {position}\n", at.rfc3339());
        let written = tokio::task::spawn_blocking(move || {
            let mut file = open_to_append(&this.path)?;
            file.lock()?; // others may append to it
            whole_lines(&mut file)?;
            file.write_all(line.as_bytes())?;
            file.sync_all()?;
            this.lock().insert(user);
            Ok(())
        });
        let written = written
            .await
            .unwrap_or_else(|stopped| Err(std::io::Error::other(stopped)));
        written.map_err(|error: std::io::Error| format!("{}: {error}", self.path.display()))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<UserId>> {
        self.known.lock()
    }
}

/// Reads the ledger. A line that a power cut or a full disk broke is cut off: its user is still in the store, and is written again.
fn whole_lines(file: &mut File) -> std::io::Result<String> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    if whole < text.len() {
        file.set_len(whole as u64)?;
        text.truncate(whole);
    }
    Ok(text)
}

fn open_to_append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn who_stands_in_it_is_there_after_a_restart_and_a_broken_end_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/forgotten");
        let ada = UserId(Uuid::from_u128(1));
        let bob = UserId(Uuid::from_u128(2));
        let ledger = ForgottenLedger::open(&path).unwrap();
        for _ in 0..2 {
            ledger.write(ada, Timestamp(0), 7).await.unwrap();
        }
        let whole = fs::read_to_string(&path).unwrap();
        assert_eq!(whole, format!("{ada} 1970-01-01T00:00:00.000Z 7\n"));
        fs::write(&path, format!("{whole}{}", &bob.to_string()[..20])).unwrap();
        let again = ForgottenLedger::open(&path).unwrap();
        assert_eq!(again.read().unwrap(), [ada]);
        again.write(bob, Timestamp(0), 9).await.unwrap();
        assert_eq!(again.read().unwrap().len(), 2);
        fs::write(&path, format!("{whole}{bob}")).unwrap(); // a full disk left no end of the line
        again
            .write(UserId(Uuid::from_u128(3)), Timestamp(0), 10)
            .await
            .unwrap();
        assert_eq!(
            again.read().unwrap().len(),
            2,
            "not glued to what was left of another's"
        );
        fs::write(&path, &whole).unwrap();
        assert_eq!(
            again.read().unwrap(),
            [ada],
            "an older one was brought back"
        );
        fs::write(&path, format!("nonsense\n{whole}")).unwrap();
        assert!(
            ForgottenLedger::open(&path)
                .err()
                .unwrap()
                .contains("line 1")
        );
    }
}
