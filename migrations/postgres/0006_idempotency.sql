-- The outcome of each request that carried an Idempotency-Key, written with its facts. The leader
-- deletes old ones.
CREATE TABLE idempotency (
    key_hash     text   COLLATE "C" PRIMARY KEY,
    user_id      text   COLLATE "C" NOT NULL,
    request_hash text   COLLATE "C" NOT NULL,
    -- The request's last fact, by its owner and its number among the owner's.
    fact_owner   text   COLLATE "C" NOT NULL,
    fact_seq     bigint NOT NULL,
    sealed       bytea  NOT NULL,
    kept_at      bigint NOT NULL
);
CREATE INDEX idempotency_of_user ON idempotency (user_id);
CREATE INDEX idempotency_by_age ON idempotency (kept_at);
