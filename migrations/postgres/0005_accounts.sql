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
            WHEN 'open_session' THEN
                INSERT INTO sessions (token_hash, family, user_id, expires_at)
                VALUES (w ->> 'token_hash', w ->> 'family', w ->> 'user_id', (w ->> 'expires_at')::bigint);
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
