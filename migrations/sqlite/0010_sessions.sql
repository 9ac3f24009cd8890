-- One row per login: a family of refresh tokens, of which one is good.
CREATE TABLE sessions (
    family       TEXT    NOT NULL PRIMARY KEY,
    user_id      TEXT    NOT NULL,
    -- SHA-256 of the refresh token that is good now.
    token_hash   TEXT    NOT NULL,
    -- The tokens that it replaced within the grace, as JSON: [[hash, when], ...].
    rotated      TEXT    NOT NULL DEFAULT '[]',
    -- The client's User-Agent.
    agent_sealed BLOB,
    created_at   INTEGER NOT NULL,
    used_at      INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_of_user ON sessions (user_id, used_at);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);

-- The administrators who act for a user now. Each row is written and deleted with its fact.
CREATE TABLE impersonations (
    session    TEXT NOT NULL PRIMARY KEY,
    user_id    TEXT NOT NULL,
    by_admin   TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX impersonations_of_user ON impersonations (user_id);
