//! Argon2id, off the actor and I/O threads. Few run at once, otherwise logins could starve the
//! machine.

use std::sync::Arc;

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

/// Logins whose passwords are checked at once. Each takes 19 MiB and a core for some 20 to 50 ms
/// (Argon2id, m=19456 t=2 p=1: OWASP's first choice).
const CHECKED_AT_ONCE: usize = 2;
/// New passwords that are hashed at once. They have a queue of their own, so that registrations
/// never hold up logins.
const MADE_AT_ONCE: usize = 1;
/// The most that may wait in each queue. Further ones are refused as busy.
const WAITING: usize = 64;

#[derive(Clone)]
pub struct Passwords {
    checks: HashQueue,
    makings: HashQueue,
    /// The hash of a random password. It is checked for unknown users, so that the time of a login
    /// does not reveal who is registered.
    nobodys: Arc<String>,
}

#[derive(Clone)]
struct HashQueue {
    working: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("too many passwords at once; try again shortly")]
    Busy,
    #[error("a password could not be hashed")]
    Broken,
}

impl Passwords {
    pub fn new() -> Result<Self, PasswordError> {
        let nobodys = hash(&genie_log::clock::random_bytes::<32>())?;
        Ok(Self {
            checks: HashQueue::new(CHECKED_AT_ONCE),
            makings: HashQueue::new(MADE_AT_ONCE),
            nobodys: Arc::new(nobodys),
        })
    }

    /// The PHC string of a password.
    pub async fn hash(&self, password: SecretString) -> Result<SecretString, PasswordError> {
        self.makings
            .work(move || hash(password.expose_secret().as_bytes()).map(SecretString::from))
            .await?
    }

    /// Checks a password against a hash. Without a hash the check takes the same time, and fails.
    pub async fn check(
        &self,
        password: SecretString,
        stored: Option<String>,
    ) -> Result<bool, PasswordError> {
        let is_somebodys = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.nobodys.to_string());
        self.checks
            .work(move || {
                let parsed = PasswordHash::new(&stored).map_err(|_| PasswordError::Broken)?;
                let matches = Argon2::default()
                    .verify_password(password.expose_secret().as_bytes(), &parsed)
                    .is_ok();
                Ok(matches && is_somebodys)
            })
            .await?
    }
}

impl HashQueue {
    fn new(at_once: usize) -> Self {
        Self {
            working: Arc::new(Semaphore::new(at_once)),
            waiting: Arc::new(Semaphore::new(at_once + WAITING)),
        }
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let waiting = Arc::clone(&self.waiting)
            .try_acquire_owned()
            .map_err(|_| PasswordError::Busy)?;
        let working = Arc::clone(&self.working)
            .acquire_owned()
            .await
            .map_err(|_| PasswordError::Broken)?;
        // The permits stay with the work, which continues when the client goes away.
        let worked = tokio::task::spawn_blocking(move || {
            let _held = (waiting, working);
            work()
        });
        worked.await.map_err(|_| PasswordError::Broken)
    }
}

fn hash(password: &[u8]) -> Result<String, PasswordError> {
    Argon2::default()
        .hash_password(password)
        .map(|hash| hash.to_string())
        .map_err(|_| PasswordError::Broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_of_a_known_user_passes() {
        let passwords = Passwords::new().unwrap();
        let stored = passwords.hash("correct horse".into()).await.unwrap();
        assert!(stored.expose_secret().starts_with("$argon2id$"));
        let stored = Some(stored.expose_secret().to_owned());
        assert!(
            passwords
                .check("correct horse".into(), stored.clone())
                .await
                .unwrap()
        );
        assert!(
            !passwords
                .check("battery staple".into(), stored)
                .await
                .unwrap()
        );
        assert!(!passwords.check("correct horse".into(), None).await.unwrap());
    }

    #[tokio::test]
    async fn abandoned_work_still_holds_its_permit() {
        let checks = Passwords::new().unwrap().checks;
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let slow = checks.work(move || wait.recv().is_ok());
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(50), slow)
                .await
                .is_err(),
            "dropped in the middle"
        );
        assert_eq!(checks.working.available_permits(), CHECKED_AT_ONCE - 1);
        go.send(()).unwrap();
        while checks.working.available_permits() < CHECKED_AT_ONCE {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn registrations_do_not_hold_up_logins() {
        let passwords = Passwords::new().unwrap();
        let _registrations: Vec<_> = (0..MADE_AT_ONCE + WAITING)
            .map(|_| passwords.makings.waiting.try_acquire().unwrap())
            .collect();
        let refused = passwords.hash("correct horse".into()).await;
        assert!(matches!(refused, Err(PasswordError::Busy)));
        assert!(!passwords.check("correct horse".into(), None).await.unwrap());
    }
}
