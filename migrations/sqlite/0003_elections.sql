CREATE TABLE elections (
    name       TEXT    NOT NULL PRIMARY KEY,
    epoch      INTEGER NOT NULL,
    node       TEXT    NOT NULL,
    elected_at INTEGER NOT NULL,
    backend    INTEGER NOT NULL DEFAULT 0,
    renewed_at INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO elections (name, epoch, node, elected_at) VALUES ('genie', 0, '', 0);

ALTER TABLE checkpoints ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
