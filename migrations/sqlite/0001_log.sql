-- The log, and the working tables beside it: the same as on Postgres. The writer does in one
-- immediate transaction what append() does there.

CREATE TABLE events (
    position      INTEGER PRIMARY KEY,
    owner         BLOB    NOT NULL,
    owner_seq     INTEGER NOT NULL,
    stream        BLOB    NOT NULL,
    sequence      INTEGER NOT NULL,
    kind          INTEGER NOT NULL,
    event_type    TEXT    NOT NULL,
    event_version INTEGER NOT NULL,
    event_id      BLOB    NOT NULL,
    slice         INTEGER NOT NULL,
    recorded_at   INTEGER NOT NULL,
    digest        BLOB    NOT NULL,
    metadata      TEXT    NOT NULL,
    payload       BLOB    NOT NULL,
    UNIQUE (owner, owner_seq),
    UNIQUE (stream, sequence)
) STRICT;
CREATE TRIGGER events_no_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are facts: UPDATE is refused'); END;
CREATE TRIGGER events_no_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are facts: DELETE is refused'); END;

CREATE TABLE user_keys (
    user_id      TEXT NOT NULL PRIMARY KEY,
    key_id       TEXT NOT NULL,
    master_id    TEXT NOT NULL,
    wrapped      BLOB,
    state        TEXT NOT NULL CHECK (state IN ('live', 'destroyed')),
    destroyed_at INTEGER
) STRICT;

CREATE TABLE secrets (
    secret_id TEXT    NOT NULL,
    version   INTEGER NOT NULL,
    user_id   TEXT    NOT NULL,
    sealed    BLOB    NOT NULL,
    PRIMARY KEY (secret_id, version)
) STRICT;
CREATE INDEX secrets_of_user ON secrets (user_id);

CREATE TABLE leases (
    kind       TEXT    NOT NULL CHECK (kind IN ('job', 'turn', 'caption')),
    id         TEXT    NOT NULL,
    user_id    TEXT    NOT NULL,
    stream_id  TEXT    NOT NULL,
    holder     TEXT    NOT NULL,
    epoch      INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    cancelled  INTEGER NOT NULL DEFAULT 0,
    progress   INTEGER,
    PRIMARY KEY (kind, id)
) STRICT;
CREATE INDEX leases_by_expiry ON leases (kind, expires_at);

CREATE TABLE journal (
    turn_id TEXT    NOT NULL,
    upto    INTEGER NOT NULL,
    user_id TEXT    NOT NULL,
    sealed  BLOB    NOT NULL,
    PRIMARY KEY (turn_id, upto)
) STRICT;

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

CREATE TABLE snapshots (
    user_id  TEXT    NOT NULL PRIMARY KEY,
    version  INTEGER NOT NULL,
    user_seq INTEGER NOT NULL,
    position INTEGER NOT NULL,
    sealed   BLOB    NOT NULL
) STRICT;

CREATE TABLE checkpoints (
    name     TEXT    NOT NULL PRIMARY KEY,
    position INTEGER NOT NULL
) STRICT;
