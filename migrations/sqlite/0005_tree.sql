-- The Merkle tree over the digests (RFC 6962). Each hash has its stored-hash index, each signed
-- head (a C2SP signed note) the number of facts that it covers. The tree's position stands in
-- `checkpoints` under `tree.v1`.
CREATE TABLE tree_hashes (
    hash_index INTEGER PRIMARY KEY,
    hash       BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;

CREATE TABLE tree_heads (
    size      INTEGER PRIMARY KEY CHECK (size > 0),
    note      TEXT    NOT NULL,
    signed_at INTEGER NOT NULL
) STRICT;
