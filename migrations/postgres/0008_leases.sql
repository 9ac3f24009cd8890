-- The running jobs, turns and captions, with their holder and the end of the lease.
CREATE TABLE leases (
    kind       text   COLLATE "C" NOT NULL CHECK (kind IN ('job', 'turn', 'caption')),
    id         text   COLLATE "C" NOT NULL,
    user_id    text   COLLATE "C" NOT NULL,
    stream_id  text   COLLATE "C" NOT NULL,
    -- The hash of a worker's lease, or the node that runs it; empty while nobody holds it.
    holder     text   COLLATE "C" NOT NULL,
    expires_at bigint NOT NULL,
    cancelled  bigint NOT NULL DEFAULT 0,
    progress   bigint,
    -- What the worker says of its work; sealed.
    message    bytea,
    PRIMARY KEY (kind, id)
);
CREATE INDEX leases_by_expiry ON leases (kind, expires_at);
CREATE INDEX leases_of_user ON leases (user_id);

-- The text of running turns. A reader is shown only what is committed here.
CREATE TABLE journal (
    turn_id text   COLLATE "C" NOT NULL,
    upto    bigint NOT NULL,
    user_id text   COLLATE "C" NOT NULL,
    sealed  bytea  NOT NULL,
    PRIMARY KEY (turn_id, upto)
);
CREATE INDEX journal_of_user ON journal (user_id);
