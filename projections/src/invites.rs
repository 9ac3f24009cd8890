//! `invites`: the invites and the users who spent them. A revoked invite leaves this table; its
//! facts stay in the log.

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{
    Event, StreamKind, Timestamp,
    invite::{CODE_COLUMN, InviteEvent},
};
use genie_log::{Log, LogError, forgetting::UserRows, store::Store};
use sqlx::{Row, any::AnyRow};

use crate::projection::{Projection, Seen, Tx, read};

pub(crate) struct Projector;

impl Projection for Projector {
    fn name(&self) -> &'static str {
        "invites"
    }

    fn wants(&self, kind: StreamKind) -> bool {
        kind == StreamKind::Invite
    }

    fn rows(&self) -> &'static [UserRows] {
        &[]
    }

    fn mentions(&self) -> &'static [(&'static str, &'static str)] {
        &[("invites", "used_by")]
    }

    fn apply<'a>(
        &'a self,
        seen: Seen<'a>,
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let Event::Invite(event) = seen.event else { return Ok(()) };
            let id = &seen.fact.stream.id.to_string();
            let query = match event {
                InviteEvent::Created { grant, sealed_code } => sqlx::query(
                    "INSERT INTO invites (invite_id, code_sealed, tier, role, expires_at, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
                )
                .bind(id)
                .bind(sealed_code.clone())
                .bind(grant.tier.as_str())
                .bind(&grant.role)
                .bind(grant.expires_at.map(|at| at.0))
                .bind(seen.at().0),
                InviteEvent::Spent { user } => {
                    sqlx::query("UPDATE invites SET used_by = $2, used_at = $3 WHERE invite_id = $1")
                        .bind(id)
                        .bind(user.to_string())
                        .bind(seen.at().0)
                }
                InviteEvent::Reserved { .. } | InviteEvent::Released { .. } => return Ok(()),
                InviteEvent::Revoked => sqlx::query("DELETE FROM invites WHERE invite_id = $1").bind(id),
            };
            query.execute(&mut **tx).await.map(drop)
        }
        .boxed()
    }
}

#[derive(Debug, Clone, Default)]
pub struct InviteRow {
    /// The keyed hash of the code.
    pub id: String,
    /// The code, if its fact holds one.
    pub code: Option<String>,
    /// The tier that the invite grants.
    pub tier: String,
    /// The role that the invite grants.
    pub role: String,
    pub expires_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub used_by: Option<String>,
    pub used_at: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub struct InviteReader {
    log: Log,
}

impl InviteReader {
    pub(crate) fn new(log: Log) -> Self {
        Self { log }
    }

    /// Invites, oldest first, at most `limit`, after the one named by `after` (created_at, id).
    pub async fn list(
        &self,
        after: Option<(i64, String)>,
        limit: i64,
    ) -> Result<Vec<InviteRow>, LogError> {
        let rows = read(&self.log, async move |store: Store| {
            let (created, id) = after.unwrap_or((i64::MIN, String::new()));
            let sql = "SELECT invite_id, code_sealed, tier, role, expires_at, created_at, used_by, used_at FROM invites \
                       WHERE created_at > $1 OR (created_at = $1 AND invite_id > $2) ORDER BY created_at, invite_id LIMIT $3";
            Ok(sqlx::query(sql)
                .bind(created)
                .bind(id)
                .bind(limit)
                .fetch_all(store.reads())
                .await?)
        });
        rows.await?.iter().map(|row| self.open(row)).collect()
    }

    fn open(&self, row: &AnyRow) -> Result<InviteRow, LogError> {
        let sealed: Option<String> = row.try_get("code_sealed")?;
        Ok(InviteRow {
            id: row.try_get("invite_id")?,
            code: sealed
                .map(|sealed| self.log.keys().open_system_text(CODE_COLUMN, &sealed))
                .transpose()?,
            tier: row.try_get("tier")?,
            role: row.try_get("role")?,
            expires_at: row.try_get::<Option<i64>, _>("expires_at")?.map(Timestamp),
            created_at: Timestamp(row.try_get("created_at")?),
            used_by: row.try_get("used_by")?,
            used_at: row.try_get::<Option<i64>, _>("used_at")?.map(Timestamp),
        })
    }
}
