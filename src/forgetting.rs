//! Erases the remains of a forgotten user in every place. Before the first step the log records
//! that the user is forgotten, and which steps remain ([`genie_log::forgetting`]). Each step may be
//! repeated. So when a server dies in the middle, the leader continues until nothing is left.

use std::{sync::Arc, time::Duration};

use genie_actors::{WriteError, forgetting::Forgetter};
use genie_events::{Metadata, UserId, account::ForgottenBy};
use genie_log::{
    Election, Log, LogError,
    forgetting::{ASKED_AT_ONCE, Forgetting, Stage},
};
use genie_projections::{ReadError, ReadSide};
use tracing::{info, warn};

use crate::{
    blobs::{BlobError, Blobs},
    identity::directus::{Directus, DirectusTrouble},
};

/// The signed note about what forgetting reached.
mod certificate;
/// `genie forget` and `genie restore-check`.
pub mod command;
/// The forgotten ids outside the store.
mod ledger;

pub use ledger::ForgottenLedger;

/// How often the leader looks for forgettings that are due.
const TICK: Duration = Duration::from_secs(1);
/// The most users that one look takes.
const AT_ONCE: i64 = 20;
/// Pause while a step waits for a projection or a signed head.
const SOON: Duration = Duration::from_millis(500);
/// Pause after a failed step.
const LATER_SECONDS: i64 = 30;
/// Tries to forget a user again who came back with a backup. Other servers may be writing
/// meanwhile.
const LEDGER_TRIES: usize = 20;
/// Time until the last look. No work that was running when the user was forgotten lasts longer.
const LAST_LOOK_SECONDS: i64 = 60;
/// How long one try waits for the projections.
const PROJECTIONS: Duration = Duration::from_secs(2);
/// Pause after the log could not be read, or the ledger could not be written.
const AWAY: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Eraser(Arc<Inner>);

struct Inner {
    log: Log,
    forget: Forgetter,
    reads: ReadSide,
    blobs: Blobs,
    directus: Option<Directus>,
    ledger: ForgottenLedger,
}

/// Why a step is not done.
#[derive(Debug, thiserror::Error)]
pub enum ForgettingError {
    /// The step waits for other work.
    #[error("{0}")]
    NotYet(String),
    #[error("{0}")]
    Failed(String),
}

impl From<LogError> for ForgettingError {
    fn from(error: LogError) -> Self {
        match error {
            // SQLite answers this too when another connection writes while the WAL is being
            // emptied.
            away @ LogError::Away(_) => Self::NotYet(away.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<BlobError> for ForgettingError {
    fn from(error: BlobError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<DirectusTrouble> for ForgettingError {
    fn from(trouble: DirectusTrouble) -> Self {
        Self::Failed(trouble.to_string())
    }
}

impl From<ReadError> for ForgettingError {
    fn from(error: ReadError) -> Self {
        match error {
            behind @ ReadError::Behind { .. } => Self::NotYet(behind.to_string()),
            ReadError::Log(error) => error.into(),
        }
    }
}

impl Eraser {
    /// Call it on the runtime that owns all I/O.
    pub fn new(
        log: Log,
        forget: Forgetter,
        reads: ReadSide,
        blobs: Blobs,
        directus: Option<Directus>,
        ledger: ForgottenLedger,
    ) -> Self {
        Self(Arc::new(Inner {
            log,
            forget,
            reads,
            blobs,
            directus,
            ledger,
        }))
    }

    /// Does the due steps whenever this node leads. Runs for ever; spawn it.
    pub async fn run(self, mut election: Election) {
        loop {
            election.elected().await;
            let now = self.0.log.clock().now();
            match self.0.log.forgettings().due(now, AT_ONCE).await {
                Ok(due) => {
                    for one in due {
                        self.see_to(&one).await;
                    }
                }
                Err(error) => {
                    warn!(%error, "forgetting: reading the users to erase failed; trying again")
                }
            }
            self.0.log.clock().pause(TICK).await;
        }
    }

    async fn see_to(&self, one: &Forgetting) {
        let user = one.user;
        let log = &self.0.log;
        let done = match one.stage {
            Stage::Requested => self.forget_when_due(user).await,
            Stage::Forgotten => self.finish(user).await,
            Stage::Erased => self.look_once_more(user).await,
            Stage::Closed => Ok(()),
        };
        let put_off = match done {
            Ok(()) => return,
            Err(ForgettingError::NotYet(_)) if self.is_new(one) => {
                log.clock().now().plus_millis(SOON.as_millis() as i64)
            }
            Err(ForgettingError::NotYet(reason)) => {
                warn!(user.id = %user, reason, "forgetting: making the certificate failed; trying again later");
                log.clock().now().plus_seconds(LATER_SECONDS)
            }
            Err(ForgettingError::Failed(reason)) => {
                warn!(user.id = %user, reason, "forgetting: erasing the remains of a user failed; trying again later");
                log.clock().now().plus_seconds(LATER_SECONDS)
            }
        };
        if let Err(error) = log.forgettings().put_off(user, put_off).await {
            warn!(user.id = %user, %error, "forgetting: postponing a failed step was not written; trying it again now");
        }
    }

    /// True when a missing precondition is still normal, because the forgetting is recent.
    fn is_new(&self, one: &Forgetting) -> bool {
        let since = one.forgotten_at.unwrap_or(one.due);
        self.0.log.clock().now() < since.plus_seconds(LAST_LOOK_SECONDS)
    }

    async fn forget_when_due(&self, user: UserId) -> Result<(), ForgettingError> {
        match self.0.forget.when_due(user, Metadata::system()).await {
            Ok(_) => Ok(()),
            Err(WriteError::Busy) => Err(ForgettingError::NotYet("too busy".into())),
            Err(error) => Err(ForgettingError::Failed(error.to_string())),
        }
    }

    /// Erases rows and uploads that were still being written when the user was forgotten.
    async fn look_once_more(&self, user: UserId) -> Result<(), ForgettingError> {
        self.0.log.forgettings().erase_working_rows(user).await?;
        self.0.log.forgettings().empty_wal().await?;
        self.0.blobs.delete_of(user).await?;
        Ok(self.0.log.forgettings().close(user).await?)
    }

    /// Erases for at most this time. The leader does the rest.
    pub async fn finish_within(&self, user: UserId, limit: Duration) {
        let finishing = async {
            while let Err(ForgettingError::NotYet(_)) = self.finish(user).await {
                tokio::time::sleep(SOON).await;
            }
        };
        let _ = tokio::time::timeout(limit, finishing).await;
    }

    /// Erases all remains, then signs the certificate. May be called again, and by several servers
    /// at once.
    pub async fn finish(&self, user: UserId) -> Result<(), ForgettingError> {
        let Inner {
            log,
            reads,
            blobs,
            directus,
            ledger,
            ..
        } = &*self.0;
        let Some(forgetting) = log
            .forgettings()
            .get(user)
            .await?
            .filter(|one| one.stage == Stage::Forgotten)
        else {
            return Ok(());
        };
        ledger
            .note(&forgetting)
            .await
            .map_err(ForgettingError::Failed)?;
        log.forgettings().erase_working_rows(user).await?;
        // The WAL holds the key, and the next steps may take long. A failure here is caught below.
        let _ = log.forgettings().empty_wal().await;
        blobs.delete_of(user).await?;
        if let Some(directus) = directus {
            directus.delete(user).await?;
        }
        reads.wait_for_all(forgetting.position, PROJECTIONS).await?;
        log.forgettings().empty_wal().await?;
        let left = log.forgettings().working_rows_left(user).await?;
        if !left.is_empty() {
            return Err(ForgettingError::NotYet(format!("rows are left: {left:?}")));
        }
        let certificate = certificate::sign(log, &forgetting, directus.is_some()).await?;
        let now = log.clock().now();
        log.forgettings()
            .note_erased(user, now, certificate, now.plus_seconds(LAST_LOOK_SECONDS))
            .await?;
        info!(user.id = %user, "forgetting: nothing is left of the user");
        Ok(())
    }

    /// Forgets the users of the ledger again whom a restored backup brought back, and returns them.
    /// Call it before the server answers anybody.
    pub async fn apply_ledger(&self) -> Result<Vec<UserId>, String> {
        let Inner { log, ledger, .. } = &*self.0;
        let mut back = Vec::new();
        for ids in ledger.read()?.chunks(ASKED_AT_ONCE) {
            let live = log
                .forgettings()
                .with_live_keys(ids.to_vec())
                .await
                .map_err(|error| error.to_string())?;
            for user in live {
                self.forget_again(user).await.map_err(|error| {
                    format!("user {user} was forgotten, came back with a backup, and cannot be forgotten again: {error}")
                })?;
                warn!(user.id = %user, "forgetting: a user came back with a backup and is forgotten again");
                back.push(user);
            }
        }
        Ok(back)
    }

    async fn forget_again(&self, user: UserId) -> Result<(), WriteError> {
        for _ in 1..LEDGER_TRIES {
            match self
                .0
                .forget
                .now(user, ForgottenBy::Ledger, Metadata::system())
                .await
            {
                Err(WriteError::Busy) => tokio::time::sleep(SOON).await, // other servers are writing
                done => return done,
            }
        }
        self.0
            .forget
            .now(user, ForgottenBy::Ledger, Metadata::system())
            .await
    }

    /// Writes every forgotten user into this server's ledger. Each server keeps one, because any of
    /// them may run on a restored store. Runs for ever; spawn it.
    pub async fn keep_ledger(self) {
        let Inner { log, ledger, .. } = &*self.0;
        let mut follower = log.reader().follow(log.reader().head());
        while let Err(reason) = self.catch_up().await {
            warn!(
                reason,
                "forgetting: bringing the ledger up to date failed; trying again"
            );
            tokio::time::sleep(AWAY).await;
        }
        while let Some(rows) = follower.next_or_end("ledger of the forgotten").await {
            for row in rows.iter().filter(|row| row.is_forgotten()) {
                while let Err(reason) = ledger
                    .write(UserId(row.owner), row.recorded_at, row.position)
                    .await
                {
                    warn!(
                        reason,
                        "forgetting: writing the ledger failed; trying again"
                    );
                    tokio::time::sleep(AWAY).await;
                }
            }
        }
    }

    /// Writes the users who were forgotten while this server was down.
    async fn catch_up(&self) -> Result<(), String> {
        let Inner { log, ledger, .. } = &*self.0;
        let mut after = None;
        loop {
            let page = log
                .forgettings()
                .forgotten_after(after)
                .await
                .map_err(|error| error.to_string())?;
            for one in &page {
                ledger.note(one).await?;
            }
            match page.last() {
                Some(last) if page.len() == ASKED_AT_ONCE => after = Some(last.user),
                _ => return Ok(()),
            }
        }
    }
}
