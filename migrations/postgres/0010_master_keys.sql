-- Who needs which master key: asked at each start, by rotation, and when one is to be retired.
CREATE INDEX user_keys_by_master ON user_keys (master_id, user_id) WHERE state = 'live';

-- Master keys that wrap nothing any more, kept for ever: no other key may take such an id, for backups may still need the old one.
CREATE TABLE retired_masters (
    id         text   COLLATE "C" PRIMARY KEY,
    retired_at bigint NOT NULL
);

-- Whoever missed that a key was retired must not wrap by it. Retiring waits for those who write (it locks the table), and who
-- writes later finds it retired: each statement of a function sees what was committed before it.
CREATE FUNCTION refuse_retired_master() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state = 'live' AND EXISTS (SELECT FROM retired_masters r WHERE r.id = NEW.master_id) THEN
        RAISE EXCEPTION 'master key % was retired', NEW.master_id;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER user_keys_not_under_retired BEFORE INSERT OR UPDATE OF master_id ON user_keys
    FOR EACH ROW EXECUTE FUNCTION refuse_retired_master();

-- Which master keys each running server has, said every few seconds: nothing is wrapped by a key that one of them lacks.
CREATE TABLE rings (
    node       text   COLLATE "C" PRIMARY KEY,
    master_ids text   COLLATE "C" NOT NULL,
    seen_at    bigint NOT NULL
);
