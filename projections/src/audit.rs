//! `audit`: each fact of users and of the system, by its metadata alone, which needs no key to
//! read.

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::StreamKind;
use genie_log::forgetting::UserRows;

use crate::projection::{Projection, Seen, Tx};

pub(crate) struct Audit;

impl Projection for Audit {
    fn name(&self) -> &'static str {
        "audit"
    }

    fn wants(&self, _: StreamKind) -> bool {
        true
    }

    fn rows(&self) -> &'static [UserRows] {
        &[UserRows {
            table: "audit",
            user: "user_id",
            key: "position",
        }]
    }

    fn apply<'a>(
        &'a self,
        seen: Seen<'a>,
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let fact = seen.fact;
            let metadata = serde_json::to_string(&fact.metadata).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
            sqlx::query(
                "INSERT INTO audit (position, event_id, event_type, stream_kind, stream_id, user_id, recorded_at, metadata) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(fact.position as i64)
            .bind(fact.event_id.to_string())
            .bind(&fact.event_type)
            .bind(fact.stream.kind.as_str())
            .bind(&fact.stream.id)
            .bind(seen.user())
            .bind(seen.at().0)
            .bind(metadata)
            .execute(&mut **tx)
            .await
            .map(drop)
        }
        .boxed()
    }
}
