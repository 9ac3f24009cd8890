-- Whether a login asks for a one-time code.
ALTER TABLE accounts ADD COLUMN two_factor bigint NOT NULL DEFAULT 0;

-- The working rows that go with the accepted requests, in the same transaction as their facts. As in 0001_log, and a kind that is
-- not named here is written by a function of its own, work_<kind>(w): later migrations add such functions beside this one.
CREATE OR REPLACE FUNCTION work_of_append(p_work jsonb, refused int[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    w jsonb;
BEGIN
    FOR w IN SELECT value FROM jsonb_array_elements(p_work) WHERE NOT (value ->> 'r')::int = ANY (refused) LOOP
        CASE w ->> 't'
            WHEN 'new_key' THEN
                INSERT INTO user_keys (user_id, key_id, master_id, wrapped, state)
                VALUES (w ->> 'user_id', w ->> 'key_id', w ->> 'master_id', decode(w ->> 'wrapped', 'base64'), 'live');
            WHEN 'put_secret' THEN
                INSERT INTO secrets (secret_id, version, user_id, sealed)
                VALUES (w ->> 'secret_id', (w ->> 'version')::bigint, w ->> 'user_id', decode(w ->> 'sealed', 'base64'));
                DELETE FROM secrets WHERE secret_id = w ->> 'secret_id' AND version < (w ->> 'version')::bigint;
            WHEN 'delete_secret' THEN
                DELETE FROM secrets WHERE secret_id = w ->> 'secret_id';
            WHEN 'put_lease' THEN
                INSERT INTO leases AS l (kind, id, user_id, stream_id, holder, epoch, expires_at)
                VALUES (w ->> 'kind', w ->> 'id', w ->> 'user_id', w ->> 'stream_id', w ->> 'holder', 1, (w ->> 'expires_at')::bigint)
                ON CONFLICT (kind, id) DO UPDATE SET
                    holder = excluded.holder, epoch = l.epoch + 1, expires_at = excluded.expires_at, cancelled = 0, progress = NULL;
            WHEN 'drop_lease' THEN
                DELETE FROM leases WHERE kind = w ->> 'kind' AND id = w ->> 'id';
            WHEN 'cancel_lease' THEN
                UPDATE leases SET cancelled = 1 WHERE kind = w ->> 'kind' AND id = w ->> 'id';
            WHEN 'remember' THEN
                INSERT INTO idempotency (key_hash, user_id, request_hash, event_id, sealed)
                VALUES (w ->> 'key_hash', w ->> 'user_id', w ->> 'request_hash', w ->> 'event_id', decode(w ->> 'sealed', 'base64'));
            WHEN 'prune_journal' THEN
                DELETE FROM journal WHERE turn_id = w ->> 'turn_id';
            WHEN 'only_if_lapsed' THEN
                NULL;
            WHEN 'only_in_epoch' THEN
                NULL;
            ELSE
                EXECUTE format('SELECT %I($1)', 'work_' || (w ->> 't')) USING w; -- the kinds are the writer's own words
        END CASE;
    END LOOP;
END $$;

-- One row per login: a family of refresh tokens, of which one is good. Who was logged in logs in once more.
DROP TABLE sessions;
CREATE TABLE sessions (
    family       text  COLLATE "C" NOT NULL PRIMARY KEY,
    user_id      text  COLLATE "C" NOT NULL,
    -- SHA-256 of the token that is good now.
    token_hash   text  COLLATE "C" NOT NULL,
    -- Those that it followed within the grace: JSON, [[hash, when], ...].
    rotated      text  COLLATE "C" NOT NULL DEFAULT '[]',
    -- What the client calls itself.
    agent_sealed bytea,
    created_at   bigint NOT NULL,
    used_at      bigint NOT NULL,
    expires_at   bigint NOT NULL
);
CREATE INDEX sessions_of_user ON sessions (user_id, used_at);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);

CREATE FUNCTION work_open_session(w jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM sessions WHERE user_id = w ->> 'user_id' AND (expires_at <= (w ->> 'now')::bigint OR family NOT IN (
        SELECT s.family FROM sessions s WHERE s.user_id = w ->> 'user_id'
        ORDER BY s.used_at DESC, s.family DESC LIMIT (w ->> 'most')::bigint - 1));
    INSERT INTO sessions (family, user_id, token_hash, agent_sealed, created_at, used_at, expires_at)
    VALUES (w ->> 'family', w ->> 'user_id', w ->> 'token_hash', decode(w ->> 'agent', 'base64'),
            (w ->> 'now')::bigint, (w ->> 'now')::bigint, (w ->> 'expires_at')::bigint);
END $$;

CREATE FUNCTION work_end_session(w jsonb) RETURNS void LANGUAGE sql AS $$
    DELETE FROM sessions WHERE family = w ->> 'family';
$$;

CREATE FUNCTION work_end_sessions(w jsonb) RETURNS void LANGUAGE sql AS $$
    DELETE FROM sessions WHERE user_id = w ->> 'user_id' AND family <> coalesce(w ->> 'but', '');
$$;
