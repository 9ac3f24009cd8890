-- A data key for each user, and one for the system (the nil UUID), wrapped by a master key.
CREATE TABLE user_keys (
    user_id      TEXT NOT NULL PRIMARY KEY,
    key_id       TEXT NOT NULL,
    master_id    TEXT NOT NULL,
    wrapped      BLOB,
    state        TEXT NOT NULL CHECK (state IN ('live', 'destroyed')),
    destroyed_at INTEGER
) STRICT;

-- Finds the users whose data key a master key wraps: at each start, in a rotation, and before a key
-- is retired.
CREATE INDEX user_keys_by_master ON user_keys (master_id, user_id) WHERE state = 'live';

-- Master keys that wrap nothing any more, kept for ever. No other key may take such an id, because
-- backups may still need the old one.
CREATE TABLE retired_masters (
    id         TEXT    NOT NULL PRIMARY KEY,
    retired_at INTEGER NOT NULL
) STRICT;

-- A process that missed the retirement of a key must not wrap by it.
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

-- The same table as on Postgres. An embedded store has one server, so nobody reads another's row.
CREATE TABLE rings (
    node       TEXT    NOT NULL PRIMARY KEY,
    master_ids TEXT    NOT NULL,
    seen_at    INTEGER NOT NULL
) STRICT;
