-- What Directus answered to a refresh token, for the seconds in which other tabs may come with the same one: `sealed` under a key
-- that only a holder of the token can make, NULL while a node is asking.
CREATE TABLE refresh_grace (
    token_hash text   COLLATE "C" PRIMARY KEY,
    sealed     bytea,
    expires_at bigint NOT NULL
);

-- Registrations with Directus begin by reserving an address: those that broke off are found by this.
CREATE INDEX events_email_reserved ON events (position) WHERE event_type = 'email.reserved';
