-- Service keys, invites and impersonations: the first two are derived from the log, as all read tables.

CREATE TABLE service_keys (
    -- Keyed hash of the key.
    key_id      TEXT NOT NULL PRIMARY KEY,
    name_sealed BLOB NOT NULL,
    -- Words separated by spaces.
    scopes      TEXT NOT NULL,
    expires_at  INTEGER,
    created_at  INTEGER NOT NULL,
    created_by  TEXT,
    revoked_at  INTEGER
) STRICT;
CREATE INDEX service_keys_by_time ON service_keys (created_at, key_id);

CREATE TABLE invites (
    -- Keyed hash of the code.
    invite_id   TEXT NOT NULL PRIMARY KEY,
    -- The code as its fact holds it, sealed under the system's key; absent when the fact has none.
    code_sealed TEXT,
    tier        TEXT NOT NULL,
    role        TEXT NOT NULL,
    expires_at  INTEGER,
    created_at  INTEGER NOT NULL,
    used_by     TEXT,
    used_at     INTEGER
) STRICT;
CREATE INDEX invites_by_time ON invites (created_at, invite_id);

-- Who acts for whom now: a working table. That each began is a fact of the user, written before its row.
CREATE TABLE impersonations (
    session    TEXT NOT NULL PRIMARY KEY,
    user_id    TEXT NOT NULL,
    by_admin   TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX impersonations_of_user ON impersonations (user_id);
