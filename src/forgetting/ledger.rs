//! The ledger: ids of forgotten users, outside the store. A backup of the store holds the keys of
//! users who were forgotten after it was made. When it is restored, the ledger forgets them again.

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

/// One line for each user: id, time and position, separated by spaces. Several servers may share a
/// file, so every change happens under the file's lock.
#[derive(Clone)]
pub struct ForgottenLedger {
    path: PathBuf,
    /// Users whom this process has seen in the file; they cost no look into it.
    known: Arc<Mutex<HashSet<UserId>>>,
}

impl ForgottenLedger {
    /// Opens the ledger, and creates it when it is absent. An unreadable ledger is an error,
    /// because a user in it might come back.
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

    /// Reads the users in the ledger. Another server may have written to it, or an operator may
    /// have restored an older file.
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
            known.insert(user_of(line).ok_or_else(|| {
                format!(
                    "{shown}: line {} does not begin with a user's id; correct it",
                    n + 1
                )
            })?);
        }
        let users = known.iter().copied().collect();
        *self.lock() = known;
        Ok(users)
    }

    /// Writes a forgotten user, unless the ledger has them.
    pub async fn note(&self, one: &Forgetting) -> Result<(), String> {
        self.write(one.user, one.forgotten_at.unwrap_or_default(), one.position)
            .await
    }

    /// Writes a forgotten user as the fact names them, unless the ledger has them. After `Ok` the
    /// line is flushed.
    pub async fn write(&self, user: UserId, at: Timestamp, position: u64) -> Result<(), String> {
        if self.lock().contains(&user) {
            return Ok(());
        }
        let this = self.clone();
        let line = format!("{user} {} {position}\n", at.rfc3339());
        let written = tokio::task::spawn_blocking(move || {
            let mut file = open_to_append(&this.path)?;
            file.lock()?;
            // Another process may have written the user meanwhile, so this looks under the lock.
            let text = whole_lines(&mut file)?;
            if !text.lines().any(|known| user_of(known) == Some(user)) {
                file.write_all(line.as_bytes())?;
            }
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

fn user_of(line: &str) -> Option<UserId> {
    line.split(' ').next()?.parse().ok()
}

/// Reads the ledger. A line that a power cut or a full disk broke is cut off: the store still knows
/// its user, who is written again.
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
    async fn users_stay_after_a_restart_and_a_broken_last_line_is_cut_off() {
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
        fs::write(&path, format!("{whole}{bob}")).unwrap(); // a full disk: the end of the line is missing
        again
            .write(UserId(Uuid::from_u128(3)), Timestamp(0), 10)
            .await
            .unwrap();
        assert_eq!(
            again.read().unwrap().len(),
            2,
            "the new line is not glued to the broken one"
        );
        fs::write(&path, &whole).unwrap();
        assert_eq!(again.read().unwrap(), [ada], "an older ledger was restored");
        fs::write(&path, format!("nonsense\n{whole}")).unwrap();
        assert!(
            ForgottenLedger::open(&path)
                .err()
                .unwrap()
                .contains("line 1")
        );
    }

    #[tokio::test]
    async fn two_processes_write_a_user_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("forgotten");
        let server = ForgottenLedger::open(&path).unwrap();
        let command = ForgottenLedger::open(&path).unwrap();
        let ada = UserId(Uuid::from_u128(1));
        server.write(ada, Timestamp(0), 7).await.unwrap();
        command.write(ada, Timestamp(0), 7).await.unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
