-- The jobs that have not ended, written with their facts. A job board starts from these rows alone.
CREATE TABLE unfinished (
    user_id   uuid   NOT NULL,
    job_id    uuid   NOT NULL,
    queue     text   COLLATE "C" NOT NULL,
    operation text   COLLATE "C" NOT NULL,
    priority  bigint NOT NULL,
    -- The number of the submission among its owner's events: the older job has the lower.
    submitted bigint NOT NULL,
    -- The number of the job's events.
    sequence  bigint NOT NULL,
    -- The job waits until then.
    due       bigint,
    -- 1 while a worker holds the job.
    running   bigint NOT NULL,
    PRIMARY KEY (user_id, job_id)
);

-- Writes these rows in the append of their facts: one statement for all requests of a batch. The rows
-- of refused owners are left out.
CREATE FUNCTION unfinished_of_append(
    p_put unfinished_change[], p_change unfinished_change[], p_end unfinished_change[], refused uuid[]
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF p_put IS NOT NULL THEN
        INSERT INTO unfinished AS u
            (user_id, job_id, queue, operation, priority, submitted, sequence, due, running)
        SELECT w.user_id, w.job_id, w.queue, w.operation, w.priority, w.submitted, w.sequence, w.due, w.running
        FROM unnest(p_put) AS w
        WHERE NOT w.user_id = ANY (refused)
        ON CONFLICT (user_id, job_id) DO UPDATE SET
            priority = excluded.priority, submitted = excluded.submitted, sequence = excluded.sequence,
            due = excluded.due, running = excluded.running;
    END IF;
    IF p_change IS NOT NULL THEN
        UPDATE unfinished u SET sequence = w.sequence, due = w.due, running = w.running,
                                priority = coalesce(w.priority, u.priority)
        FROM unnest(p_change) AS w
        WHERE NOT w.user_id = ANY (refused) AND u.user_id = w.user_id AND u.job_id = w.job_id;
    END IF;
    IF p_end IS NOT NULL THEN
        DELETE FROM unfinished u
        USING unnest(p_end) AS w
        WHERE NOT w.user_id = ANY (refused) AND u.user_id = w.user_id AND u.job_id = w.job_id;
    END IF;
END $$;
