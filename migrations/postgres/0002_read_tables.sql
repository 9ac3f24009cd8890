-- The read tables. They are derived from the log, and can be thrown away and filled again.
-- Columns named *_sealed hold personal text under the user's payload key.

CREATE TABLE accounts (
    user_id           text COLLATE "C" NOT NULL PRIMARY KEY,
    status            text COLLATE "C" NOT NULL,
    role              text COLLATE "C" NOT NULL,
    admin             bigint NOT NULL,
    tier              text COLLATE "C" NOT NULL,
    onboarding        text COLLATE "C" NOT NULL,
    email_sealed      bytea  NOT NULL,
    first_name_sealed bytea,
    created_at        bigint NOT NULL
);

CREATE TABLE usage (
    user_id text COLLATE "C" NOT NULL,
    counter text COLLATE "C" NOT NULL,
    month   bigint NOT NULL,
    counted bigint NOT NULL,
    PRIMARY KEY (user_id, counter, month)
);

CREATE TABLE credentials (
    credential_id    text COLLATE "C" NOT NULL PRIMARY KEY,
    user_id          text COLLATE "C" NOT NULL,
    kind             text COLLATE "C" NOT NULL,
    platform         text COLLATE "C" NOT NULL,
    username_sealed  bytea,
    version          bigint NOT NULL,
    created_at       bigint NOT NULL,
    updated_at       bigint NOT NULL,
    last_revealed_at bigint,
    last_revealed_by text COLLATE "C"
);
CREATE INDEX credentials_of_user ON credentials (user_id, created_at);

CREATE TABLE jobs (
    job_id         text COLLATE "C" NOT NULL PRIMARY KEY,
    user_id        text COLLATE "C" NOT NULL,
    queue          text COLLATE "C" NOT NULL,
    operation      text COLLATE "C" NOT NULL,
    -- queued, processing, completed, failed or cancelled. A queued job whose run_at has not come is
    -- shown as delayed.
    status         text COLLATE "C" NOT NULL,
    priority       bigint NOT NULL,
    attempt        bigint NOT NULL,
    max_attempts   bigint NOT NULL,
    name_sealed    bytea,
    error_sealed   bytea,
    result_sealed  bytea,
    outputs_sealed bytea,
    created_at     bigint NOT NULL,
    run_at         bigint,
    started_at     bigint,
    finished_at    bigint,
    position       bigint NOT NULL
);
CREATE INDEX jobs_of_user ON jobs (user_id, position);
CREATE INDEX jobs_by_status ON jobs (queue, status);

CREATE TABLE chats (
    session_id    text COLLATE "C" NOT NULL PRIMARY KEY,
    user_id       text COLLATE "C" NOT NULL,
    title_sealed  bytea  NOT NULL,
    message_count bigint NOT NULL,
    running_turn  text COLLATE "C",
    created_at    bigint NOT NULL,
    updated_at    bigint NOT NULL
);
CREATE INDEX chats_of_user ON chats (user_id, updated_at);

CREATE TABLE messages (
    message_id     text COLLATE "C" NOT NULL PRIMARY KEY,
    session_id     text COLLATE "C" NOT NULL,
    user_id        text COLLATE "C" NOT NULL,
    turn_id        text COLLATE "C" NOT NULL,
    role           text COLLATE "C" NOT NULL,
    content_sealed bytea  NOT NULL,
    outcome        text COLLATE "C",
    -- Model, metrics and failure of an answer, as JSON.
    detail         text COLLATE "C",
    created_at     bigint NOT NULL,
    position       bigint NOT NULL
);
CREATE INDEX messages_of_session ON messages (session_id, position);
CREATE INDEX messages_of_turn ON messages (turn_id);

CREATE TABLE captions (
    caption_id     text COLLATE "C" NOT NULL PRIMARY KEY,
    user_id        text COLLATE "C" NOT NULL,
    status         text COLLATE "C" NOT NULL,
    platform       text COLLATE "C" NOT NULL,
    caption_sealed bytea,
    model          text COLLATE "C",
    truncated      bigint,
    created_at     bigint NOT NULL,
    position       bigint NOT NULL
);
CREATE INDEX captions_of_user ON captions (user_id, position);

-- Streams with a row that cannot be read. The projection left the stream at that position and went
-- on with the others.
CREATE TABLE damaged (
    projection  text COLLATE "C" NOT NULL,
    stream_kind text COLLATE "C" NOT NULL,
    stream_id   text COLLATE "C" NOT NULL,
    position    bigint NOT NULL,
    reason      text COLLATE "C" NOT NULL,
    PRIMARY KEY (projection, stream_kind, stream_id)
);
