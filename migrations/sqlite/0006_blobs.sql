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
