-- The same as on Postgres.
CREATE TABLE refresh_grace (
    token_hash TEXT    NOT NULL PRIMARY KEY,
    sealed     BLOB,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE INDEX events_email_reserved ON events (position) WHERE event_type = 'email.reserved';
