-- Uploaded files. The blob store holds their bytes, sealed. A row is written with the fact that
-- refers to the file.

CREATE TABLE blobs (
    id         text   COLLATE "C" PRIMARY KEY,
    user_id    text   COLLATE "C" NOT NULL,
    name       bytea  NOT NULL, -- sealed
    size       bigint NOT NULL,
    media_type text   COLLATE "C" NOT NULL,
    -- `doomed`: nobody may read the file any more, and its bytes are being deleted.
    state      text   COLLATE "C" NOT NULL CHECK (state IN ('kept', 'doomed')),
    created_at bigint NOT NULL
);
CREATE INDEX blobs_of_user ON blobs (user_id);
CREATE INDEX blobs_doomed ON blobs (user_id) WHERE state = 'doomed';

-- Uploads that have begun and are no files yet. The row is written before the first bytes, so that
-- bytes without a file can be found without listing the blob store.
CREATE TABLE uploads (
    id       text   COLLATE "C" PRIMARY KEY, -- that of the file to be
    user_id  text   COLLATE "C" NOT NULL,
    begun_at bigint NOT NULL
);
CREATE INDEX uploads_by_age ON uploads (begun_at);
CREATE INDEX uploads_of_user ON uploads (user_id);

-- Writes the row in the append of the fact that refers to the file. The upload is over with it.
CREATE FUNCTION work_put_blob(w jsonb) RETURNS void LANGUAGE sql AS $$
    DELETE FROM uploads WHERE id = w ->> 'id';
    INSERT INTO blobs (id, user_id, name, size, media_type, state, created_at)
    VALUES (w ->> 'id', w ->> 'user_id', decode(w ->> 'name', 'base64'), (w ->> 'size')::bigint, w ->> 'media_type',
            'kept', (w ->> 'created_at')::bigint);
$$;
