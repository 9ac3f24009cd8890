//! The ledger: ids of forgotten users, outside the store. A backup of the store holds the keys of
//! users who were forgotten after it was made. When it is restored, the ledger forgets them again.
//!
//! Invariant: only a line that a server of this log wrote is believed. Each line names the log and
//! carries a MAC under a key of the system, so that whoever can write the file cannot have users
//! forgotten.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use genie_events::{Timestamp, UserId};
use genie_log::{forgetting::Forgetting, keys::SystemHashes};
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::{Mutex, MutexGuard};
use sha2::Sha256;
use zeroize::Zeroizing;

/// One line for each user: id, time, position, the log's name and a MAC over these, separated by
/// spaces. Several servers of one log may share a file, so every change happens under the file's
/// lock.
#[derive(Clone)]
pub struct ForgottenLedger {
    path: PathBuf,
    seal: LineSeal,
    known: Arc<Mutex<KnownLines>>,
}

/// What this process has seen in the file.
#[derive(Debug, Default)]
struct KnownLines {
    /// They cost no look into the file.
    users: HashSet<UserId>,
    /// The end of the last line. A look begins there, so that it costs the same however long the
    /// ledger is.
    end: u64,
}

impl ForgottenLedger {
    /// Opens the ledger, and creates it when it is absent. An unreadable ledger is an error,
    /// because a user in it might come back.
    pub fn open(path: &Path, hashes: &SystemHashes) -> Result<Self, String> {
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
            seal: LineSeal::of(hashes),
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
            whole_lines(&mut file, 0)
        });
        let (text, end) = text.map_err(|error| {
            format!("{shown}: {error}; GENIE_FORGOTTEN_FILE names another place")
        })?;
        let mut known = HashSet::new();
        for (n, line) in text.lines().enumerate() {
            let user = self
                .seal
                .open(line)
                .map_err(|bad| format!("{shown}: line {} {bad}", n + 1))?;
            known.insert(user);
        }
        let users = known.iter().copied().collect();
        *self.lock() = KnownLines { users: known, end };
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
        if self.lock().users.contains(&user) {
            return Ok(());
        }
        let this = self.clone();
        let line = self.seal.line(user, at, position);
        let written = tokio::task::spawn_blocking(move || {
            let mut file = open_to_append(&this.path)?;
            file.lock()?;
            // Another process may have written the user meanwhile, so this looks under the lock.
            let seen = this.lock().end;
            let (text, end) = whole_lines(&mut file, seen)?;
            let news = text.lines().filter_map(|line| this.seal.open(line).ok());
            let news: HashSet<UserId> = news.collect();
            let is_new = !news.contains(&user);
            if is_new {
                file.write_all(line.as_bytes())?;
            }
            file.sync_all()?;
            let mut known = this.lock();
            known.users.extend(news);
            known.users.insert(user);
            known.end = if is_new { end + line.len() as u64 } else { end };
            Ok(())
        });
        let written = written
            .await
            .unwrap_or_else(|stopped| Err(std::io::Error::other(stopped)));
        written.map_err(|error: std::io::Error| format!("{}: {error}", self.path.display()))
    }

    fn lock(&self) -> MutexGuard<'_, KnownLines> {
        self.known.lock()
    }
}

/// Makes lines, and tells whether a line was made for this log.
#[derive(Clone)]
struct LineSeal {
    log: String,
    key: Zeroizing<[u8; 32]>,
}

/// Why a line is not believed, as the end of a sentence that names it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum BadLine {
    #[error(
        "has no MAC: this release did not write it. Remove it, and run `genie forget` for its user"
    )]
    Form,
    #[error("belongs to another log, `{0}`; each log needs a GENIE_FORGOTTEN_FILE of its own")]
    OtherLog(String),
    #[error(
        "was changed after it was written. Restore the file from a copy; or remove the line, and run `genie forget` for its user"
    )]
    Changed,
}

impl LineSeal {
    fn of(hashes: &SystemHashes) -> Self {
        Self {
            log: hashes.log_name().to_owned(),
            key: Zeroizing::new(*hashes.ledger_key()),
        }
    }

    fn line(&self, user: UserId, at: Timestamp, position: u64) -> String {
        let said = format!("{user} {} {position} {}", at.rfc3339(), self.log);
        let mac = hex::encode(self.mac(&said).finalize().into_bytes());
        format!("{said} {mac}\n")
    }

    /// The user of a line. No field holds a space, so the text before the MAC has one meaning.
    fn open(&self, line: &str) -> Result<UserId, BadLine> {
        let fields: Vec<&str> = line.split(' ').collect();
        let [user, _at, _position, log, mac] = fields[..] else {
            return Err(BadLine::Form);
        };
        if log != self.log {
            return Err(BadLine::OtherLog(log.to_owned()));
        }
        let said = &line[..line.len() - mac.len() - 1];
        let mac = hex::decode(mac).map_err(|_| BadLine::Changed)?;
        self.mac(said)
            .verify_slice(&mac)
            .map_err(|_| BadLine::Changed)?;
        user.parse().map_err(|_| BadLine::Changed)
    }

    fn mac(&self, said: &str) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(self.key.as_slice());
        mac.expect("HMAC takes keys of any length")
            .chain_update(said)
    }
}

/// Reads the lines from a place on, or all lines when no line ends there: then it is another file.
/// Answers them with their end. A line that a power cut or a full disk broke is cut off: the store
/// still knows its user, who is written again.
fn whole_lines(file: &mut File, from: u64) -> std::io::Result<(String, u64)> {
    let from = if ends_a_line(file, from)? { from } else { 0 };
    let mut text = String::new();
    file.seek(SeekFrom::Start(from))?;
    file.read_to_string(&mut text)?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let end = from + whole as u64;
    if whole < text.len() {
        file.set_len(end)?;
        text.truncate(whole);
    }
    Ok((text, end))
}

fn ends_a_line(file: &mut File, at: u64) -> std::io::Result<bool> {
    if at == 0 || at > file.metadata()?.len() {
        return Ok(at == 0);
    }
    let mut last = [0];
    file.seek(SeekFrom::Start(at - 1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
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
    use genie_log::{
        Log,
        testing::{Kind, TestStore},
    };
    use uuid::Uuid;

    use super::*;

    async fn log() -> (TestStore, Log) {
        let store = TestStore::new(Kind::Sqlite).await;
        let log = store.open().await.log;
        (store, log)
    }

    fn user(n: u128) -> UserId {
        UserId(Uuid::from_u128(n))
    }

    fn refusal(path: &Path, log: &Log) -> String {
        ForgottenLedger::open(path, log.hashes())
            .err()
            .expect("a line that is not believed")
    }

    #[tokio::test]
    async fn users_stay_after_a_restart_and_a_broken_last_line_is_cut_off() {
        let (store, log) = log().await;
        let path = store.folder().join("new/forgotten");
        let (ada, bob) = (user(1), user(2));
        let ledger = ForgottenLedger::open(&path, log.hashes()).unwrap();
        for _ in 0..2 {
            ledger.write(ada, Timestamp(0), 7).await.unwrap();
        }
        let whole = fs::read_to_string(&path).unwrap();
        let said = format!(
            "{ada} 1970-01-01T00:00:00.000Z 7 {} ",
            log.hashes().log_name()
        );
        assert!(whole.starts_with(&said), "{whole}");
        assert_eq!(whole.lines().count(), 1, "{whole}");
        fs::write(&path, format!("{whole}{}", &bob.to_string()[..20])).unwrap();
        let again = ForgottenLedger::open(&path, log.hashes()).unwrap();
        assert_eq!(again.read().unwrap(), [ada]);
        again.write(bob, Timestamp(0), 9).await.unwrap();
        assert_eq!(again.read().unwrap().len(), 2);
        fs::write(&path, format!("{whole}{bob}")).unwrap(); // a full disk: the end of the line is missing
        again.write(user(3), Timestamp(0), 10).await.unwrap();
        assert_eq!(
            again.read().unwrap().len(),
            2,
            "the new line is not glued to the broken one"
        );
        fs::write(&path, &whole).unwrap();
        assert_eq!(again.read().unwrap(), [ada], "an older ledger was restored");
    }

    #[tokio::test]
    async fn a_line_that_this_log_did_not_write_is_refused_with_what_to_do() {
        let (store, log) = log().await;
        let path = store.folder().join("forgotten");
        let (ada, bob) = (user(1), user(2));
        let ledger = ForgottenLedger::open(&path, log.hashes()).unwrap();
        ledger.write(ada, Timestamp(0), 7).await.unwrap();
        let whole = fs::read_to_string(&path).unwrap();

        for form in [
            "nonsense".to_owned(),
            format!("{bob} 1970-01-01T00:00:00.000Z 9"),
        ] {
            fs::write(&path, format!("{whole}{form}\n")).unwrap();
            let told = refusal(&path, &log);
            assert!(
                told.contains("line 2 has no MAC") && told.contains("genie forget"),
                "{told}"
            );
            assert!(ledger.read().is_err());
        }
        for (old, new) in [
            (ada.to_string(), bob.to_string()),
            (" 7 ".into(), " 8 ".into()),
            ("1970".into(), "1971".into()),
        ] {
            fs::write(&path, whole.replace(&old, &new)).unwrap();
            let told = refusal(&path, &log);
            assert!(told.contains("line 1 was changed"), "{told}");
        }
        fs::write(&path, format!("{} ff\n", whole.rsplit_once(' ').unwrap().0)).unwrap();
        assert!(refusal(&path, &log).contains("line 1 was changed"));

        let other = TestStore::new(Kind::Sqlite).await;
        let others = other.open().await.log;
        fs::write(&path, &whole).unwrap();
        let told = refusal(&path, &others);
        assert!(
            told.contains("line 1 belongs to another log")
                && told.contains(log.hashes().log_name()),
            "{told}"
        );
        let renamed = whole.replace(log.hashes().log_name(), others.hashes().log_name());
        fs::write(&path, renamed).unwrap();
        assert!(refusal(&path, &others).contains("line 1 was changed"));
    }

    #[tokio::test]
    async fn a_look_reads_only_the_lines_that_others_wrote_since() {
        let (store, log) = log().await;
        let path = store.folder().join("forgotten");
        let here = ForgottenLedger::open(&path, log.hashes()).unwrap();
        let there = ForgottenLedger::open(&path, log.hashes()).unwrap();
        for n in 1..=3 {
            here.write(user(n), Timestamp(0), 7).await.unwrap();
        }
        there.write(user(4), Timestamp(0), 8).await.unwrap();
        // What was read already is not read again: this change goes unnoticed.
        let text = fs::read_to_string(&path).unwrap();
        fs::write(
            &path,
            text.replacen(&user(2).to_string(), &user(9).to_string(), 1),
        )
        .unwrap();
        here.write(user(4), Timestamp(0), 8).await.unwrap();
        here.write(user(5), Timestamp(0), 9).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 5);
        let mut known: Vec<UserId> = here.lock().users.iter().copied().collect();
        known.sort_unstable();
        assert_eq!(known, [1, 2, 3, 4, 5].map(user));
        // A shorter file is another file, and read from its beginning.
        let first = text.lines().next().unwrap();
        fs::write(&path, format!("{first}\n")).unwrap();
        here.write(user(6), Timestamp(0), 9).await.unwrap();
        assert_eq!(here.read().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn two_processes_write_a_user_once() {
        let (store, log) = log().await;
        let path = store.folder().join("forgotten");
        let server = ForgottenLedger::open(&path, log.hashes()).unwrap();
        let command = ForgottenLedger::open(&path, log.hashes()).unwrap();
        server.write(user(1), Timestamp(0), 7).await.unwrap();
        command.write(user(1), Timestamp(0), 7).await.unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
