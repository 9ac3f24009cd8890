-- The same as on Postgres.
CREATE TABLE secrets (
    secret_id TEXT    NOT NULL,
    version   INTEGER NOT NULL,
    user_id   TEXT    NOT NULL,
    sealed    BLOB    NOT NULL,
    PRIMARY KEY (secret_id, version)
) STRICT;
CREATE INDEX secrets_of_user ON secrets (user_id);
