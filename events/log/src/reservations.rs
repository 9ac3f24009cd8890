//! A working table: the e-mail addresses that are reserved for registrations. A row is written with
//! the fact of the reservation, and deleted with the fact that ends it.

use genie_events::ids::EmailId;
use serde_json::{Value, json};

use crate::append_sqlite::SqliteTx;

/// What an append does to the reservation of an address.
#[derive(Debug, Clone)]
pub enum ReservationRow {
    Put(EmailId),
    Drop(EmailId),
}

impl ReservationRow {
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Put(email) => json!({"t": "put_reservation", "email_id": email}),
            Self::Drop(email) => json!({"t": "drop_reservation", "email_id": email}),
        }
    }

    pub(crate) async fn write(&self, tx: &mut SqliteTx<'_>) -> Result<(), sqlx::Error> {
        let (sql, email) = match self {
            Self::Put(email) => ("INSERT INTO reservations (email_id) VALUES ($1)", email),
            Self::Drop(email) => ("DELETE FROM reservations WHERE email_id = $1", email),
        };
        sqlx::query(sql)
            .bind(email.to_string())
            .execute(&mut **tx)
            .await
            .map(drop)
    }
}
