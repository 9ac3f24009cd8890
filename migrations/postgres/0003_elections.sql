-- Who runs what only one node may run, and since which election.
CREATE TABLE elections (
    name       text   COLLATE "C" PRIMARY KEY,
    epoch      bigint NOT NULL,
    node       text   COLLATE "C" NOT NULL,
    elected_at bigint NOT NULL
);
