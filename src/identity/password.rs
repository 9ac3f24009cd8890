//! Argon2id, off the actor and I/O threads. Few run at once, otherwise logins could starve the
//! machine.

use std::sync::Arc;

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

/// Hashes at once. Each takes 19 MiB and a core for some 20 to 50 ms (Argon2id, m=19456 t=2 p=1:
/// OWASP's first choice).
const AT_ONCE: usize = 2;
/// The most logins that may wait. Further ones are refused as busy.
const WAITING: usize = 64;

#[derive(Clone)]
pub struct Passwords {
    working: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// The hash of a random password. It is checked for unknown users, so that the time of a login
    /// does not reveal who is registered.
    nobodys: Arc<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("too many logins at once; try again shortly")]
    Busy,
    #[error("a password could not be hashed")]
    Broken,
}

impl Passwords {
    pub fn new() -> Result<Self, PasswordError> {
        let nobodys = hash(&genie_log::clock::random_bytes::<32>())?;
        let semaphore = |n| Arc::new(Semaphore::new(n));
        Ok(Self {
            working: semaphore(AT_ONCE),
            waiting: semaphore(AT_ONCE + WAITING),
            nobodys: Arc::new(nobodys),
        })
    }

    /// The PHC string of a password.
    pub async fn hash(&self, password: SecretString) -> Result<SecretString, PasswordError> {
        self.work(move || hash(password.expose_secret().as_bytes()).map(SecretString::from))
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
        self.work(move || {
            let parsed = PasswordHash::new(&stored).map_err(|_| PasswordError::Broken)?;
            let matches = Argon2::default()
                .verify_password(password.expose_secret().as_bytes(), &parsed)
                .is_ok();
            Ok(matches && is_somebodys)
        })
        .await?
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
        let passwords = Passwords::new().unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let slow = passwords.work(move || wait.recv().is_ok());
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(50), slow)
                .await
                .is_err(),
            "dropped in the middle"
        );
        assert_eq!(passwords.working.available_permits(), AT_ONCE - 1);
        go.send(()).unwrap();
        while passwords.working.available_permits() < AT_ONCE {
            tokio::task::yield_now().await;
        }
    }
}
