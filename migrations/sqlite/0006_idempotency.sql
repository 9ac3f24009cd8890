-- The same as on Postgres.
CREATE TABLE idempotency (
    key_hash     TEXT    NOT NULL PRIMARY KEY,
    user_id      TEXT    NOT NULL,
    request_hash TEXT    NOT NULL,
    fact_owner   TEXT    NOT NULL,
    fact_seq     INTEGER NOT NULL,
    sealed       BLOB    NOT NULL,
    kept_at      INTEGER NOT NULL
) STRICT;
CREATE INDEX idempotency_of_user ON idempotency (user_id);
CREATE INDEX idempotency_by_age ON idempotency (kept_at);
