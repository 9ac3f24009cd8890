-- The read tables. They are derived from the log, and can be thrown away and filled again.
-- Columns named *_sealed hold personal text under the user's payload key. They stand last in their
-- row: SQLite then finds the other columns without walking through a long text.

CREATE TABLE accounts (
    user_id           TEXT    NOT NULL PRIMARY KEY,
    status            TEXT    NOT NULL,
    role_sealed       BLOB    NOT NULL,
    admin             INTEGER NOT NULL,
    tier              TEXT    NOT NULL,
    onboarding        TEXT    NOT NULL,
    -- Whether a login asks for a one-time code.
    two_factor        INTEGER NOT NULL,
    created_at        INTEGER NOT NULL,
    -- When a link to set a new password was asked for, until one was sent or used.
    reset_requested_at INTEGER,
    email_sealed      BLOB    NOT NULL,
    first_name_sealed BLOB,
    last_name_sealed  BLOB,
    reset_url_sealed  BLOB
) STRICT;
CREATE INDEX accounts_administrators ON accounts (user_id) WHERE admin = 1 AND status = 'active';
CREATE INDEX accounts_password_requests ON accounts (reset_requested_at, user_id) WHERE reset_requested_at IS NOT NULL;

-- Counts by month. Month 0 holds the counts of what exists now, which the projections of those
-- things keep: scheduled jobs by `jobs`, connected platforms by `credentials`.
CREATE TABLE usage (
    user_id BLOB    NOT NULL,
    month   INTEGER NOT NULL,
    counter TEXT    NOT NULL,
    counted INTEGER NOT NULL,
    PRIMARY KEY (user_id, month, counter)
) STRICT, WITHOUT ROWID;

CREATE TABLE credentials (
    credential_id    TEXT    NOT NULL PRIMARY KEY,
    user_id          TEXT    NOT NULL,
    kind             TEXT    NOT NULL,
    platform_sealed  BLOB    NOT NULL,
    version          INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    -- When a browser's session ends.
    expires_at       INTEGER,
    last_revealed_at INTEGER,
    last_revealed_by TEXT,
    username_sealed  BLOB
) STRICT;
CREATE INDEX credentials_of_user ON credentials (user_id, created_at, credential_id);

CREATE TABLE jobs (
    job_id         BLOB    NOT NULL PRIMARY KEY,
    user_id        BLOB    NOT NULL,
    queue          TEXT    NOT NULL,
    operation      TEXT    NOT NULL,
    -- queued, processing, completed, failed or cancelled. A queued job whose run_at has not come is
    -- shown as delayed.
    status         TEXT    NOT NULL,
    priority       INTEGER NOT NULL,
    attempt        INTEGER NOT NULL,
    max_attempts   INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    run_at         INTEGER,
    started_at     INTEGER,
    finished_at    INTEGER,
    position       INTEGER NOT NULL,
    -- The word for the last failure, until the job completes.
    code           TEXT,
    name_sealed    BLOB,
    error_sealed   BLOB,
    result_sealed  BLOB,
    outputs_sealed BLOB
) STRICT;
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
    queue  TEXT    NOT NULL,
    status TEXT    NOT NULL,
    n      INTEGER NOT NULL,
    PRIMARY KEY (queue, status)
) STRICT, WITHOUT ROWID;

-- One row: the time up to which job_counts and usage count a job as due.
CREATE TABLE jobs_due (
    one   INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    until INTEGER NOT NULL
) STRICT;
INSERT INTO jobs_due VALUES (1, 0);

CREATE TABLE chats (
    session_id    TEXT    NOT NULL PRIMARY KEY,
    user_id       TEXT    NOT NULL,
    message_count INTEGER NOT NULL,
    running_turn  TEXT,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    -- The name by which clients know it.
    name_sealed   BLOB    NOT NULL,
    -- The title that its first question gave it.
    opening_sealed BLOB   NOT NULL,
    -- The title that its user gave it.
    title_sealed  BLOB
) STRICT;
CREATE INDEX chats_of_user ON chats (user_id, updated_at, session_id);

CREATE TABLE messages (
    message_id     TEXT    NOT NULL PRIMARY KEY,
    session_id     TEXT    NOT NULL,
    user_id        TEXT    NOT NULL,
    turn_id        TEXT    NOT NULL,
    role           TEXT    NOT NULL,
    outcome        TEXT,
    created_at     INTEGER NOT NULL,
    position       INTEGER NOT NULL,
    -- Model, metrics and failure of an answer, as JSON.
    detail         TEXT,
    content_sealed BLOB    NOT NULL,
    tool_calls_sealed BLOB
) STRICT;
CREATE INDEX messages_of_session ON messages (session_id, position);
CREATE INDEX messages_of_turn ON messages (turn_id, user_id);
CREATE INDEX messages_of_user ON messages (user_id);

CREATE TABLE captions (
    caption_id     TEXT    NOT NULL PRIMARY KEY,
    user_id        TEXT    NOT NULL,
    status         TEXT    NOT NULL,
    platform       TEXT    NOT NULL,
    model          TEXT,
    truncated      INTEGER,
    created_at     INTEGER NOT NULL,
    position       INTEGER NOT NULL,
    caption_sealed BLOB
) STRICT;
CREATE INDEX captions_of_user ON captions (user_id, position);

-- The numbers of invisible marks, each with the fact that it names: the submission of the job that makes the mark.
CREATE TABLE marks (
    job_id           TEXT    NOT NULL PRIMARY KEY,
    user_id          TEXT    NOT NULL,
    number           INTEGER NOT NULL,
    -- The id of the fact.
    fact             TEXT    NOT NULL,
    position         INTEGER NOT NULL,
    -- When the mark was made; until the job is done, when it was asked for.
    marked_at        INTEGER NOT NULL,
    recipient_sealed BLOB
) STRICT;
CREATE INDEX marks_by_number ON marks (number, position);
CREATE INDEX marks_of_user ON marks (user_id);

-- The projections. A projection without a position of its own stands at the checkpoint
-- `projections`, like most. One that stopped, or that catches up with the others, has its own.
CREATE TABLE projections (
    name     TEXT    NOT NULL PRIMARY KEY,
    position INTEGER,
    -- The error that stopped it.
    stopped  TEXT
) STRICT;

-- Streams with a row that cannot be read. The projection left the stream at that position and went
-- on with the others.
CREATE TABLE damaged (
    projection  TEXT    NOT NULL,
    stream_kind TEXT    NOT NULL,
    stream_id   TEXT    NOT NULL,
    position    INTEGER NOT NULL,
    reason      TEXT    NOT NULL,
    PRIMARY KEY (projection, stream_kind, stream_id)
) STRICT;

CREATE TABLE service_keys (
    -- The keyed hash of the key.
    key_id      TEXT NOT NULL PRIMARY KEY,
    -- The user whose own key it is; NULL for a service key.
    user_id     TEXT,
    name_sealed BLOB NOT NULL,
    -- The scopes, separated by spaces.
    scopes      TEXT NOT NULL,
    expires_at  INTEGER,
    created_at  INTEGER NOT NULL,
    created_by  TEXT,
    revoked_at  INTEGER
) STRICT;
CREATE INDEX service_keys_by_time ON service_keys (created_at, key_id);
CREATE INDEX service_keys_by_user ON service_keys (user_id, created_at, key_id);

CREATE TABLE invites (
    -- The keyed hash of the code.
    invite_id   TEXT NOT NULL PRIMARY KEY,
    -- The code as its fact holds it, sealed under the system's key; NULL when the fact has no code.
    code_sealed TEXT,
    tier        TEXT NOT NULL,
    role_sealed BLOB NOT NULL,
    expires_at  INTEGER,
    created_at  INTEGER NOT NULL,
    used_by     TEXT,
    used_at     INTEGER
) STRICT;
CREATE INDEX invites_by_time ON invites (created_at, invite_id);
