-- The log: the same as on Postgres. The writer does in one immediate transaction what append()
-- does there, so the functions of these files have no counterpart here.

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
