-- The node that leads, and its term (the epoch).
--
-- Three things, each for one purpose:
-- - The epoch gives safety: each transaction of the leader checks it (in_office).
-- - Advisory lock 7340992 gives speed: the leader's own connection holds it, and it falls free when
--   that connection ends.
-- - renewed_at finds a holder whose connection lives on although the node does not run.
-- Transactions of the leader share advisory lock 7340993, so that no epoch is raised while one of
-- them is open.
CREATE TABLE elections (
    name       text   COLLATE "C" PRIMARY KEY,
    epoch      bigint NOT NULL,
    node       text   COLLATE "C" NOT NULL,
    elected_at bigint NOT NULL,
    -- The database process that holds the lock for the leader.
    backend    bigint NOT NULL DEFAULT 0,
    -- When the leader last renewed, by the database's clock, which all nodes share.
    renewed_at bigint NOT NULL DEFAULT 0
);
INSERT INTO elections (name, epoch, node, elected_at) VALUES ('genie', 0, '', 0);

CREATE FUNCTION micros_now() RETURNS bigint LANGUAGE sql VOLATILE AS
    $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint $$;

-- One try of a candidate. Answers whether it holds the lock now, and otherwise the process that
-- holds the lock although its node has not renewed for p_stale microseconds. A clock that jumps
-- makes a node look silent until its next heartbeat at most, and costs an election.
CREATE FUNCTION try_election(p_stale bigint) RETURNS TABLE (won boolean, silent bigint)
LANGUAGE plpgsql AS $$
BEGIN
    IF pg_try_advisory_lock(7340992) THEN
        -- At once, so that no candidate takes the new holder for the silent one while it waits for
        -- its epoch.
        UPDATE elections SET backend = pg_backend_pid(), renewed_at = micros_now() WHERE name = 'genie';
        RETURN QUERY SELECT true, NULL::bigint;
        RETURN;
    END IF;
    SELECT e.backend INTO silent FROM elections e WHERE e.name = 'genie' AND abs(micros_now() - e.renewed_at) > p_stale;
    -- Looked up late and for one process only: pg_locks is slow to read, and another node may have
    -- got the lock meanwhile.
    IF silent IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_locks l
        WHERE l.pid = silent AND l.locktype = 'advisory' AND l.granted AND l.classid = 0 AND l.objid = 7340992 AND l.objsubid = 1
          AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
    ) THEN
        silent := NULL;
    END IF;
    RETURN QUERY SELECT false, silent;
END $$;

-- Elects the holder of the lock. It waits for the open transactions of the leader before, at most
-- p_patience milliseconds.
CREATE FUNCTION raise_epoch(p_node text, p_patience int) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    raised bigint;
    at     bigint;
BEGIN
    PERFORM set_config('lock_timeout', p_patience::text, true), set_config('synchronous_commit', 'on', true);
    PERFORM pg_advisory_xact_lock(7340993);
    at := micros_now();
    UPDATE elections SET epoch = epoch + 1, node = p_node, elected_at = at, backend = pg_backend_pid(), renewed_at = at
    WHERE name = 'genie' RETURNING epoch INTO STRICT raised;
    RETURN raised;
END $$;

-- Ends the open transactions of a leader that was deposed, and answers their number.
CREATE FUNCTION end_office() RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT count(pg_terminate_backend(l.pid)) FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 0 AND l.objid = 7340993 AND l.objsubid = 1
      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
      AND l.pid <> pg_backend_pid()
$$;

-- Whether the epoch is the present one; it stays so until the transaction ends. An advisory lock,
-- not a row lock: it writes nothing, any number of transactions share it, and newcomers queue
-- behind a candidate that waits. After the lock the function sees a fresh snapshot, which a plain
-- statement would not.
CREATE FUNCTION in_office(p_epoch bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(7340993);
    RETURN EXISTS (SELECT FROM elections WHERE name = 'genie' AND epoch = p_epoch);
END $$;

-- How far each follower of the leader came.
CREATE TABLE checkpoints (
    name     text   COLLATE "C" PRIMARY KEY,
    position bigint NOT NULL,
    -- The epoch in which it was last moved.
    epoch    bigint NOT NULL DEFAULT 0
);
