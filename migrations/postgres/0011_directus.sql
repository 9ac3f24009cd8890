-- Directus' answer to a refresh token, kept for the seconds in which other browser tabs may send
-- the same token. `sealed` needs a key that only a holder of the token can derive; it is NULL while
-- a node asks Directus.
CREATE TABLE refresh_grace (
    token_hash text   COLLATE "C" PRIMARY KEY,
    sealed     bytea,
    expires_at bigint NOT NULL
);

-- The addresses that are reserved for registrations. A registration with Directus begins with a
-- reservation; a row that stays belongs to one that broke off.
CREATE TABLE reservations (
    email_id text COLLATE "C" PRIMARY KEY
);

CREATE FUNCTION work_put_reservation(w jsonb) RETURNS void LANGUAGE sql AS $$
    INSERT INTO reservations (email_id) VALUES (w ->> 'email_id');
$$;

CREATE FUNCTION work_drop_reservation(w jsonb) RETURNS void LANGUAGE sql AS $$
    DELETE FROM reservations WHERE email_id = w ->> 'email_id';
$$;
