-- The log, and the working tables beside it.
-- Times are integer microseconds since 1970 UTC and ids are text in the "C" collation, so that both
-- stores hold the same values.

CREATE TABLE events (
    -- Dense and in commit order. append() gives it under a lock: a sequence leaves holes and does
    -- not follow the commits.
    position       bigint PRIMARY KEY,
    aggregate_type text   COLLATE "C" NOT NULL,
    aggregate_id   text   COLLATE "C" NOT NULL,
    sequence       bigint NOT NULL,
    event_type     text   COLLATE "C" NOT NULL,
    event_version  text   COLLATE "C" NOT NULL,
    -- `json`, not `jsonb`: the digest covers the bytes as written.
    payload        json   NOT NULL,
    metadata       json   NOT NULL,
    event_id       text   COLLATE "C" NOT NULL UNIQUE,
    user_id        text   COLLATE "C" NOT NULL,
    user_seq       bigint NOT NULL,
    slice          bigint NOT NULL,
    recorded_at    bigint NOT NULL,
    digest         bytea  NOT NULL,
    UNIQUE (aggregate_type, aggregate_id, sequence),
    UNIQUE (user_id, user_seq)
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events are facts: % is refused', TG_OP;
END $$;
CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- A data key for each user, and one for the system (the nil UUID), wrapped by a master key.
CREATE TABLE user_keys (
    user_id      text   COLLATE "C" PRIMARY KEY,
    key_id       text   COLLATE "C" NOT NULL,
    master_id    text   COLLATE "C" NOT NULL,
    wrapped      bytea,
    state        text   COLLATE "C" NOT NULL CHECK (state IN ('live', 'destroyed')),
    destroyed_at bigint
);

-- Secrets lie outside the log so that they can be deleted. Facts carry their version and hash.
CREATE TABLE secrets (
    secret_id text   COLLATE "C" NOT NULL,
    version   bigint NOT NULL,
    user_id   text   COLLATE "C" NOT NULL,
    sealed    bytea  NOT NULL,
    PRIMARY KEY (secret_id, version)
);
CREATE INDEX secrets_of_user ON secrets (user_id);

-- The running jobs, turns and captions, with their holder and the end of the lease.
CREATE TABLE leases (
    kind       text   COLLATE "C" NOT NULL CHECK (kind IN ('job', 'turn', 'caption')),
    id         text   COLLATE "C" NOT NULL,
    user_id    text   COLLATE "C" NOT NULL,
    stream_id  text   COLLATE "C" NOT NULL,
    -- The hash of a worker's lease, or the node that runs it; empty while nobody holds it.
    holder     text   COLLATE "C" NOT NULL,
    epoch      bigint NOT NULL,
    expires_at bigint NOT NULL,
    cancelled  bigint NOT NULL DEFAULT 0,
    progress   bigint,
    PRIMARY KEY (kind, id)
);
CREATE INDEX leases_by_expiry ON leases (kind, expires_at);

-- The text of running turns. A reader is shown only what is committed here.
CREATE TABLE journal (
    turn_id text   COLLATE "C" NOT NULL,
    upto    bigint NOT NULL,
    user_id text   COLLATE "C" NOT NULL,
    sealed  bytea  NOT NULL,
    PRIMARY KEY (turn_id, upto)
);

-- The outcome of each request that carried an Idempotency-Key, written with its facts. The leader
-- deletes old ones.
CREATE TABLE idempotency (
    key_hash     text   COLLATE "C" PRIMARY KEY,
    user_id      text   COLLATE "C" NOT NULL,
    request_hash text   COLLATE "C" NOT NULL,
    event_id     text   COLLATE "C" NOT NULL,
    sealed       bytea  NOT NULL,
    kept_at      bigint NOT NULL
);
CREATE INDEX idempotency_of_user ON idempotency (user_id);
CREATE INDEX idempotency_by_age ON idempotency (kept_at);

-- A snapshot of each user's state, so that loading a user reads few facts. Never the truth: a row
-- may be deleted at any time.
CREATE TABLE snapshots (
    user_id  text   COLLATE "C" PRIMARY KEY,
    version  bigint NOT NULL,
    user_seq bigint NOT NULL,
    position bigint NOT NULL,
    sealed   bytea  NOT NULL
);

-- The position of each follower.
CREATE TABLE checkpoints (
    name     text   COLLATE "C" PRIMARY KEY,
    position bigint NOT NULL
);

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
-- Invariant: no two requests of a batch share an owner; the writer ensures it. p_work is NULL when
-- there are no working rows.
-- The session has enable_seqscan, enable_hashjoin and enable_mergejoin off: a plan made while the
-- tables were small is kept.
CREATE FUNCTION append(
    p_request int[], p_aggregate_type text[], p_aggregate_id text[], p_sequence bigint[],
    p_event_type text[], p_event_version text[], p_payload text[], p_metadata text[],
    p_event_id text[], p_user_id text[], p_user_seq bigint[], p_slice bigint[], p_recorded_at bigint[], p_digest bytea[],
    p_system boolean[], p_work jsonb
) RETURNS TABLE (request int, outcome text, first_position bigint, last_position bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    head     bigint;
    doubtful int[];
    requests int[] := '{}';
    outcomes text[] := '{}';
    refused  int[] := '{}';
BEGIN
    -- No epoch is raised while a request of the leader is written. This lock comes before the
    -- appenders' lock, so that whoever waits here holds up nobody else.
    IF p_work @> '[{"t": "only_in_epoch"}]' THEN
        PERFORM pg_advisory_xact_lock_shared(7340993);
    END IF;
    -- One appender at a time. Each statement of a volatile function sees a fresh snapshot, so the
    -- rest sees everything that earlier holders of the lock committed.
    PERFORM pg_advisory_xact_lock(7340991);
    SELECT coalesce(max(position), 0) INTO head FROM events;

    -- The doubtful requests. When an owner's last event is the one before the request, the log
    -- cannot hold its owner numbers yet, or its sequences in the owner's streams. Only a first
    -- event can meet another owner's stream.
    WITH new_keys AS MATERIALIZED (
        SELECT w.r, w.user_id FROM jsonb_to_recordset(p_work) AS w (r int, t text, user_id text) WHERE w.t = 'new_key'
    )
    SELECT coalesce(array_agg(DISTINCT d.request), '{}') INTO doubtful FROM (
        SELECT o.request
        FROM (
            SELECT r.request, r.user_id, min(r.user_seq) AS first_seq, bool_or(r.system) AS system
            FROM unnest(p_request, p_user_id, p_user_seq, p_system) AS r (request, user_id, user_seq, system)
            GROUP BY r.request, r.user_id
        ) o
        LEFT JOIN user_keys k ON k.user_id = o.user_id AND k.state = 'live'
        LEFT JOIN new_keys n ON n.r = o.request AND n.user_id = o.user_id
        -- Reads one row, the one before the request, when all is good.
        LEFT JOIN events e ON e.user_id = o.user_id AND e.user_seq >= o.first_seq - 1
        WHERE NOT (o.system OR k.user_id IS NOT NULL OR n.r IS NOT NULL)
           OR e.user_seq >= o.first_seq OR (e.user_seq IS NULL AND o.first_seq <> 1)
        UNION ALL
        SELECT r.request
        FROM unnest(p_request, p_aggregate_type, p_aggregate_id, p_sequence) AS r (request, aggregate_type, aggregate_id, sequence)
        WHERE r.sequence = 1 AND EXISTS (
            SELECT FROM events e
            WHERE e.aggregate_type = r.aggregate_type AND e.aggregate_id = r.aggregate_id AND e.sequence = 1)
        UNION ALL
        SELECT w.r FROM jsonb_to_recordset(p_work) AS w (r int, t text, key_hash text)
        WHERE w.t IN ('only_if_lapsed', 'only_in_epoch')
           OR (w.t = 'remember' AND EXISTS (SELECT FROM idempotency i WHERE i.key_hash = w.key_hash))
    ) d;
    IF doubtful <> '{}' THEN
        SELECT coalesce(array_agg(j.request), '{}'), coalesce(array_agg(j.outcome), '{}')
        INTO requests, outcomes
        FROM judge(doubtful, p_request, p_aggregate_type, p_aggregate_id, p_sequence, p_event_id, p_user_id, p_user_seq,
                   p_system, p_work) AS j
        WHERE j.outcome <> 'good';
        refused := requests;
    END IF;

    INSERT INTO events (position, aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                        event_id, user_id, user_seq, slice, recorded_at, digest)
    SELECT head + row_number() OVER (ORDER BY r.nth), r.aggregate_type, r.aggregate_id, r.sequence, r.event_type,
           r.event_version, r.payload::json, r.metadata::json, r.event_id, r.user_id, r.user_seq, r.slice, r.recorded_at, r.digest
    FROM unnest(p_request, p_aggregate_type, p_aggregate_id, p_sequence, p_event_type, p_event_version, p_payload, p_metadata,
                p_event_id, p_user_id, p_user_seq, p_slice, p_recorded_at, p_digest)
        WITH ORDINALITY AS r (request, aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                              event_id, user_id, user_seq, slice, recorded_at, digest, nth)
    WHERE NOT r.request = ANY (refused);

    IF p_work IS NOT NULL THEN
        PERFORM work_of_append(p_work, refused);
    END IF;

    request := NULL;
    outcome := 'head';
    first_position := head;
    RETURN NEXT;
    IF refused = '{}' THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT j.request, j.outcome, min(e.position), max(e.position)
    FROM unnest(requests, outcomes) AS j (request, outcome)
    LEFT JOIN unnest(p_request, p_event_id) AS r (request, event_id) ON r.request = j.request AND j.outcome = 'already'
    LEFT JOIN events e ON e.event_id = r.event_id
    GROUP BY j.request, j.outcome;
END $$;

-- Judges the doubtful requests: `good` after all, or one of append()'s outcomes.
CREATE FUNCTION judge(
    doubtful int[], p_request int[], p_aggregate_type text[], p_aggregate_id text[], p_sequence bigint[], p_event_id text[],
    p_user_id text[], p_user_seq bigint[], p_system boolean[], p_work jsonb
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
        SELECT * FROM unnest(p_request, p_aggregate_type, p_aggregate_id, p_sequence, p_event_id, p_user_id, p_user_seq, p_system)
            AS r (request, aggregate_type, aggregate_id, sequence, event_id, user_id, user_seq, system)
        WHERE r.request = ANY (doubtful)
    ), owners AS MATERIALIZED (
        SELECT request, user_id, min(user_seq) AS first_seq, bool_or(system) AS system FROM rows GROUP BY request, user_id
    ), work AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(p_work)
            AS w (r int, t text, epoch bigint, user_id text, key_hash text, kind text, id text, holder text, now bigint)
        WHERE w.r = ANY (doubtful)
    )
    SELECT q.request, CASE
        WHEN EXISTS (SELECT FROM rows r JOIN events e ON e.event_id = r.event_id WHERE r.request = q.request)
            THEN 'already'
        WHEN EXISTS (
            SELECT FROM work w
            WHERE w.r = q.request AND w.t = 'only_in_epoch'
              AND NOT EXISTS (SELECT FROM elections e WHERE e.name = 'genie' AND e.epoch = w.epoch)
        ) THEN 'deposed'
        WHEN EXISTS (
            SELECT FROM owners o
            WHERE o.request = q.request AND NOT o.system
              AND NOT EXISTS (SELECT FROM user_keys k WHERE k.user_id = o.user_id AND k.state = 'live')
              AND NOT EXISTS (
                  SELECT FROM work w
                  WHERE w.r = q.request AND w.t = 'new_key' AND w.user_id = o.user_id)
        ) THEN 'key_not_live'
        WHEN EXISTS (
            SELECT FROM owners o
            WHERE o.request = q.request
              AND o.first_seq <> 1 + coalesce((SELECT max(e.user_seq) FROM events e WHERE e.user_id = o.user_id), 0)
        ) THEN 'stale'
        WHEN EXISTS (
            SELECT FROM rows r JOIN events e
                ON e.aggregate_type = r.aggregate_type AND e.aggregate_id = r.aggregate_id AND e.sequence = r.sequence
            WHERE r.request = q.request
        ) THEN 'taken'
        WHEN EXISTS (
            SELECT FROM work w
            JOIN idempotency i ON i.key_hash = w.key_hash
            WHERE w.r = q.request AND w.t = 'remember'
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
-- that is not named here has a function of its own, work_<kind>(w): later migrations add such
-- functions.
CREATE FUNCTION work_of_append(p_work jsonb, refused int[]) RETURNS void
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
                INSERT INTO idempotency (key_hash, user_id, request_hash, event_id, sealed, kept_at)
                VALUES (w ->> 'key_hash', w ->> 'user_id', w ->> 'request_hash', w ->> 'event_id', decode(w ->> 'sealed', 'base64'),
                        (w ->> 'kept_at')::bigint);
            WHEN 'prune_journal' THEN
                DELETE FROM journal WHERE turn_id = w ->> 'turn_id';
            WHEN 'only_if_lapsed' THEN
                NULL;
            WHEN 'only_in_epoch' THEN
                NULL;
            ELSE
                -- The writer chooses the kind, never a client.
                EXECUTE format('SELECT %I($1)', 'work_' || (w ->> 't')) USING w;
        END CASE;
    END LOOP;
END $$;
