-- The same as on Postgres.
CREATE TABLE leases (
    kind       TEXT    NOT NULL CHECK (kind IN ('job', 'turn', 'caption')),
    id         TEXT    NOT NULL,
    user_id    TEXT    NOT NULL,
    stream_id  TEXT    NOT NULL,
    holder     TEXT    NOT NULL,
    expires_at INTEGER NOT NULL,
    cancelled  INTEGER NOT NULL DEFAULT 0,
    progress   INTEGER,
    message    BLOB,
    PRIMARY KEY (kind, id)
) STRICT;
CREATE INDEX leases_by_expiry ON leases (kind, expires_at);
CREATE INDEX leases_of_user ON leases (user_id);

CREATE TABLE journal (
    turn_id TEXT    NOT NULL,
    upto    INTEGER NOT NULL,
    user_id TEXT    NOT NULL,
    sealed  BLOB    NOT NULL,
    PRIMARY KEY (turn_id, upto)
) STRICT;
CREATE INDEX journal_of_user ON journal (user_id);
