-- Directus' answer to a refresh token, kept for the seconds in which other browser tabs may send
-- the same token. `sealed` needs a key that only a holder of the token can derive; it is NULL while
-- a node asks Directus.
CREATE TABLE refresh_grace (
    token_hash text   COLLATE "C" PRIMARY KEY,
    sealed     bytea,
    expires_at bigint NOT NULL
);

-- A registration with Directus begins with a reserved address. This index finds the registrations
-- that broke off.
CREATE INDEX events_email_reserved ON events (position) WHERE event_type = 'email.reserved';
