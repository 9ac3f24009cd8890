-- Who runs what only one node may run, and since which election.
CREATE TABLE elections (
    name       TEXT    NOT NULL PRIMARY KEY,
    epoch      INTEGER NOT NULL,
    node       TEXT    NOT NULL,
    elected_at INTEGER NOT NULL
) STRICT;
