-- A snapshot of each user's state, so that loading a user reads few facts. Never the truth: a row
-- may be deleted at any time.
CREATE TABLE snapshots (
    user_id  text   COLLATE "C" PRIMARY KEY,
    version  bigint NOT NULL,
    user_seq bigint NOT NULL,
    position bigint NOT NULL,
    sealed   bytea  NOT NULL
);
