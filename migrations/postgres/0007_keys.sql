-- Service keys, invites and impersonations: the first two are derived from the log, as all read tables.

CREATE TABLE service_keys (
    -- Keyed hash of the key.
    key_id      text COLLATE "C" NOT NULL PRIMARY KEY,
    name_sealed bytea NOT NULL,
    -- Words separated by spaces.
    scopes      text COLLATE "C" NOT NULL,
    expires_at  bigint,
    created_at  bigint NOT NULL,
    created_by  text COLLATE "C",
    revoked_at  bigint
);
CREATE INDEX service_keys_by_time ON service_keys (created_at, key_id);

CREATE TABLE invites (
    -- Keyed hash of the code.
    invite_id   text COLLATE "C" NOT NULL PRIMARY KEY,
    -- The code as its fact holds it, sealed under the system's key; absent when the fact has none.
    code_sealed text COLLATE "C",
    tier        text COLLATE "C" NOT NULL,
    role        text COLLATE "C" NOT NULL,
    expires_at  bigint,
    created_at  bigint NOT NULL,
    used_by     text COLLATE "C",
    used_at     bigint
);
CREATE INDEX invites_by_time ON invites (created_at, invite_id);

-- Who acts for whom now: a working table. That each began is a fact of the user, written before its row.
CREATE TABLE impersonations (
    session    text COLLATE "C" NOT NULL PRIMARY KEY,
    user_id    text COLLATE "C" NOT NULL,
    by_admin   text COLLATE "C" NOT NULL,
    expires_at bigint NOT NULL
);
CREATE INDEX impersonations_of_user ON impersonations (user_id);
