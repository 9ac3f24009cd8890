-- Service keys and invites, which are read tables derived from the log, and impersonations.

CREATE TABLE service_keys (
    -- The keyed hash of the key.
    key_id      TEXT NOT NULL PRIMARY KEY,
    name_sealed BLOB NOT NULL,
    -- The scopes, separated by spaces.
    scopes      TEXT NOT NULL,
    expires_at  INTEGER,
    created_at  INTEGER NOT NULL,
    created_by  TEXT,
    revoked_at  INTEGER
) STRICT;
CREATE INDEX service_keys_by_time ON service_keys (created_at, key_id);

CREATE TABLE invites (
    -- The keyed hash of the code.
    invite_id   TEXT NOT NULL PRIMARY KEY,
    -- The code as its fact holds it, sealed under the system's key; NULL when the fact has no code.
    code_sealed TEXT,
    tier        TEXT NOT NULL,
    role        TEXT NOT NULL,
    expires_at  INTEGER,
    created_at  INTEGER NOT NULL,
    used_by     TEXT,
    used_at     INTEGER
) STRICT;
CREATE INDEX invites_by_time ON invites (created_at, invite_id);

-- A working table: the administrators who act for a user now. The fact of each impersonation is
-- written before its row.
CREATE TABLE impersonations (
    session    TEXT NOT NULL PRIMARY KEY,
    user_id    TEXT NOT NULL,
    by_admin   TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX impersonations_of_user ON impersonations (user_id);
