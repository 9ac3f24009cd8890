-- Uploaded files. The blob store holds their bytes, sealed. A row is written with the fact that
-- refers to the file.

CREATE TABLE blobs (
    id         TEXT    NOT NULL PRIMARY KEY,
    user_id    TEXT    NOT NULL,
    name       BLOB    NOT NULL, -- sealed
    size       INTEGER NOT NULL,
    media_type TEXT    NOT NULL,
    -- `doomed`: nobody may read the file any more, and its bytes are being deleted.
    state      TEXT    NOT NULL CHECK (state IN ('kept', 'doomed')),
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX blobs_of_user ON blobs (user_id);
CREATE INDEX blobs_doomed ON blobs (user_id) WHERE state = 'doomed';

-- Uploads that have begun and are no files yet. The row is written before the first bytes, so that
-- bytes without a file can be found without listing the blob store.
CREATE TABLE uploads (
    id       TEXT    NOT NULL PRIMARY KEY, -- that of the file to be
    user_id  TEXT    NOT NULL,
    begun_at INTEGER NOT NULL
) STRICT;
CREATE INDEX uploads_by_age ON uploads (begun_at);
CREATE INDEX uploads_of_user ON uploads (user_id);
