//! Starts all projections, and serves the reads that wait for them.

use std::{collections::BTreeMap, time::Duration};

use genie_log::{Election, Log, LogError};

use crate::{
    accounts::AccountReader,
    captions::CaptionReader,
    chats::ChatReader,
    credentials::CredentialReader,
    invites::InviteReader,
    jobs::JobReader,
    marks::MarkReader,
    progress::{Progress, ProjectionStatus},
    projection::Projection,
    runner::{Runner, stored_name},
    service_keys::ServiceKeyReader,
    usage::UsageReader,
};

#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The projections did not reach the requested position within the limit.
    #[error("the read side is at position {at}, not yet at {wanted}; try again")]
    Behind { at: u64, wanted: u64 },
    /// The store is away, or a row cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// The reads of all projections.
#[derive(Debug, Clone)]
pub struct ReadSide {
    progress: Progress,
    pub accounts: AccountReader,
    pub usage: UsageReader,
    pub credentials: CredentialReader,
    pub jobs: JobReader,
    pub marks: MarkReader,
    pub chats: ChatReader,
    pub captions: CaptionReader,
    pub invites: InviteReader,
    pub service_keys: ServiceKeyReader,
}

pub(crate) fn all() -> Vec<Box<dyn Projection>> {
    vec![
        Box::new(crate::accounts::Projector),
        Box::new(crate::usage::Projector),
        Box::new(crate::credentials::Projector),
        Box::new(crate::jobs::Projector),
        Box::new(crate::marks::Projector),
        Box::new(crate::chats::Projector),
        Box::new(crate::captions::Projector),
        Box::new(crate::invites::Projector),
        Box::new(crate::service_keys::Projector),
    ]
}

impl ReadSide {
    /// Starts all projections, which run while this node leads. Call it on the runtime that owns
    /// the store's connections.
    pub fn start(log: Log, election: Election) -> Self {
        let projections = all();
        let names = projections
            .iter()
            .map(|one| (stored_name(one.as_ref()), one.name()))
            .collect();
        let progress = Progress::new(log.clone(), election.clone(), names);
        let runner = Runner::new(projections, log.clone(), election, progress.clone());
        tokio::spawn(runner.run());
        tokio::spawn(progress.clone().look());
        Self {
            progress,
            accounts: AccountReader::new(log.clone()),
            usage: UsageReader::start(&log),
            credentials: CredentialReader::new(log.clone()),
            jobs: JobReader::start(log.clone()),
            marks: MarkReader::new(log.clone()),
            chats: ChatReader::new(log.clone()),
            captions: CaptionReader::new(log.clone()),
            invites: InviteReader::new(log.clone()),
            service_keys: ServiceKeyReader::new(log),
        }
    }

    /// The state of each projection, as stored: the same on every node.
    pub async fn statuses(&self) -> Result<BTreeMap<&'static str, ProjectionStatus>, LogError> {
        self.progress.statuses().await
    }

    /// Waits a moment for a position, by what the projections announce. The store is not asked.
    pub async fn wait_briefly(&self, names: &[&str], position: u64, limit: Duration) -> bool {
        self.progress.wait_for_told(names, position, limit).await
    }

    /// True when these projections have announced a position on this server.
    pub fn have_announced(&self, names: &[&str], position: u64) -> bool {
        self.progress.are_told(names, position)
    }

    /// The position that one projection has reached, as stored.
    pub async fn stored_position(&self, name: &str) -> Result<u64, LogError> {
        self.progress.stored(name).await
    }

    /// Waits until every projection's stored checkpoint has reached a position.
    pub async fn wait_for_all(&self, position: u64, limit: Duration) -> Result<(), ReadError> {
        let names: Vec<&str> = self.progress.names().collect();
        self.progress.wait_for(&names, position, limit).await
    }

    /// Waits until one projection's stored checkpoint has reached a position.
    pub async fn wait_for(
        &self,
        name: &str,
        position: u64,
        limit: Duration,
    ) -> Result<(), ReadError> {
        self.progress.wait_for(&[name], position, limit).await
    }

    /// Waits until the stored checkpoints of these projections have reached a position.
    pub async fn wait_for_each(
        &self,
        names: &[&str],
        position: u64,
        limit: Duration,
    ) -> Result<(), ReadError> {
        self.progress.wait_for(names, position, limit).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use genie_log::{
        forgetting::WORKING_ROWS,
        testing::{TestStore, both_stores},
    };
    use sqlx::Row;

    use super::*;

    /// Columns that no projection empties. `user_keys` and `forgettings` keep the id of a
    /// forgotten user; the row of a file or of a begun upload goes after its bytes.
    const OTHERWISE: [&str; 4] = [
        "user_keys.user_id",
        "forgettings.user_id",
        "blobs.user_id",
        "uploads.user_id",
    ];

    both_stores!(
        every_column_that_names_a_user_is_emptied_when_they_are_forgotten,
        async |store: TestStore| {
            let log = store.open().await.log;
            let sql = match store.database_url() {
                None => {
                    "SELECT m.name AS t, c.name AS c FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'"
                }
                Some(_) => {
                    "SELECT CAST(table_name AS text) AS t, CAST(column_name AS text) AS c \
                 FROM information_schema.columns WHERE table_schema = 'public'"
                }
            };
            let rows = sqlx::query(sql)
                .fetch_all(log.store().reads())
                .await
                .unwrap();
            // `last_revealed_by` holds a kind of caller, not a user. A column `by_...` of a working
            // table names another user.
            let names_a_user = |column: &str| match column {
                "last_revealed_by" => false,
                column => {
                    column == "user_id" || column.ends_with("_by") || column.starts_with("by_")
                }
            };
            let columns = rows
                .iter()
                .map(|row| (row.get::<String, _>("t"), row.get::<String, _>("c")));
            let there: BTreeSet<String> = columns
                .filter(|(_, c)| names_a_user(c))
                .map(|(t, c)| format!("{t}.{c}"))
                .collect();
            let projections = all();
            let erased = projections
                .iter()
                .flat_map(|one| one.rows())
                .chain(&WORKING_ROWS);
            let erased = erased.map(|rows| format!("{}.{}", rows.table, rows.user));
            let mentions = projections
                .iter()
                .flat_map(|one| one.mentions())
                .map(|(table, column)| format!("{table}.{column}"));
            let known: BTreeSet<String> = erased
                .chain(mentions)
                .chain(OTHERWISE.map(str::to_owned))
                .collect();
            assert_eq!(
                there, known,
                "left: the columns that name a user; right: the columns that forgetting empties"
            );
        }
    );
}
