-- The log, and the function that appends to it. The working tables, which it writes beside the
-- facts, follow in files of their own, and the read tables last.
-- Times are integer microseconds since 1970 UTC. The ids of the log, of `unfinished`, `jobs` and `usage`
-- are UUIDs in binary form, because nearly every command pays for each byte of their keys. Elsewhere ids
-- are text in the "C" collation, so that both stores hold the same values.

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
-- The same for a query that shows one.
CREATE FUNCTION hex(id uuid) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN id::text;

-- The events in the shape that postgres-es and other tools for cqrs-es read.
CREATE VIEW stream_events AS
SELECT CASE kind
           WHEN 1 THEN 'account' WHEN 2 THEN 'usage' WHEN 3 THEN 'credential' WHEN 4 THEN 'job' WHEN 5 THEN 'chat'
           WHEN 6 THEN 'caption' WHEN 7 THEN 'email' WHEN 8 THEN 'invite' WHEN 9 THEN 'service_key' WHEN 10 THEN 'access'
           WHEN 11 THEN 'file'
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

-- An event as the writer sends it: a row of `events` without its position. One array of rows costs
-- a third of what an array for each column costs.
CREATE TYPE new_event AS (
    owner uuid, owner_seq bigint, stream uuid, sequence bigint, kind smallint, event_type text COLLATE "C",
    event_version smallint, event_id uuid, slice smallint, recorded_at bigint, digest bytea, metadata text COLLATE "C",
    payload bytea
);

-- A row of `unfinished`, which is put, changed or ended. A change has only the keys and what changes
-- (the priority is absent when it stays), an end only the keys.
CREATE TYPE unfinished_change AS (
    user_id uuid, job_id uuid, queue text COLLATE "C", operation text COLLATE "C", priority bigint,
    submitted bigint, sequence bigint, due bigint, running bigint
);

-- Takes the appenders' lock and answers the last position. p_known is the last position that the
-- writer's process has seen. A log that ends before it has lost facts, and what was decided on them
-- must not follow.
CREATE FUNCTION lock_log(p_known bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    head bigint;
BEGIN
    -- One appender at a time. Each statement of a volatile function sees a fresh snapshot, so the
    -- rest sees everything that earlier holders of the lock committed.
    PERFORM pg_advisory_xact_lock(7340991);
    -- The bound ends the look at the index: without it a whole page of keys is read.
    SELECT e.position INTO head FROM events e WHERE e.position >= p_known ORDER BY e.position DESC LIMIT 1;
    IF head IS NULL AND p_known > 0 THEN
        SELECT coalesce(max(e.position), 0) INTO head FROM events e;
        RAISE EXCEPTION 'the log ends at position %, and this server has seen position %: the store went back in time', head, p_known
            USING HINT = 'A fail-over lost commits, or a backup was put back under a running server. Stop every genie first.';
    END IF;
    RETURN coalesce(head, 0);
END $$;

-- Appends a batch of requests without a condition, and answers the last position before them. The
-- requests follow it in their order.
--
-- The unique keys are the fence, so a batch is inserted without a look at what there is. An owner's
-- count only grows: a stale writer meets its own number taken, and a forgotten user's number is taken
-- by the fact of the forgetting. When a key is met, nothing is written and the answer is NULL: then
-- append_judged() is asked.
--
-- Invariant: no two requests of a batch share an owner; the writer ensures it. Working rows are NULL
-- when there are none.
-- The session has enable_seqscan, enable_hashjoin and enable_mergejoin off: a plan made while the
-- tables were small is kept.
CREATE FUNCTION append(
    p_rows new_event[], p_put unfinished_change[], p_change unfinished_change[], p_end unfinished_change[], p_work jsonb,
    p_known bigint
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    head bigint := lock_log(p_known);
BEGIN
    INSERT INTO events (position, owner, owner_seq, stream, sequence, kind, event_type, event_version, event_id, slice,
                        recorded_at, digest, metadata, payload)
    SELECT head + r.n, r.owner, r.owner_seq, r.stream, r.sequence, r.kind, r.event_type, r.event_version, r.event_id,
           r.slice, r.recorded_at, r.digest, r.metadata, r.payload
    FROM unnest(p_rows) WITH ORDINALITY
        AS r (owner, owner_seq, stream, sequence, kind, event_type, event_version, event_id, slice, recorded_at, digest,
              metadata, payload, n);
    IF p_put IS NOT NULL OR p_change IS NOT NULL OR p_end IS NOT NULL THEN
        PERFORM unfinished_of_append(p_put, p_change, p_end, '{}');
    END IF;
    IF p_work IS NOT NULL THEN
        PERFORM work_of_append(p_work, '{}');
    END IF;
    RETURN head;
EXCEPTION WHEN unique_violation THEN
    RETURN NULL;
END $$;

-- Appends a batch of requests, each whole or not at all, and looks at each first. Answers a row
-- `head` with the last position before the batch, and one row for each request that was not
-- appended, with its outcome:
-- - `already`: its own events are in the log, at these positions;
-- - `deposed`: it was to be written in one epoch only, and that epoch is over;
-- - `key_not_live`: an owner has no live data key;
-- - `stale`: an owner has other events than the writer thought;
-- - `taken`: a stream belongs to another owner;
-- - `key_used`: another request had this idempotency key;
-- - `lease_held`: the request needs a lapsed lease, and the lease has not lapsed.
-- All other requests were appended after the head, in their order. A key that is met all the same is
-- an error.
-- p_request and p_system belong to p_rows: the number of the row's request, and whether the row's
-- owner is a stream of the system.
CREATE FUNCTION append_judged(
    p_rows new_event[], p_request int[], p_system boolean[], p_put unfinished_change[], p_change unfinished_change[],
    p_end unfinished_change[], p_work jsonb, p_known bigint
) RETURNS TABLE (request int, outcome text, first_position bigint, last_position bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    head     bigint;
    requests int[];
    outcomes text[];
BEGIN
    -- No epoch is raised while a request of the leader is written. This lock comes before the
    -- appenders' lock, so that whoever waits here holds up nobody else.
    IF p_work @> '[{"t": "only_in_epoch"}]' THEN
        PERFORM pg_advisory_xact_lock_shared(7340993);
    END IF;
    head := lock_log(p_known);
    SELECT coalesce(array_agg(j.request), '{}'), coalesce(array_agg(j.outcome), '{}') INTO requests, outcomes
    FROM judge(p_rows, p_request, p_system, p_work) AS j
    WHERE j.outcome <> 'good';

    INSERT INTO events (position, owner, owner_seq, stream, sequence, kind, event_type, event_version, event_id, slice,
                        recorded_at, digest, metadata, payload)
    SELECT head + row_number() OVER (), r.owner, r.owner_seq, r.stream, r.sequence, r.kind, r.event_type,
           r.event_version, r.event_id, r.slice, r.recorded_at, r.digest, r.metadata, r.payload
    FROM unnest(p_rows, p_request)
        AS r (owner, owner_seq, stream, sequence, kind, event_type, event_version, event_id, slice, recorded_at, digest,
              metadata, payload, request)
    WHERE NOT r.request = ANY (requests);
    -- No two requests share an owner, and a job's row has the owner of its fact.
    PERFORM unfinished_of_append(p_put, p_change, p_end, ARRAY(
        SELECT DISTINCT r.owner
        FROM unnest(p_rows, p_request)
            AS r (owner, owner_seq, stream, sequence, kind, event_type, event_version, event_id, slice, recorded_at,
                  digest, metadata, payload, request)
        WHERE r.request = ANY (requests)));
    PERFORM work_of_append(p_work, requests);

    request := NULL;
    outcome := 'head';
    first_position := head;
    RETURN NEXT;
    RETURN QUERY
    SELECT j.request, j.outcome, min(e.position), max(e.position)
    FROM unnest(requests, outcomes) AS j (request, outcome)
    LEFT JOIN unnest(p_rows, p_request)
        AS r (owner, owner_seq, stream, sequence, kind, event_type, event_version, event_id, slice, recorded_at, digest,
              metadata, payload, request)
        ON r.request = j.request AND j.outcome = 'already'
    LEFT JOIN events e ON e.owner = r.owner AND e.owner_seq = r.owner_seq
    GROUP BY j.request, j.outcome;
END $$;

-- Judges requests: `good`, or one of append_judged()'s outcomes. Each look is by a whole key.
CREATE FUNCTION judge(p_rows new_event[], p_request int[], p_system boolean[], p_work jsonb)
RETURNS TABLE (request int, outcome text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    -- The lease that must have lapsed must not be renewed between the check and the commit.
    PERFORM FROM jsonb_to_recordset(p_work) AS w (t text, kind text, id text)
        JOIN leases l ON l.kind = w.kind AND l.id = w.id
        WHERE w.t = 'only_if_lapsed' FOR UPDATE OF l;

    RETURN QUERY
    WITH rows AS MATERIALIZED (
        SELECT r.request, r.owner, r.owner_seq, r.stream, r.sequence, r.event_id, r.system
        FROM unnest(p_rows, p_request, p_system)
            AS r (owner, owner_seq, stream, sequence, kind, event_type, event_version, event_id, slice, recorded_at,
                  digest, metadata, payload, request, system)
    ), owners AS MATERIALIZED (
        SELECT request, owner, min(owner_seq) AS first_seq, bool_or(system) AS system FROM rows GROUP BY request, owner
    ), work AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(p_work)
            AS w (r int, t text, epoch bigint, user_id text, seq bigint, key_hash text, kind text, id text, holder text,
                  now bigint)
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
    FOR w IN SELECT value FROM jsonb_array_elements(p_work) WHERE NOT (value ->> 'r')::int = ANY (refused)
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
                    holder = excluded.holder, expires_at = excluded.expires_at, cancelled = 0, progress = NULL, message = NULL;
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
