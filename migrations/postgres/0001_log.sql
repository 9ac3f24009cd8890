-- The log, and the function that appends to it. The working tables, which it writes beside the
-- facts, follow in files of their own, and the read tables last.
-- Times are integer microseconds since 1970 UTC. The log's ids are UUIDs in binary form, because
-- every append pays for each byte of its keys. Elsewhere ids are text in the "C" collation, so that
-- both stores hold the same values.

CREATE TABLE events (
    -- Dense and in commit order. append() gives it under a lock: a sequence leaves holes and does
    -- not follow the commits.
    position      bigint   PRIMARY KEY,
    owner         uuid     NOT NULL,
    owner_seq     bigint   NOT NULL,
    -- The stream's id. A user's only stream of a kind has a hash of the user and the kind here, so
    -- the key needs no kind.
    stream        uuid     NOT NULL,
    sequence      bigint   NOT NULL,
    kind          smallint NOT NULL,
    event_type    text     COLLATE "C" NOT NULL,
    event_version smallint NOT NULL,
    event_id      uuid     NOT NULL,
    slice         smallint NOT NULL,
    recorded_at   bigint   NOT NULL,
    digest        bytea    NOT NULL,
    metadata      text     COLLATE "C" NOT NULL,
    payload       bytea    NOT NULL,
    -- These keys are the fence. No other index: each costs every append.
    UNIQUE (owner, owner_seq),
    UNIQUE (stream, sequence)
);
-- Sealed bytes do not compress.
ALTER TABLE events ALTER payload SET STORAGE EXTERNAL;

-- SQLite's function of this name and form, so that a query that looks for a UUID has one text on
-- both stores.
CREATE FUNCTION unhex(id text, ignored text) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN id::uuid;

-- The events in the shape that postgres-es and other tools for cqrs-es read.
CREATE VIEW stream_events AS
SELECT CASE kind
           WHEN 1 THEN 'account' WHEN 2 THEN 'usage' WHEN 3 THEN 'credential' WHEN 4 THEN 'job' WHEN 5 THEN 'chat'
           WHEN 6 THEN 'caption' WHEN 7 THEN 'email' WHEN 8 THEN 'invite' WHEN 9 THEN 'service_key' WHEN 10 THEN 'access'
       END AS aggregate_type,
       stream::text AS aggregate_id, sequence, event_type, event_version::text AS event_version,
       json_build_object('event_id', event_id, 'sealed', translate(encode(payload, 'base64'), E'\n', '')) AS payload,
       metadata::json AS metadata, stream
FROM events;

-- One stream of the view, by the key of the table: the view's text has no index.
CREATE FUNCTION events_of_stream(id text) RETURNS SETOF stream_events LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT * FROM stream_events WHERE stream = id::uuid;
$$;

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events are facts: % is refused', TG_OP;
END $$;
CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Appends a batch of requests, each whole or not at all. Answers a row `head` with the last
-- position before the batch, and one row for each request that was not appended, with its outcome:
-- - `already`: its own events are in the log, at these positions;
-- - `deposed`: it was to be written in one epoch only, and that epoch is over;
-- - `key_not_live`: an owner has no live data key;
-- - `stale`: an owner has other events than the writer thought;
-- - `taken`: a stream belongs to another owner;
-- - `key_used`: another request had this idempotency key;
-- - `lease_held`: the request needs a lapsed lease, and the lease has not lapsed.
-- All other requests were appended after the head, in their order.
--
-- The unique keys are the fence, so a good batch is inserted without a look at what there is. An
-- owner's count only grows: a stale writer meets its own number taken, and a forgotten user's
-- number is taken by the fact of the forgetting. Only when a key is met, every request is judged.
-- p_known is the last position that the writer's process has seen. A log that ends before it has
-- lost facts, and what was decided on them must not follow.
--
-- Invariant: no two requests of a batch share an owner; the writer ensures it. p_work is NULL when
-- there are no working rows.
-- The session has enable_seqscan, enable_hashjoin and enable_mergejoin off: a plan made while the
-- tables were small is kept.
CREATE FUNCTION append(
    p_owner uuid[], p_owner_seq bigint[], p_stream uuid[], p_sequence bigint[], p_kind smallint[], p_event_type text[],
    p_event_version smallint[], p_event_id uuid[], p_slice smallint[], p_recorded_at bigint[], p_digest bytea[],
    p_metadata text[], p_payload bytea[], p_request int[], p_system boolean[], p_work jsonb, p_known bigint
) RETURNS TABLE (request int, outcome text, first_position bigint, last_position bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    head     bigint;
    judged   int[];
    requests int[] := '{}';
    outcomes text[] := '{}';
BEGIN
    IF p_work IS NOT NULL THEN
        -- No epoch is raised while a request of the leader is written. This lock comes before the
        -- appenders' lock, so that whoever waits here holds up nobody else.
        IF p_work @> '[{"t": "only_in_epoch"}]' THEN
            PERFORM pg_advisory_xact_lock_shared(7340993);
        END IF;
        -- A forgetting may follow any event of its user, but not the fact of an earlier forgetting.
        SELECT array_agg(DISTINCT w.r) INTO judged FROM jsonb_to_recordset(p_work) AS w (r int, t text)
        WHERE w.t IN ('only_if_lapsed', 'only_in_epoch', 'only_at', 'forget');
    END IF;
    -- One appender at a time. Each statement of a volatile function sees a fresh snapshot, so the
    -- rest sees everything that earlier holders of the lock committed.
    PERFORM pg_advisory_xact_lock(7340991);
    head := coalesce((SELECT e.position FROM events e ORDER BY e.position DESC LIMIT 1), 0);
    IF head < p_known THEN
        RAISE EXCEPTION 'the log ends at position %, and this server has seen position %: the store went back in time', head, p_known
            USING HINT = 'A fail-over lost commits, or a backup was put back under a running server. Stop every genie first.';
    END IF;

    FOR attempt IN 1..2 LOOP
        IF judged IS NOT NULL THEN
            SELECT coalesce(array_agg(j.request), '{}'), coalesce(array_agg(j.outcome), '{}') INTO requests, outcomes
            FROM judge(judged, p_request, p_owner, p_owner_seq, p_stream, p_sequence, p_event_id, p_system, p_work) AS j
            WHERE j.outcome <> 'good';
        END IF;
        BEGIN
            INSERT INTO events (position, owner, owner_seq, stream, sequence, kind, event_type, event_version, event_id,
                                slice, recorded_at, digest, metadata, payload)
            SELECT head + row_number() OVER (), r.owner, r.owner_seq, r.stream, r.sequence, r.kind, r.event_type,
                   r.event_version, r.event_id, r.slice, r.recorded_at, r.digest, r.metadata, r.payload
            FROM unnest(p_owner, p_owner_seq, p_stream, p_sequence, p_kind, p_event_type, p_event_version, p_event_id,
                        p_slice, p_recorded_at, p_digest, p_metadata, p_payload, p_request)
                AS r (owner, owner_seq, stream, sequence, kind, event_type, event_version, event_id, slice, recorded_at,
                      digest, metadata, payload, request)
            WHERE NOT r.request = ANY (requests);

            IF p_work IS NOT NULL THEN
                PERFORM work_of_append(p_work, requests);
            END IF;
            EXIT;
        EXCEPTION WHEN unique_violation THEN
            -- What the judgement does not explain is an error.
            IF attempt = 2 THEN
                RAISE;
            END IF;
            SELECT array_agg(DISTINCT r) INTO judged FROM unnest(p_request) AS r;
        END;
    END LOOP;

    request := NULL;
    outcome := 'head';
    first_position := head;
    RETURN NEXT;
    IF requests = '{}' THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT j.request, j.outcome, min(e.position), max(e.position)
    FROM unnest(requests, outcomes) AS j (request, outcome)
    LEFT JOIN unnest(p_request, p_owner, p_owner_seq) AS r (request, owner, owner_seq)
        ON r.request = j.request AND j.outcome = 'already'
    LEFT JOIN events e ON e.owner = r.owner AND e.owner_seq = r.owner_seq
    GROUP BY j.request, j.outcome;
END $$;

-- Judges requests: `good`, or one of append()'s outcomes. Each look is by a whole key.
CREATE FUNCTION judge(
    judged int[], p_request int[], p_owner uuid[], p_owner_seq bigint[], p_stream uuid[], p_sequence bigint[],
    p_event_id uuid[], p_system boolean[], p_work jsonb
) RETURNS TABLE (request int, outcome text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    -- The lease that must have lapsed must not be renewed between the check and the commit.
    PERFORM FROM jsonb_to_recordset(p_work) AS w (t text, kind text, id text)
        JOIN leases l ON l.kind = w.kind AND l.id = w.id
        WHERE w.t = 'only_if_lapsed' FOR UPDATE OF l;

    RETURN QUERY
    WITH rows AS MATERIALIZED (
        SELECT * FROM unnest(p_request, p_owner, p_owner_seq, p_stream, p_sequence, p_event_id, p_system)
            AS r (request, owner, owner_seq, stream, sequence, event_id, system)
        WHERE r.request = ANY (judged)
    ), owners AS MATERIALIZED (
        SELECT request, owner, min(owner_seq) AS first_seq, bool_or(system) AS system FROM rows GROUP BY request, owner
    ), work AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(p_work)
            AS w (r int, t text, epoch bigint, user_id text, seq bigint, key_hash text, kind text, id text, holder text,
                  now bigint)
        WHERE w.r = ANY (judged)
    )
    SELECT q.request, CASE
        WHEN EXISTS (
            SELECT FROM rows r
            WHERE r.request = q.request AND r.event_id = (
                SELECT e.event_id FROM events e WHERE e.owner = r.owner AND e.owner_seq = r.owner_seq)
        ) THEN 'already'
        WHEN EXISTS (
            SELECT FROM work w
            WHERE w.r = q.request AND w.t = 'only_in_epoch'
              AND NOT EXISTS (SELECT FROM elections e WHERE e.name = 'genie' AND e.epoch = w.epoch)
        ) THEN 'deposed'
        WHEN EXISTS (
            SELECT FROM owners o
            WHERE o.request = q.request AND NOT o.system
              AND (SELECT k.state FROM user_keys k WHERE k.user_id = o.owner::text) IS DISTINCT FROM 'live'
              AND NOT EXISTS (
                  SELECT FROM work w
                  WHERE w.r = q.request AND w.t = 'new_key' AND w.user_id = o.owner::text)
        ) THEN 'key_not_live'
        WHEN EXISTS (
            SELECT FROM owners o
            WHERE o.request = q.request AND o.first_seq <> 1 + coalesce(
                (SELECT e.owner_seq FROM events e WHERE e.owner = o.owner ORDER BY e.owner_seq DESC LIMIT 1), 0)
        ) OR EXISTS (
            SELECT FROM work w
            WHERE w.r = q.request AND w.t = 'only_at' AND w.seq <> coalesce(
                (SELECT e.owner_seq FROM events e WHERE e.owner = w.user_id::uuid ORDER BY e.owner_seq DESC LIMIT 1), 0)
        ) THEN 'stale'
        WHEN EXISTS (
            SELECT FROM rows r
            WHERE r.request = q.request
              AND (SELECT true FROM events e WHERE e.stream = r.stream AND e.sequence = r.sequence)
        ) THEN 'taken'
        WHEN EXISTS (
            SELECT FROM work w
            WHERE w.r = q.request AND w.t = 'remember'
              AND (SELECT true FROM idempotency i WHERE i.key_hash = w.key_hash)
        ) THEN 'key_used'
        WHEN EXISTS (
            SELECT FROM work w
            WHERE w.r = q.request AND w.t = 'only_if_lapsed' AND NOT EXISTS (
                SELECT FROM leases l
                WHERE l.kind = w.kind AND l.id = w.id AND l.holder = w.holder AND l.expires_at <= w.now)
        ) THEN 'lease_held'
        ELSE 'good' END
    FROM (SELECT DISTINCT request FROM rows) q;
END $$;

-- Writes the working rows of the accepted requests, in the same transaction as their facts. A kind
-- that is not named here has a function of its own, work_<kind>(w), beside its table.
CREATE FUNCTION work_of_append(p_work jsonb, refused int[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    w jsonb;
BEGIN
    PERFORM unfinished_of_append(p_work, refused);
    FOR w IN SELECT value FROM jsonb_array_elements(p_work)
        WHERE NOT (value ->> 'r')::int = ANY (refused) AND value ->> 't' NOT LIKE '%\_unfinished'
    LOOP
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
                INSERT INTO leases (kind, id, user_id, stream_id, holder, expires_at)
                VALUES (w ->> 'kind', w ->> 'id', w ->> 'user_id', w ->> 'stream_id', w ->> 'holder', (w ->> 'expires_at')::bigint)
                ON CONFLICT (kind, id) DO UPDATE SET
                    holder = excluded.holder, expires_at = excluded.expires_at, cancelled = 0, progress = NULL;
            WHEN 'drop_lease' THEN
                DELETE FROM leases WHERE kind = w ->> 'kind' AND id = w ->> 'id';
            WHEN 'cancel_lease' THEN
                UPDATE leases SET cancelled = 1 WHERE kind = w ->> 'kind' AND id = w ->> 'id';
            WHEN 'remember' THEN
                INSERT INTO idempotency (key_hash, user_id, request_hash, fact_owner, fact_seq, sealed, kept_at)
                VALUES (w ->> 'key_hash', w ->> 'user_id', w ->> 'request_hash', w ->> 'fact_owner', (w ->> 'fact_seq')::bigint,
                        decode(w ->> 'sealed', 'base64'), (w ->> 'kept_at')::bigint);
            WHEN 'prune_journal' THEN
                DELETE FROM journal WHERE turn_id = w ->> 'turn_id';
            WHEN 'only_if_lapsed' THEN
                NULL;
            WHEN 'only_in_epoch' THEN
                NULL;
            WHEN 'only_at' THEN
                NULL;
            ELSE
                -- The writer chooses the kind, never a client.
                EXECUTE format('SELECT %I($1)', 'work_' || (w ->> 't')) USING w;
        END CASE;
    END LOOP;
END $$;
