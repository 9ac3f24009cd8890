-- Who needs which master key: asked at each start, by rotation, and when one is to be retired.
CREATE INDEX user_keys_by_master ON user_keys (master_id, user_id) WHERE state = 'live';

-- Master keys that wrap nothing any more, kept for ever: no other key may take such an id, for backups may still need the old one.
CREATE TABLE retired_masters (
    id         text   PRIMARY KEY,
    retired_at bigint NOT NULL
);

-- Whoever missed that a key was retired must not wrap by it.
CREATE TRIGGER user_keys_not_under_retired_insert BEFORE INSERT ON user_keys
WHEN NEW.state = 'live' AND EXISTS (SELECT 1 FROM retired_masters WHERE id = NEW.master_id)
BEGIN
    SELECT RAISE(ABORT, 'this master key was retired');
END;
CREATE TRIGGER user_keys_not_under_retired_update BEFORE UPDATE OF master_id ON user_keys
WHEN NEW.state = 'live' AND EXISTS (SELECT 1 FROM retired_masters WHERE id = NEW.master_id)
BEGIN
    SELECT RAISE(ABORT, 'this master key was retired');
END;

-- As on Postgres; an embedded store has one server, which needs no word of the others.
CREATE TABLE rings (
    node       text   PRIMARY KEY,
    master_ids text   NOT NULL,
    seen_at    bigint NOT NULL
);
