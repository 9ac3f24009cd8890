-- Files. The blob store holds their bytes, sealed. A row is written with the fact that the file is stored.

CREATE TABLE blobs (
    id         TEXT    NOT NULL PRIMARY KEY,
    user_id    TEXT    NOT NULL,
    details    BLOB    NOT NULL, -- sealed: the name, the hash of the bytes, and the measures
    size       INTEGER NOT NULL,
    media_type TEXT    NOT NULL,
    -- The job that made the file.
    job_id     TEXT,
    -- `doomed`: nobody may read the file any more, and its bytes are being deleted.
    state      TEXT    NOT NULL CHECK (state IN ('kept', 'doomed')),
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX blobs_of_user ON blobs (user_id, created_at, id);
CREATE INDEX blobs_doomed ON blobs (user_id, id) WHERE state = 'doomed';
CREATE INDEX blobs_of_jobs ON blobs (created_at, id) WHERE job_id IS NOT NULL AND state = 'kept';

-- Uploads that have begun and are no files yet. The row is written before the first bytes, so that
-- bytes without a file can be found without listing the blob store.
CREATE TABLE uploads (
    id         TEXT    NOT NULL PRIMARY KEY, -- that of the file to be
    user_id    TEXT    NOT NULL,
    -- Nobody goes on with it after that time.
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX uploads_by_age ON uploads (expires_at);
CREATE INDEX uploads_of_user ON uploads (user_id);

-- Uploads that their client may break off and go on with. Each has a row in `uploads`, too.
CREATE TABLE resumable (
    id         TEXT    NOT NULL PRIMARY KEY, -- that of the file to be
    user_id    TEXT    NOT NULL,
    length     INTEGER NOT NULL,
    stored     INTEGER NOT NULL, -- the bytes that are durable
    turn       INTEGER NOT NULL, -- only the newest turn moves the upload on
    tail_turn  INTEGER NOT NULL, -- the turn that wrote the bytes behind the last whole part
    name       BLOB    NOT NULL, -- sealed
    hash       BLOB    NOT NULL, -- sealed: the state of the hash of the whole parts
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX resumable_of_user ON resumable (user_id);
