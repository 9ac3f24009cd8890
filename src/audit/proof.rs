//! `genie audit proof` and `GET /api/admin/audit/proof`: the proof that the log contains a fact
//! under a signed head.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use genie_log::{Log, merkle_proof::Proof, merkle_tree::Hash};
use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};
use uuid::Uuid;

use crate::cli::output::say;

/// Prints a proof as JSON.
pub async fn print(log: Log, position: u64, from: Option<u64>) -> Result<(), String> {
    let proof = log
        .proofs()
        .prove(position, from)
        .await
        .map_err(|error| error.to_string())?;
    let json = serde_json::to_string_pretty(&ProofAnswer::from(&proof))
        .expect("a struct with names for fields is JSON");
    say(&json);
    Ok(())
}

// Fields are sorted by name. Hashes are in base64, as in checkpoints.
#[derive(Serialize, ToSchema)]
#[schema(as = Proof)]
pub struct ProofAnswer {
    /// Present only with `from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    consistency: Option<Consistency>,
    /// SHA-256 of the fact's row, in hexadecimal.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    digest: String,
    event_id: Uuid,
    /// The signed head: a checkpoint (c2sp.org/tlog-checkpoint) in a signed note (c2sp.org/signed-note).
    head: String,
    leaf_hash: TreeHash,
    #[schema(minimum = 1)]
    position: u64,
    /// The audit path (RFC 6962, 2.1.1), from the leaf upwards.
    proof: Vec<TreeHash>,
    root: TreeHash,
    /// The number of facts that the head covers.
    #[schema(minimum = 1)]
    tree_size: u64,
}

#[derive(Serialize, ToSchema)]
struct Consistency {
    #[schema(minimum = 1)]
    from: u64,
    /// The consistency proof (RFC 6962, 2.1.2).
    proof: Vec<TreeHash>,
    root: TreeHash,
}

/// 32 bytes in base64.
#[derive(Serialize)]
#[serde(transparent)]
struct TreeHash(String);

impl PartialSchema for TreeHash {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("32 bytes in base64."))
            .min_length(Some(44))
            .max_length(Some(44))
            .into()
    }
}

impl ToSchema for TreeHash {}

impl From<&Hash> for TreeHash {
    fn from(hash: &Hash) -> Self {
        Self(BASE64.encode(hash.0))
    }
}

impl From<&Proof> for ProofAnswer {
    fn from(proof: &Proof) -> Self {
        let hashes = |hashes: &[Hash]| hashes.iter().map(TreeHash::from).collect();
        Self {
            consistency: proof.growth.as_ref().map(|growth| Consistency {
                from: growth.from,
                proof: hashes(&growth.proof),
                root: (&growth.root).into(),
            }),
            digest: hex::encode(&proof.digest),
            event_id: proof.event_id,
            head: proof.head.note.clone(),
            leaf_hash: (&proof.leaf).into(),
            position: proof.position,
            proof: hashes(&proof.path),
            root: (&proof.head.root).into(),
            tree_size: proof.head.size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_has_these_bytes() {
        let hash = || TreeHash("h".into());
        let proof = ProofAnswer {
            consistency: Some(Consistency {
                from: 1,
                proof: vec![hash()],
                root: hash(),
            }),
            digest: "d".into(),
            event_id: Uuid::nil(),
            head: "n".into(),
            leaf_hash: hash(),
            position: 2,
            proof: vec![],
            root: hash(),
            tree_size: 3,
        };
        assert_eq!(
            serde_json::to_string(&proof).unwrap(),
            concat!(
                r#"{"consistency":{"from":1,"proof":["h"],"root":"h"},"digest":"d","#,
                r#""event_id":"00000000-0000-0000-0000-000000000000","head":"n","leaf_hash":"h","position":2,"#,
                r#""proof":[],"root":"h","tree_size":3}"#
            )
        );
    }
}
