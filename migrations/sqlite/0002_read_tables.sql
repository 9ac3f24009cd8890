-- The read tables. They are derived from the log, and can be thrown away and filled again.
-- Columns named *_sealed hold personal text under the user's payload key.

CREATE TABLE accounts (
    user_id           TEXT   NOT NULL PRIMARY KEY,
    status            TEXT   NOT NULL,
    role              TEXT   NOT NULL,
    admin             INTEGER NOT NULL,
    tier              TEXT   NOT NULL,
    onboarding        TEXT   NOT NULL,
    email_sealed      BLOB  NOT NULL,
    first_name_sealed BLOB,
    created_at        INTEGER NOT NULL
) STRICT;

CREATE TABLE usage (
    user_id TEXT   NOT NULL,
    counter TEXT   NOT NULL,
    month   INTEGER NOT NULL,
    counted INTEGER NOT NULL,
    PRIMARY KEY (user_id, counter, month)
) STRICT;

CREATE TABLE credentials (
    credential_id    TEXT   NOT NULL PRIMARY KEY,
    user_id          TEXT   NOT NULL,
    kind             TEXT   NOT NULL,
    platform         TEXT   NOT NULL,
    username_sealed  BLOB,
    version          INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    last_revealed_at INTEGER,
    last_revealed_by TEXT
) STRICT;
CREATE INDEX credentials_of_user ON credentials (user_id, created_at);

CREATE TABLE jobs (
    job_id         TEXT   NOT NULL PRIMARY KEY,
    user_id        TEXT   NOT NULL,
    queue          TEXT   NOT NULL,
    operation      TEXT   NOT NULL,
    -- queued, processing, completed, failed or cancelled. A queued job whose run_at has not come is
    -- shown as delayed.
    status         TEXT   NOT NULL,
    priority       INTEGER NOT NULL,
    attempt        INTEGER NOT NULL,
    max_attempts   INTEGER NOT NULL,
    name_sealed    BLOB,
    error_sealed   BLOB,
    result_sealed  BLOB,
    outputs_sealed BLOB,
    created_at     INTEGER NOT NULL,
    run_at         INTEGER,
    started_at     INTEGER,
    finished_at    INTEGER,
    position       INTEGER NOT NULL
) STRICT;
CREATE INDEX jobs_of_user ON jobs (user_id, position);
CREATE INDEX jobs_by_status ON jobs (queue, status);

CREATE TABLE chats (
    session_id    TEXT   NOT NULL PRIMARY KEY,
    user_id       TEXT   NOT NULL,
    title_sealed  BLOB  NOT NULL,
    message_count INTEGER NOT NULL,
    running_turn  TEXT,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX chats_of_user ON chats (user_id, updated_at);

CREATE TABLE messages (
    message_id     TEXT   NOT NULL PRIMARY KEY,
    session_id     TEXT   NOT NULL,
    user_id        TEXT   NOT NULL,
    turn_id        TEXT   NOT NULL,
    role           TEXT   NOT NULL,
    content_sealed BLOB  NOT NULL,
    outcome        TEXT,
    -- Model, metrics and failure of an answer, as JSON.
    detail         TEXT,
    created_at     INTEGER NOT NULL,
    position       INTEGER NOT NULL
) STRICT;
CREATE INDEX messages_of_session ON messages (session_id, position);
CREATE INDEX messages_of_turn ON messages (turn_id);

CREATE TABLE captions (
    caption_id     TEXT   NOT NULL PRIMARY KEY,
    user_id        TEXT   NOT NULL,
    status         TEXT   NOT NULL,
    platform       TEXT   NOT NULL,
    caption_sealed BLOB,
    model          TEXT,
    truncated      INTEGER,
    created_at     INTEGER NOT NULL,
    position       INTEGER NOT NULL
) STRICT;
CREATE INDEX captions_of_user ON captions (user_id, position);

-- Streams with a row that cannot be read. The projection left the stream at that position and went
-- on with the others.
CREATE TABLE damaged (
    projection  TEXT   NOT NULL,
    stream_kind TEXT   NOT NULL,
    stream_id   TEXT   NOT NULL,
    position    INTEGER NOT NULL,
    reason      TEXT   NOT NULL,
    PRIMARY KEY (projection, stream_kind, stream_id)
) STRICT;
