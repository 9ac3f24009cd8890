-- The same as on Postgres.
CREATE TABLE elections (
    name       TEXT    NOT NULL PRIMARY KEY,
    epoch      INTEGER NOT NULL,
    node       TEXT    NOT NULL,
    elected_at INTEGER NOT NULL,
    backend    INTEGER NOT NULL DEFAULT 0,
    renewed_at INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO elections (name, epoch, node, elected_at) VALUES ('genie', 0, '', 0);

-- How far each follower of the leader came.
CREATE TABLE checkpoints (
    name     TEXT    NOT NULL PRIMARY KEY,
    position INTEGER NOT NULL,
    -- The epoch in which it was last moved.
    epoch    INTEGER NOT NULL DEFAULT 0
) STRICT;
