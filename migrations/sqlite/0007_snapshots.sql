-- The same as on Postgres.
CREATE TABLE snapshots (
    user_id  TEXT    NOT NULL PRIMARY KEY,
    version  INTEGER NOT NULL,
    user_seq INTEGER NOT NULL,
    position INTEGER NOT NULL,
    sealed   BLOB    NOT NULL
) STRICT;
