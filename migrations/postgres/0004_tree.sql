-- The Merkle tree over the digests (RFC 6962): each hash by its stored-hash index, and the signed heads (C2SP signed notes) by
-- how many facts they cover. How far the tree has come stands in `checkpoints` under `tree.v1`.
CREATE TABLE tree_hashes (
    hash_index bigint PRIMARY KEY,
    hash       bytea  NOT NULL CHECK (length(hash) = 32)
);

CREATE TABLE tree_heads (
    size      bigint PRIMARY KEY CHECK (size > 0),
    note      text   COLLATE "C" NOT NULL,
    signed_at bigint NOT NULL
);
