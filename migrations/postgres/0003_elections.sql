-- Who runs what only one node may run, and since which election.
--
-- Three things, each for one purpose:
--   the epoch                 gives safety: whatever is written in office checks it in its own transaction (in_office);
--   advisory lock 7340992     gives speed: held by the elected node's own connection, it falls free when that connection ends;
--   renewed_at                finds the holder whose connection has not ended, and that does not run either.
-- Advisory lock 7340993 is shared by the transactions in office, so that no epoch is raised while one of them is open.
CREATE TABLE elections (
    name       text   COLLATE "C" PRIMARY KEY,
    epoch      bigint NOT NULL,
    node       text   COLLATE "C" NOT NULL,
    elected_at bigint NOT NULL,
    -- The process of the database that holds the lock for the elected node, and when that node was last heard of: by the
    -- database's clock, which all nodes share.
    backend    bigint NOT NULL DEFAULT 0,
    renewed_at bigint NOT NULL DEFAULT 0
);
INSERT INTO elections (name, epoch, node, elected_at) VALUES ('genie', 0, '', 0);

CREATE FUNCTION micros_now() RETURNS bigint LANGUAGE sql VOLATILE AS
    $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint $$;

-- One try of a candidate: whether it holds the lock now, and which process holds it although its node was not heard of for
-- p_stale microseconds. A clock that jumped makes a node silent at most until its next heartbeat, and costs an election.
CREATE FUNCTION try_election(p_stale bigint) RETURNS TABLE (won boolean, silent bigint)
LANGUAGE plpgsql AS $$
BEGIN
    IF pg_try_advisory_lock(7340992) THEN
        -- At once, so that nobody takes the new holder for the silent one while it waits to be elected.
        UPDATE elections SET backend = pg_backend_pid(), renewed_at = micros_now() WHERE name = 'genie';
        RETURN QUERY SELECT true, NULL::bigint;
        RETURN;
    END IF;
    SELECT e.backend INTO silent FROM elections e WHERE e.name = 'genie' AND abs(micros_now() - e.renewed_at) > p_stale;
    -- Only now, and only that process: pg_locks is dear to look at, and another may have got the lock meanwhile.
    IF silent IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_locks l
        WHERE l.pid = silent AND l.locktype = 'advisory' AND l.granted AND l.classid = 0 AND l.objid = 7340992 AND l.objsubid = 1
          AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
    ) THEN
        silent := NULL;
    END IF;
    RETURN QUERY SELECT false, silent;
END $$;

-- The holder of the lock is elected: once no transaction in office is open, for which it waits p_patience milliseconds.
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

-- Ends the transactions in office that are open, whose node was deposed; answers how many they were.
CREATE FUNCTION end_office() RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT count(pg_terminate_backend(l.pid)) FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 0 AND l.objid = 7340993 AND l.objsubid = 1
      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
      AND l.pid <> pg_backend_pid()
$$;

-- Whether the epoch is the present one; it stays so until the transaction ends. An advisory lock and no row lock: it writes
-- nothing, any number share it, and newcomers line up behind a candidate that waits. After the lock the function sees a fresh
-- snapshot, which a plain statement would not.
CREATE FUNCTION in_office(p_epoch bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(7340993);
    RETURN EXISTS (SELECT FROM elections WHERE name = 'genie' AND epoch = p_epoch);
END $$;

-- In which epoch each projection was moved last, and why it stopped, if it did: for every node to show.
ALTER TABLE checkpoints ADD COLUMN epoch bigint NOT NULL DEFAULT 0;
ALTER TABLE checkpoints ADD COLUMN stopped text;
