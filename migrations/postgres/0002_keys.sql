-- A data key for each user, and one for the system (the nil UUID), wrapped by a master key.
CREATE TABLE user_keys (
    user_id      text   COLLATE "C" PRIMARY KEY,
    key_id       text   COLLATE "C" NOT NULL,
    master_id    text   COLLATE "C" NOT NULL,
    wrapped      bytea,
    state        text   COLLATE "C" NOT NULL CHECK (state IN ('live', 'destroyed')),
    destroyed_at bigint
);

-- Finds the users whose data key a master key wraps: at each start, in a rotation, and before a key
-- is retired.
CREATE INDEX user_keys_by_master ON user_keys (master_id, user_id) WHERE state = 'live';

-- Master keys that wrap nothing any more, kept for ever. No other key may take such an id, because
-- backups may still need the old one.
CREATE TABLE retired_masters (
    id         text   COLLATE "C" PRIMARY KEY,
    retired_at bigint NOT NULL
);

-- A server that missed the retirement of a key must not wrap by it. Retiring locks the table, so it
-- waits for writers, and later writers find the key retired: each statement of a function sees what
-- was committed before it.
CREATE FUNCTION refuse_retired_master() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state = 'live' AND EXISTS (SELECT FROM retired_masters r WHERE r.id = NEW.master_id) THEN
        RAISE EXCEPTION 'master key % was retired', NEW.master_id;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER user_keys_not_under_retired BEFORE INSERT OR UPDATE OF master_id ON user_keys
    FOR EACH ROW EXECUTE FUNCTION refuse_retired_master();

-- The master keys of each running server, renewed every few seconds. No data key is wrapped by a
-- key that one of the servers lacks.
CREATE TABLE rings (
    node       text   COLLATE "C" PRIMARY KEY,
    master_ids text   COLLATE "C" NOT NULL,
    seen_at    bigint NOT NULL
);
