-- The users to be forgotten, and those who were. The log has the fact; this table says what is left
-- to do.
CREATE TABLE forgettings (
    user_id      text   COLLATE "C" PRIMARY KEY,
    -- `requested`: the user is forgotten at `due`. `forgotten`: the fact is in the log and the key
    -- is gone; the rest is being erased. `erased`: nothing is left; erasing is repeated at `due`, for
    -- writes that were under way. `closed`: that is done.
    state        text   COLLATE "C" NOT NULL CHECK (state IN ('requested', 'forgotten', 'erased', 'closed')),
    -- When the next step is due.
    due          bigint NOT NULL,
    -- The position of the fact.
    position     bigint,
    forgotten_at bigint,
    erased_at    bigint,
    -- A signed note that says all this.
    certificate  text   COLLATE "C"
);
CREATE INDEX forgettings_by_due ON forgettings (due) WHERE state <> 'closed';

-- The fact is the user's last event: this very append has just inserted it.
CREATE FUNCTION work_forget(w jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    at_position bigint;
BEGIN
    SELECT e.position INTO at_position FROM events e WHERE e.owner = (w ->> 'user_id')::uuid ORDER BY e.owner_seq DESC LIMIT 1;
    UPDATE user_keys SET state = 'destroyed', wrapped = NULL, destroyed_at = at_position WHERE user_id = w ->> 'user_id';
    INSERT INTO forgettings (user_id, state, due, position, forgotten_at)
    VALUES (w ->> 'user_id', 'forgotten', (w ->> 'at')::bigint, at_position, (w ->> 'at')::bigint)
    ON CONFLICT (user_id) DO UPDATE SET state = excluded.state, due = excluded.due, position = excluded.position,
        forgotten_at = excluded.forgotten_at, erased_at = NULL, certificate = NULL;
END $$;

CREATE FUNCTION work_await_forget(w jsonb) RETURNS void LANGUAGE sql AS $$
    INSERT INTO forgettings (user_id, state, due) VALUES (w ->> 'user_id', 'requested', (w ->> 'due')::bigint)
    ON CONFLICT (user_id) DO NOTHING;
$$;

CREATE FUNCTION work_stay(w jsonb) RETURNS void LANGUAGE sql AS $$
    DELETE FROM forgettings WHERE user_id = w ->> 'user_id' AND state = 'requested';
$$;
