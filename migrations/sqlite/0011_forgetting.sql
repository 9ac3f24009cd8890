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

CREATE INDEX leases_of_user ON leases (user_id);
CREATE INDEX journal_of_user ON journal (user_id);
CREATE INDEX messages_of_user ON messages (user_id);
