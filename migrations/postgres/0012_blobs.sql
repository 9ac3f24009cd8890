-- Files. The blob store holds their bytes, sealed. A row is written with the fact that the file is stored.

CREATE TABLE blobs (
    id         text   COLLATE "C" PRIMARY KEY,
    user_id    text   COLLATE "C" NOT NULL,
    details    bytea  NOT NULL, -- sealed: the name, the hash of the bytes, and the measures
    size       bigint NOT NULL,
    media_type text   COLLATE "C" NOT NULL,
    -- The job that made the file.
    job_id     text   COLLATE "C",
    -- `doomed`: nobody may read the file any more, and its bytes are being deleted.
    state      text   COLLATE "C" NOT NULL CHECK (state IN ('kept', 'doomed')),
    created_at bigint NOT NULL
);
CREATE INDEX blobs_of_user ON blobs (user_id, created_at, id);
CREATE INDEX blobs_doomed ON blobs (user_id, id) WHERE state = 'doomed';
CREATE INDEX blobs_of_jobs ON blobs (created_at, id) WHERE job_id IS NOT NULL AND state = 'kept';

-- Uploads that have begun and are no files yet. The row is written before the first bytes, so that
-- bytes without a file can be found without listing the blob store.
CREATE TABLE uploads (
    id         text   COLLATE "C" PRIMARY KEY, -- that of the file to be
    user_id    text   COLLATE "C" NOT NULL,
    -- Nobody goes on with it after that time.
    expires_at bigint NOT NULL
);
CREATE INDEX uploads_by_age ON uploads (expires_at);
CREATE INDEX uploads_of_user ON uploads (user_id);

-- Uploads that their client may break off and go on with. Each has a row in `uploads`, too.
CREATE TABLE resumable (
    id         text   COLLATE "C" PRIMARY KEY, -- that of the file to be
    user_id    text   COLLATE "C" NOT NULL,
    length     bigint NOT NULL,
    stored     bigint NOT NULL, -- the bytes that are durable
    turn       bigint NOT NULL, -- only the newest turn moves the upload on
    tail_turn  bigint NOT NULL, -- the turn that wrote the bytes behind the last whole part
    name       bytea  NOT NULL, -- sealed
    hash       bytea  NOT NULL, -- sealed: the state of the hash of the whole parts
    created_at bigint NOT NULL
);
CREATE INDEX resumable_of_user ON resumable (user_id);

-- Writes the row in the append of the fact that the file is stored. The upload is over with it.
CREATE FUNCTION work_put_blob(w jsonb) RETURNS void LANGUAGE sql AS $$
    DELETE FROM uploads WHERE id = w ->> 'id';
    DELETE FROM resumable WHERE id = w ->> 'id';
    INSERT INTO blobs (id, user_id, details, size, media_type, job_id, state, created_at)
    VALUES (w ->> 'id', w ->> 'user_id', decode(w ->> 'details', 'base64'), (w ->> 'size')::bigint, w ->> 'media_type',
            w ->> 'job_id', 'kept', (w ->> 'created_at')::bigint);
$$;

-- From the fact that the file is removed until its bytes are deleted.
CREATE FUNCTION work_doom_blob(w jsonb) RETURNS void LANGUAGE sql AS $$
    UPDATE blobs SET state = 'doomed' WHERE id = w ->> 'id' AND user_id = w ->> 'user_id';
$$;
