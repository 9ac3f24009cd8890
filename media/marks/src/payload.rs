//! The payload of a mark: a number of 32 bits with a CRC, as a word of the BCH code, and back from
//! soft bits.

use crate::bch;

/// Bits of the version of this layout, which is 0.
const VERSION_BITS: u32 = 2;
const CRC_BITS: u32 = 16;

/// Least reliable bits that are also tried the other way round.
const DOUBTED: usize = 6;

/// A number read from soft bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decoded {
    pub number: u32,
    /// The normalised correlation of the soft bits with the code word, 0 to 1.
    pub correlation: f32,
}

/// The code word of a number.
pub fn encode(number: u32) -> u128 {
    bch::encode(
        u64::from(number) << (CRC_BITS + VERSION_BITS) | u64::from(crc(number)) << VERSION_BITS,
    )
}

/// True when this bit of a code word is one.
pub fn bit(word: u128, index: usize) -> bool {
    word >> index & 1 == 1
}

/// Finds the number in soft bits, whose sign is the bit and whose size is its reliability. Tries the
/// least reliable bits both ways (Chase, "A class of algorithms for decoding block codes with
/// channel measurement information", 1972, algorithm 2). Of several numbers the best correlated wins.
pub fn decode(soft: &[f32; bch::LENGTH]) -> Option<Decoded> {
    let hard = (0..bch::LENGTH)
        .filter(|index| soft[*index] > 0.0)
        .fold(0_u128, |word, index| word | 1 << index);
    let mut order: Vec<usize> = (0..bch::LENGTH).collect();
    order.sort_by(|a, b| soft[*a].abs().total_cmp(&soft[*b].abs()));
    let tried = (0..1_u32 << DOUBTED).filter_map(|choice| {
        let flips = (0..DOUBTED)
            .filter(|index| choice >> index & 1 == 1)
            .fold(0_u128, |flips, index| flips | 1 << order[index]);
        let word = bch::decode(hard ^ flips)?;
        Some(Decoded {
            number: number(bch::data(word))?,
            correlation: correlation(soft, word),
        })
    });
    tried.max_by(|a, b| a.correlation.total_cmp(&b.correlation))
}

/// The number in a code word's data, if version and CRC are right.
fn number(data: u64) -> Option<u32> {
    let number = (data >> (CRC_BITS + VERSION_BITS)) as u32;
    let expected = u64::from(crc(number)) << VERSION_BITS;
    (data & ((1 << (CRC_BITS + VERSION_BITS)) - 1) == expected).then_some(number)
}

fn correlation(soft: &[f32; bch::LENGTH], word: u128) -> f32 {
    let sign = |index: usize| if bit(word, index) { 1.0 } else { -1.0 };
    let sum: f32 = soft
        .iter()
        .enumerate()
        .map(|(index, value)| value * sign(index))
        .sum();
    let energy: f32 = soft.iter().map(|value| value * value).sum();
    sum / (energy * bch::LENGTH as f32).sqrt().max(f32::MIN_POSITIVE)
}

/// CRC-16 with polynomial 0x1021 and initial value 0xFFFF ("CRC-16/IBM-3740").
fn crc(number: u32) -> u16 {
    number.to_be_bytes().iter().fold(0xFFFF, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            crc << 1 ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soft(word: u128) -> [f32; bch::LENGTH] {
        std::array::from_fn(|index| if bit(word, index) { 1.0 } else { -1.0 })
    }

    #[test]
    fn the_crc_is_the_standard_one() {
        // The catalogue's check value is of "123456789"; this one is of its first four digits.
        assert_eq!(crc(u32::from_be_bytes(*b"1234")), 0x5349);
    }

    #[test]
    fn a_number_comes_back() {
        for number in [0, 1, 0x1234_5678, u32::MAX] {
            let decoded = decode(&soft(encode(number))).unwrap();
            assert_eq!(decoded.number, number);
            assert!((decoded.correlation - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn unreliable_wrong_bits_are_corrected_beyond_the_code() {
        let mut bits = soft(encode(77));
        for index in 0..bch::CORRECTED + DOUBTED {
            bits[index * 6] *= -0.1;
        }
        assert_eq!(decode(&bits).map(|decoded| decoded.number), Some(77));
    }

    #[test]
    fn silence_is_no_number() {
        assert_eq!(decode(&[0.0; bch::LENGTH]), None);
    }
}
