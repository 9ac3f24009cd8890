//! The survival matrix and the search for false marks, at full length.

use genie_marks::{
    MarkKey,
    testing::{attacks::Attack, matrix, pictures},
};

const PICTURES: usize = 80;
const CROPS: usize = 10_000;

fn key() -> MarkKey {
    MarkKey::new(&[7; 32])
}

/// The least share of generated pictures that keeps its number, in percent.
fn least(attack: Attack) -> f64 {
    match attack {
        Attack::Nothing | Attack::Jpeg(_) | Attack::Resize(_) => 95.0,
        Attack::Brightness(_) => 80.0,
        Attack::Crop(_) => 70.0,
        Attack::Screenshot => 85.0,
    }
}

#[test]
fn generated_pictures_keep_their_numbers() {
    let pictures: Vec<_> = (0..PICTURES).map(pictures::generated).collect();
    let rows = matrix::survival(&key(), &pictures, &Attack::ALL);
    for (row, attack) in rows.iter().zip(Attack::ALL) {
        println!("{:16} {:3} of {}", row.name, row.kept, row.of);
        assert!(row.percent() >= least(attack), "{row:?}");
    }
}

#[test]
fn crops_of_unmarked_pictures_give_no_number() {
    assert_eq!(matrix::false_marks(&key(), CROPS), 0);
}
