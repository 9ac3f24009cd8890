//! The survival matrix: how many pictures keep their number through an attack.

use std::num::NonZero;

use super::{
    attacks::{Attack, crop},
    chance::Chance,
    pictures::{self, TestPicture},
};
use crate::{LEAST_PSNR, MarkKey, detect, embed};

/// Crops that are cut out of one picture to look for false marks.
const CROPS_OF_ONE: usize = 4;

/// A picture after its marking.
pub struct MarkedPicture {
    pub number: u32,
    pub psnr: f64,
    pub picture: TestPicture,
}

/// A row of the matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Survival {
    pub name: String,
    pub kept: usize,
    /// All pictures, also those that hold no mark.
    pub of: usize,
    /// The pictures that lost their number.
    pub lost: Vec<String>,
}

impl Survival {
    pub fn percent(&self) -> f64 {
        100.0 * self.kept as f64 / self.of as f64
    }
}

/// The number of a picture in the matrix.
pub fn number(index: usize) -> u32 {
    Chance::new(index as u64).draw() as u32
}

/// Marks a picture. None when it does not hold a mark.
///
/// # Panics
///
/// If the marked picture differs by more than is allowed.
pub fn marked(key: &MarkKey, picture: &TestPicture, number: u32) -> Option<MarkedPicture> {
    let mut picture = picture.clone();
    let embedded = embed(
        key,
        number,
        picture.width,
        picture.height,
        &mut picture.pixels,
    )
    .ok()?;
    assert!(
        embedded.psnr >= LEAST_PSNR,
        "{}: {embedded:?}",
        picture.name
    );
    Some(MarkedPicture {
        number,
        psnr: embedded.psnr,
        picture,
    })
}

/// True when a marked picture keeps its number.
///
/// # Panics
///
/// If it gives another number.
pub fn survives(key: &MarkKey, marked: &MarkedPicture, attack: Attack, seed: u64) -> bool {
    let attacked = attack.done_to(&marked.picture, &mut Chance::new(seed));
    let found = detect(key, attacked.width, attacked.height, &attacked.pixels);
    let is_other = found.is_some_and(|found| found.number != marked.number);
    assert!(
        !is_other,
        "{} after {attack:?}: {found:?}",
        marked.picture.name
    );
    found.is_some()
}

/// Marks all pictures and attacks them. The first rows are the marked pictures as they are.
pub fn survival(key: &MarkKey, pictures: &[TestPicture], attacks: &[Attack]) -> Vec<Survival> {
    let marked = shared_out(pictures.len(), &|index| {
        marked(key, &pictures[index], number(index))
    });
    let row = |attack: &Attack| {
        let kept = shared_out(pictures.len(), &|index| {
            let marked = marked[index].as_ref();
            marked.is_some_and(|marked| survives(key, marked, *attack, index as u64))
        });
        let lost = pictures.iter().zip(&kept).filter(|(_, kept)| !**kept);
        Survival {
            name: attack.name(),
            kept: kept.iter().filter(|kept| **kept).count(),
            of: pictures.len(),
            lost: lost.map(|(picture, _)| picture.name.clone()).collect(),
        }
    };
    attacks.iter().map(row).collect()
}

/// Counts the crops of generated, never marked pictures that give a number.
pub fn false_marks(key: &MarkKey, crops: usize) -> usize {
    let of_one = |index: usize| {
        let picture = pictures::generated_with(index, 400, 300);
        let mut chance = Chance::new(index as u64 ^ 0x00C0_FFEE);
        let count = CROPS_OF_ONE.min(crops - index * CROPS_OF_ONE);
        let gives_number = |_: &usize| {
            let percent = chance.below(30) as u32;
            let crop = crop(&picture, percent, &mut chance);
            detect(key, crop.width, crop.height, &crop.pixels).is_some()
        };
        (0..count).filter(gives_number).count()
    };
    shared_out(crops.div_ceil(CROPS_OF_ONE), &of_one)
        .into_iter()
        .sum()
}

/// Does the work of each index, on all cores.
pub fn shared_out<T: Send>(count: usize, work: &(impl Fn(usize) -> T + Sync)) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let part = |first: usize| {
        (first..count)
            .step_by(threads)
            .map(|index| (index, work(index)))
    };
    let mut results: Vec<(usize, T)> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|first| scope.spawn(move || part(first).collect::<Vec<_>>()))
            .collect();
        handles
            .into_iter()
            .flat_map(|handle| {
                handle
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}
