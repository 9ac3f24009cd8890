-- The same as on Postgres.
CREATE TABLE refresh_grace (
    token_hash TEXT    NOT NULL PRIMARY KEY,
    sealed     BLOB,
    expires_at INTEGER NOT NULL
) STRICT;

-- The addresses that are reserved for registrations. A registration with Directus begins with a
-- reservation; a row that stays belongs to one that broke off.
CREATE TABLE reservations (
    email_id TEXT NOT NULL PRIMARY KEY
) STRICT;
