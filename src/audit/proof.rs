//! `genie audit proof` and `GET /api/admin/audit/proof`: the proof that the log contains a fact
//! under a signed head.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use genie_log::{Log, merkle_proof::Proof, merkle_tree::Hash};
use serde_json::{Value, json};

use crate::cli::output::say;

/// Prints a proof as JSON.
pub async fn print(log: Log, position: u64, from: Option<u64>) -> Result<(), String> {
    let proof = log
        .proofs()
        .prove(position, from)
        .await
        .map_err(|error| error.to_string())?;
    say(&format!("{:#}", json(&proof)));
    Ok(())
}

/// A proof as JSON. Hashes are in base64, as in checkpoints. The digest is in hexadecimal.
pub fn json(proof: &Proof) -> Value {
    let base64 = |hash: &Hash| BASE64.encode(hash.0);
    let mut json = json!({
        "position": proof.position,
        "event_id": proof.event_id,
        "digest": hex::encode(&proof.digest),
        "leaf_hash": base64(&proof.leaf),
        "tree_size": proof.head.size,
        "root": base64(&proof.head.root),
        "proof": proof.path.iter().map(base64).collect::<Vec<_>>(),
        "head": proof.head.note,
    });
    if let Some(growth) = &proof.growth {
        let hashes: Vec<_> = growth.proof.iter().map(base64).collect();
        json["consistency"] =
            json!({"from": growth.from, "root": base64(&growth.root), "proof": hashes});
    }
    json
}
