-- Secrets lie outside the log so that they can be deleted. Facts carry their version and hash.
CREATE TABLE secrets (
    secret_id text   COLLATE "C" NOT NULL,
    version   bigint NOT NULL,
    user_id   text   COLLATE "C" NOT NULL,
    sealed    bytea  NOT NULL,
    PRIMARY KEY (secret_id, version)
);
CREATE INDEX secrets_of_user ON secrets (user_id);
