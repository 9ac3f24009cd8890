-- One row per login: a family of refresh tokens, of which one is good.
CREATE TABLE sessions (
    family       text  COLLATE "C" NOT NULL PRIMARY KEY,
    user_id      text  COLLATE "C" NOT NULL,
    -- SHA-256 of the refresh token that is good now.
    token_hash   text  COLLATE "C" NOT NULL,
    -- The tokens that it replaced within the grace, as JSON: [[hash, when], ...].
    rotated      text  COLLATE "C" NOT NULL DEFAULT '[]',
    -- The client's User-Agent.
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

-- The administrators who act for a user now. Each row is written and deleted with its fact.
CREATE TABLE impersonations (
    session    text COLLATE "C" NOT NULL PRIMARY KEY,
    user_id    text COLLATE "C" NOT NULL,
    by_admin   text COLLATE "C" NOT NULL,
    expires_at bigint NOT NULL
);
CREATE INDEX impersonations_of_user ON impersonations (user_id);

CREATE FUNCTION work_open_impersonation(w jsonb) RETURNS void LANGUAGE sql AS $$
    DELETE FROM impersonations WHERE expires_at <= (w ->> 'now')::bigint;
    INSERT INTO impersonations (session, user_id, by_admin, expires_at)
    VALUES (w ->> 'session', w ->> 'user_id', w ->> 'by_admin', (w ->> 'expires_at')::bigint);
$$;

CREATE FUNCTION work_end_impersonation(w jsonb) RETURNS void LANGUAGE sql AS $$
    DELETE FROM impersonations WHERE session = w ->> 'session';
$$;
