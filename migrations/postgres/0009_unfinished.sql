-- The jobs that have not ended, written with their facts. A job board starts from these rows alone.
CREATE TABLE unfinished (
    user_id   text   COLLATE "C" NOT NULL,
    job_id    text   COLLATE "C" NOT NULL,
    queue     text   COLLATE "C" NOT NULL,
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

-- The part of work_of_append() that writes these rows: one statement for all requests of a batch.
CREATE FUNCTION unfinished_of_append(p_work jsonb, refused int[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF p_work @> '[{"t": "put_unfinished"}]' THEN
        INSERT INTO unfinished AS u (user_id, job_id, queue, priority, submitted, sequence, due, running)
        SELECT w.user_id, w.job_id, w.queue, w.priority, w.submitted, w.sequence, w.due, w.running
        FROM jsonb_to_recordset(p_work) AS w (
            r int, t text, user_id text, job_id text, queue text, priority bigint, submitted bigint, sequence bigint,
            due bigint, running bigint)
        WHERE w.t = 'put_unfinished' AND NOT w.r = ANY (refused)
        ON CONFLICT (user_id, job_id) DO UPDATE SET
            priority = excluded.priority, submitted = excluded.submitted, sequence = excluded.sequence,
            due = excluded.due, running = excluded.running;
    END IF;
    IF p_work @> '[{"t": "change_unfinished"}]' THEN
        UPDATE unfinished u SET sequence = w.sequence, due = w.due, running = w.running
        FROM jsonb_to_recordset(p_work) AS w (
            r int, t text, user_id text, job_id text, sequence bigint, due bigint, running bigint)
        WHERE w.t = 'change_unfinished' AND NOT w.r = ANY (refused)
          AND u.user_id = w.user_id AND u.job_id = w.job_id;
    END IF;
    IF p_work @> '[{"t": "end_unfinished"}]' THEN
        DELETE FROM unfinished u
        USING jsonb_to_recordset(p_work) AS w (r int, t text, user_id text, job_id text)
        WHERE w.t = 'end_unfinished' AND NOT w.r = ANY (refused)
          AND u.user_id = w.user_id AND u.job_id = w.job_id;
    END IF;
END $$;
