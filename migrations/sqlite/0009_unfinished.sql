-- The jobs that have not ended, written with their facts. A job board starts from these rows alone.
CREATE TABLE unfinished (
    user_id   BLOB    NOT NULL,
    job_id    BLOB    NOT NULL,
    queue     TEXT    NOT NULL,
    operation TEXT    NOT NULL,
    priority  INTEGER NOT NULL,
    -- The number of the submission among its owner's events: the older job has the lower.
    submitted INTEGER NOT NULL,
    -- The number of the job's events.
    sequence  INTEGER NOT NULL,
    -- The job waits until then.
    due       INTEGER,
    -- 1 while a worker holds the job.
    running   INTEGER NOT NULL,
    PRIMARY KEY (user_id, job_id)
) STRICT, WITHOUT ROWID;
