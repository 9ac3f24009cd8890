-- The read tables. They are derived from the log, and can be thrown away and filled again.
-- Columns named *_sealed hold personal text under the user's payload key. They stand last in their
-- row: SQLite then finds the other columns without walking through a long text.

CREATE TABLE accounts (
    user_id           text COLLATE "C" NOT NULL PRIMARY KEY,
    status            text COLLATE "C" NOT NULL,
    role_sealed       bytea NOT NULL,
    admin             bigint NOT NULL,
    tier              text COLLATE "C" NOT NULL,
    onboarding        text COLLATE "C" NOT NULL,
    -- Whether a login asks for a one-time code.
    two_factor        bigint NOT NULL,
    created_at        bigint NOT NULL,
    -- When a link to set a new password was asked for, until one was sent or used.
    reset_requested_at bigint,
    email_sealed      bytea NOT NULL,
    first_name_sealed bytea,
    last_name_sealed  bytea,
    reset_url_sealed  bytea
);
CREATE INDEX accounts_administrators ON accounts (user_id) WHERE admin = 1 AND status = 'active';
CREATE INDEX accounts_password_requests ON accounts (reset_requested_at, user_id) WHERE reset_requested_at IS NOT NULL;

-- Counts by month. Month 0 holds the counts of what exists now, which the projections of those
-- things keep: scheduled jobs by `jobs`, connected platforms by `credentials`.
CREATE TABLE usage (
    user_id uuid   NOT NULL,
    month   bigint NOT NULL,
    counter text COLLATE "C" NOT NULL,
    counted bigint NOT NULL,
    PRIMARY KEY (user_id, month, counter)
);

CREATE TABLE credentials (
    credential_id    text COLLATE "C" NOT NULL PRIMARY KEY,
    user_id          text COLLATE "C" NOT NULL,
    kind             text COLLATE "C" NOT NULL,
    platform_sealed  bytea NOT NULL,
    version          bigint NOT NULL,
    created_at       bigint NOT NULL,
    updated_at       bigint NOT NULL,
    -- When a browser's session ends.
    expires_at       bigint,
    last_revealed_at bigint,
    last_revealed_by text COLLATE "C",
    username_sealed  bytea
);
CREATE INDEX credentials_of_user ON credentials (user_id, created_at, credential_id);

CREATE TABLE jobs (
    job_id         uuid NOT NULL PRIMARY KEY,
    user_id        uuid NOT NULL,
    queue          text COLLATE "C" NOT NULL,
    operation      text COLLATE "C" NOT NULL,
    -- queued, processing, completed, failed or cancelled. A queued job whose run_at has not come is
    -- shown as delayed.
    status         text COLLATE "C" NOT NULL,
    priority       bigint NOT NULL,
    attempt        bigint NOT NULL,
    max_attempts   bigint NOT NULL,
    created_at     bigint NOT NULL,
    run_at         bigint,
    started_at     bigint,
    finished_at    bigint,
    position       bigint NOT NULL,
    -- The word for the last failure, until the job completes.
    code           text COLLATE "C",
    name_sealed    bytea,
    error_sealed   bytea,
    result_sealed  bytea,
    outputs_sealed bytea
);
CREATE INDEX jobs_of_user ON jobs (user_id, position);
-- Filtered lists merge these by position: each operation that is asked for, with each status.
CREATE INDEX jobs_of_user_by_operation ON jobs (user_id, operation, status, position);
-- Only the jobs that have failed.
CREATE INDEX jobs_of_user_by_code ON jobs (user_id, code, position) WHERE code IS NOT NULL;
CREATE INDEX jobs_of_user_by_code_and_operation ON jobs (user_id, code, operation, status, position)
    WHERE code IS NOT NULL;
-- For the jobs that are no longer to be kept.
CREATE INDEX jobs_by_end ON jobs (finished_at, job_id) WHERE finished_at IS NOT NULL;
-- Only the jobs that wait for a time, or did and have not been claimed.
CREATE INDEX jobs_by_time ON jobs (run_at) WHERE status = 'queued' AND run_at IS NOT NULL;
CREATE INDEX jobs_of_user_by_time ON jobs (user_id, run_at) WHERE status = 'queued' AND run_at IS NOT NULL;

-- The number of jobs in each state. A queued job counts as `delayed` while its run_at lies after
-- jobs_due.until, else as `queued`. Readers add the jobs that came due since.
CREATE TABLE job_counts (
    queue  text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    n      bigint NOT NULL,
    PRIMARY KEY (queue, status)
);

-- One row: the time up to which job_counts and usage count a job as due.
CREATE TABLE jobs_due (
    one   bigint NOT NULL PRIMARY KEY CHECK (one = 1),
    until bigint NOT NULL
);
INSERT INTO jobs_due VALUES (1, 0);

CREATE TABLE chats (
    session_id    text COLLATE "C" NOT NULL PRIMARY KEY,
    user_id       text COLLATE "C" NOT NULL,
    message_count bigint NOT NULL,
    running_turn  text COLLATE "C",
    created_at    bigint NOT NULL,
    updated_at    bigint NOT NULL,
    -- The name by which clients know it.
    name_sealed   bytea NOT NULL,
    -- The title that its first question gave it.
    opening_sealed bytea NOT NULL,
    -- The title that its user gave it.
    title_sealed  bytea
);
CREATE INDEX chats_of_user ON chats (user_id, updated_at, session_id);

CREATE TABLE messages (
    message_id     text COLLATE "C" NOT NULL PRIMARY KEY,
    session_id     text COLLATE "C" NOT NULL,
    user_id        text COLLATE "C" NOT NULL,
    turn_id        text COLLATE "C" NOT NULL,
    role           text COLLATE "C" NOT NULL,
    outcome        text COLLATE "C",
    created_at     bigint NOT NULL,
    position       bigint NOT NULL,
    -- Model, metrics and failure of an answer, as JSON.
    detail         text COLLATE "C",
    content_sealed bytea NOT NULL,
    tool_calls_sealed bytea
);
CREATE INDEX messages_of_session ON messages (session_id, position);
CREATE INDEX messages_of_turn ON messages (turn_id, user_id);
CREATE INDEX messages_of_user ON messages (user_id);

CREATE TABLE captions (
    caption_id     text COLLATE "C" NOT NULL PRIMARY KEY,
    user_id        text COLLATE "C" NOT NULL,
    status         text COLLATE "C" NOT NULL,
    platform       text COLLATE "C" NOT NULL,
    model          text COLLATE "C",
    truncated      bigint,
    created_at     bigint NOT NULL,
    position       bigint NOT NULL,
    caption_sealed bytea
);
CREATE INDEX captions_of_user ON captions (user_id, position);

-- The numbers of invisible marks, each with the fact that it names: the submission of the job that makes the mark.
CREATE TABLE marks (
    job_id           text COLLATE "C" NOT NULL PRIMARY KEY,
    user_id          text COLLATE "C" NOT NULL,
    number           bigint NOT NULL,
    -- The id of the fact.
    fact             text COLLATE "C" NOT NULL,
    position         bigint NOT NULL,
    -- When the mark was made; until the job is done, when it was asked for.
    marked_at        bigint NOT NULL,
    recipient_sealed bytea
);
CREATE INDEX marks_by_number ON marks (number, position);
CREATE INDEX marks_of_user ON marks (user_id);

-- The projections. A projection without a position of its own stands at the checkpoint
-- `projections`, like most. One that stopped, or that catches up with the others, has its own.
CREATE TABLE projections (
    name     text COLLATE "C" NOT NULL PRIMARY KEY,
    position bigint,
    -- The error that stopped it.
    stopped  text COLLATE "C"
);

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

CREATE TABLE service_keys (
    -- The keyed hash of the key.
    key_id      text COLLATE "C" NOT NULL PRIMARY KEY,
    -- The user whose own key it is; NULL for a service key.
    user_id     text COLLATE "C",
    name_sealed bytea NOT NULL,
    -- The scopes, separated by spaces.
    scopes      text COLLATE "C" NOT NULL,
    expires_at  bigint,
    created_at  bigint NOT NULL,
    created_by  text COLLATE "C",
    revoked_at  bigint
);
CREATE INDEX service_keys_by_time ON service_keys (created_at, key_id);
CREATE INDEX service_keys_by_user ON service_keys (user_id, created_at, key_id);

CREATE TABLE invites (
    -- The keyed hash of the code.
    invite_id   text COLLATE "C" NOT NULL PRIMARY KEY,
    -- The code as its fact holds it, sealed under the system's key; NULL when the fact has no code.
    code_sealed text COLLATE "C",
    tier        text COLLATE "C" NOT NULL,
    role_sealed bytea NOT NULL,
    expires_at  bigint,
    created_at  bigint NOT NULL,
    used_by     text COLLATE "C",
    used_at     bigint
);
CREATE INDEX invites_by_time ON invites (created_at, invite_id);
