-- The same as on Postgres.
CREATE TABLE forgettings (
    user_id      TEXT    NOT NULL PRIMARY KEY,
    state        TEXT    NOT NULL CHECK (state IN ('requested', 'forgotten', 'erased', 'closed')),
    due          INTEGER NOT NULL,
    position     INTEGER,
    forgotten_at INTEGER,
    erased_at    INTEGER,
    certificate  TEXT
) STRICT;
CREATE INDEX forgettings_by_due ON forgettings (due) WHERE state <> 'closed';
