-- Service keys and invites, which are read tables derived from the log, and impersonations.

CREATE TABLE service_keys (
    -- The keyed hash of the key.
    key_id      text COLLATE "C" NOT NULL PRIMARY KEY,
    name_sealed bytea NOT NULL,
    -- The scopes, separated by spaces.
    scopes      text COLLATE "C" NOT NULL,
    expires_at  bigint,
    created_at  bigint NOT NULL,
    created_by  text COLLATE "C",
    revoked_at  bigint
);
CREATE INDEX service_keys_by_time ON service_keys (created_at, key_id);

CREATE TABLE invites (
    -- The keyed hash of the code.
    invite_id   text COLLATE "C" NOT NULL PRIMARY KEY,
    -- The code as its fact holds it, sealed under the system's key; NULL when the fact has no code.
    code_sealed text COLLATE "C",
    tier        text COLLATE "C" NOT NULL,
    role        text COLLATE "C" NOT NULL,
    expires_at  bigint,
    created_at  bigint NOT NULL,
    used_by     text COLLATE "C",
    used_at     bigint
);
CREATE INDEX invites_by_time ON invites (created_at, invite_id);

-- A working table: the administrators who act for a user now. The fact of each impersonation is
-- written before its row.
CREATE TABLE impersonations (
    session    text COLLATE "C" NOT NULL PRIMARY KEY,
    user_id    text COLLATE "C" NOT NULL,
    by_admin   text COLLATE "C" NOT NULL,
    expires_at bigint NOT NULL
);
CREATE INDEX impersonations_of_user ON impersonations (user_id);
