//! `invites`: the invites and the users who spent them. A revoked invite leaves this table; its
//! facts stay in the log.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{
    Event, StreamKind, Timestamp,
    invite::{CODE_COLUMN, Grant, InviteEvent},
};
use genie_log::{Log, LogError, forgetting::UserRows, store::Store};
use sqlx::{Row, any::AnyRow};

use crate::{
    projection::{Projection, Seen, Tx, begun_before, open, read},
    rows::{ByKey, Cell, Upsert},
};

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
        facts: &'a [Seen<'a>],
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let begins =
                |event: &Event| matches!(event, Event::Invite(InviteEvent::Created { .. }));
            let mut invites = BTreeMap::new();
            for row in BY_ID.run(tx, &begun_before(facts, begins)).await? {
                invites.insert(row.try_get("invite_id")?, InviteColumns::read(&row)?);
            }
            let mut revoked = BTreeSet::new();
            for seen in facts {
                let Event::Invite(event) = seen.event else {
                    continue;
                };
                let id = seen.id();
                match (event, invites.get_mut(&id)) {
                    (InviteEvent::Created { grant, sealed_code }, _) => {
                        invites.insert(id, InviteColumns::new(seen, grant, sealed_code.clone()));
                    }
                    (InviteEvent::Spent { user }, Some(invite)) => {
                        invite.used_by = Some(user.to_string());
                        invite.used_at = Some(seen.at().0);
                    }
                    (InviteEvent::Revoked, _) => {
                        invites.remove(&id);
                        revoked.insert(seen.fact.stream.id);
                    }
                    (InviteEvent::Reserved { .. } | InviteEvent::Released { .. }, _)
                    | (_, None) => {}
                }
            }
            DELETE.run(tx, &revoked).await?;
            let rows = invites.into_iter().map(|(id, invite)| invite.cells(id));
            UPSERT.write(tx, rows.collect()).await
        }
        .boxed()
    }
}

/// The column for which roles are sealed.
const ROLE: &str = "invites.role";

/// The columns of an invite's row.
struct InviteColumns {
    code_sealed: Option<String>,
    tier: String,
    role_sealed: Vec<u8>,
    expires_at: Option<i64>,
    created_at: i64,
    used_by: Option<String>,
    used_at: Option<i64>,
}

const BY_ID: ByKey = ByKey::text(
    "SELECT invite_id, code_sealed, tier, role_sealed, expires_at, created_at, used_by, used_at FROM invites \
     WHERE invite_id IN ({})",
);
const DELETE: ByKey = ByKey::text("DELETE FROM invites WHERE invite_id IN ({})");

const UPSERT: Upsert = Upsert {
    table: "invites",
    columns: &[
        "invite_id",
        "code_sealed",
        "tier",
        "role_sealed",
        "expires_at",
        "created_at",
        "used_by",
        "used_at",
    ],
    on_conflict: "(invite_id) DO UPDATE SET used_by = excluded.used_by, used_at = excluded.used_at",
};

impl InviteColumns {
    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            code_sealed: row.try_get("code_sealed")?,
            tier: row.try_get("tier")?,
            role_sealed: row.try_get("role_sealed")?,
            expires_at: row.try_get("expires_at")?,
            created_at: row.try_get("created_at")?,
            used_by: row.try_get("used_by")?,
            used_at: row.try_get("used_at")?,
        })
    }

    fn new(seen: &Seen<'_>, grant: &Grant, code_sealed: Option<String>) -> Self {
        Self {
            code_sealed,
            tier: grant.tier.as_str().into(),
            role_sealed: seen.seal(ROLE, &grant.role),
            expires_at: grant.expires_at.map(|at| at.0),
            created_at: seen.at().0,
            used_by: None,
            used_at: None,
        }
    }

    fn cells(self, id: String) -> Vec<Cell> {
        vec![
            id.into(),
            self.code_sealed.into(),
            self.tier.into(),
            self.role_sealed.into(),
            self.expires_at.into(),
            self.created_at.into(),
            self.used_by.into(),
            self.used_at.into(),
        ]
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

const LIST: &str = "SELECT invite_id, code_sealed, tier, role_sealed, expires_at, created_at, used_by, used_at FROM invites \
                    WHERE (created_at, invite_id) > ($1, $2) ORDER BY created_at, invite_id LIMIT $3";

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
            Ok(sqlx::query(LIST)
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
        let role: Vec<u8> = row.try_get("role_sealed")?;
        Ok(InviteRow {
            id: row.try_get("invite_id")?,
            code: sealed
                .map(|sealed| self.log.keys().open_system_text(CODE_COLUMN, &sealed))
                .transpose()?,
            tier: row.try_get("tier")?,
            role: open(self.log.keys().system(), ROLE, &role)?,
            expires_at: row.try_get::<Option<i64>, _>("expires_at")?.map(Timestamp),
            created_at: Timestamp(row.try_get("created_at")?),
            used_by: row.try_get("used_by")?,
            used_at: row.try_get::<Option<i64>, _>("used_at")?.map(Timestamp),
        })
    }
}

#[cfg(test)]
pub(crate) fn statements() -> Vec<String> {
    vec![BY_ID.sql(4), DELETE.sql(4), UPSERT.sql(4), LIST.into()]
}
