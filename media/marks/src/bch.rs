//! A binary BCH code of length 127: 50 data bits, and any 13 wrong bits are corrected
//! (Bose and Ray-Chaudhuri, "On a class of error correcting binary group codes", 1960).

/// Bits of a code word.
pub const LENGTH: usize = 127;
/// Bits of data in a code word.
pub const DATA: usize = 50;
const CHECKS: usize = LENGTH - DATA;
/// The number of wrong bits that are always corrected.
pub const CORRECTED: usize = 13;
const SYNDROMES: usize = 2 * CORRECTED;

/// The field of 128 elements, made by x^7 + x^3 + 1.
const PRIMITIVE: u16 = 0x89;

/// Powers and logarithms of a primitive element.
struct Field {
    power: [u8; LENGTH],
    logarithm: [u8; LENGTH + 1],
}

const FIELD: Field = {
    let mut field = Field {
        power: [0; LENGTH],
        logarithm: [0; LENGTH + 1],
    };
    let mut value: u16 = 1;
    let mut exponent = 0;
    while exponent < LENGTH {
        field.power[exponent] = value as u8;
        field.logarithm[value as usize] = exponent as u8;
        value <<= 1;
        if value & 0x80 != 0 {
            value ^= PRIMITIVE;
        }
        exponent += 1;
    }
    field
};

const fn power(exponent: usize) -> u8 {
    FIELD.power[exponent % LENGTH]
}

const fn product(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    power(FIELD.logarithm[a as usize] as usize + FIELD.logarithm[b as usize] as usize)
}

/// The quotient by an element that is not zero.
const fn quotient(a: u8, b: u8) -> u8 {
    if a == 0 {
        return 0;
    }
    power(FIELD.logarithm[a as usize] as usize + LENGTH - FIELD.logarithm[b as usize] as usize)
}

/// The product of the minimal polynomials of the powers 1 to 26 of the primitive element.
const GENERATOR: u128 = {
    let mut is_root = [false; LENGTH];
    let mut exponent = 1;
    while exponent <= SYNDROMES {
        let mut conjugate = exponent;
        while !is_root[conjugate] {
            is_root[conjugate] = true;
            conjugate = conjugate * 2 % LENGTH;
        }
        exponent += 1;
    }
    let mut factors = [0_u8; CHECKS + 1];
    factors[0] = 1;
    let mut degree = 0;
    let mut root = 0;
    while root < LENGTH {
        if is_root[root] {
            // Times (x - root).
            let mut at = degree + 1;
            while at > 0 {
                factors[at] = factors[at - 1] ^ product(factors[at], power(root));
                at -= 1;
            }
            factors[0] = product(factors[0], power(root));
            degree += 1;
        }
        root += 1;
    }
    assert!(degree == CHECKS);
    let mut generator = 0;
    let mut at = 0;
    while at <= CHECKS {
        assert!(factors[at] <= 1);
        generator |= (factors[at] as u128) << at;
        at += 1;
    }
    generator
};

/// The code word of 50 bits of data. The data are its upper bits.
pub fn encode(data: u64) -> u128 {
    let shifted = u128::from(data & ((1 << DATA) - 1)) << CHECKS;
    let mut remainder = shifted;
    for bit in (CHECKS..LENGTH).rev() {
        if remainder >> bit & 1 == 1 {
            remainder ^= GENERATOR << (bit - CHECKS);
        }
    }
    shifted | remainder
}

/// The data of a code word.
pub fn data(word: u128) -> u64 {
    (word >> CHECKS) as u64
}

/// The code word that differs in at most 13 bits, if there is one.
pub fn decode(word: u128) -> Option<u128> {
    let syndromes = syndromes(word);
    if syndromes.iter().all(|syndrome| *syndrome == 0) {
        return Some(word);
    }
    let (locator, errors) = locator(&syndromes)?;
    let mut corrected = word;
    let mut found = 0;
    for position in 0..LENGTH {
        // A root is the inverse of the element of a wrong position.
        let value = locator[..=errors]
            .iter()
            .enumerate()
            .fold(0, |sum, (degree, factor)| {
                sum ^ product(*factor, power(degree * (LENGTH - position)))
            });
        if value == 0 {
            corrected ^= 1 << position;
            found += 1;
        }
    }
    (found == errors).then_some(corrected)
}

fn syndromes(word: u128) -> [u8; SYNDROMES] {
    let mut syndromes = [0; SYNDROMES];
    let mut left = word;
    while left != 0 {
        let position = left.trailing_zeros() as usize;
        left &= left - 1;
        for (index, syndrome) in syndromes.iter_mut().enumerate() {
            *syndrome ^= power(position * (index + 1));
        }
    }
    syndromes
}

/// The polynomial whose roots locate the errors, and its degree, by the algorithm of Berlekamp and
/// Massey (Massey, "Shift-register synthesis and BCH decoding", 1969).
fn locator(syndromes: &[u8; SYNDROMES]) -> Option<([u8; SYNDROMES + 1], usize)> {
    let mut current = [0; SYNDROMES + 1];
    current[0] = 1;
    let mut previous = current;
    let mut length = 0;
    let mut gap = 1;
    let mut scale = 1;
    for step in 0..SYNDROMES {
        let discrepancy = (1..=length).fold(syndromes[step], |sum, at| {
            sum ^ product(current[at], syndromes[step - at])
        });
        if discrepancy == 0 {
            gap += 1;
            continue;
        }
        let before = current;
        let factor = quotient(discrepancy, scale);
        for at in gap..=SYNDROMES {
            current[at] ^= product(factor, previous[at - gap]);
        }
        if 2 * length <= step {
            length = step + 1 - length;
            previous = before;
            scale = discrepancy;
            gap = 1;
        } else {
            gap += 1;
        }
    }
    (length <= CORRECTED).then_some((current, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers without an order, the same in each run.
    fn scattered(seed: u64) -> impl FnMut() -> u64 {
        let mut state = seed;
        move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        }
    }

    #[test]
    fn thirteen_wrong_bits_are_corrected() {
        let mut next = scattered(1);
        for _ in 0..200 {
            let word = encode(next() << 25 ^ next());
            let mut wrong = word;
            while (wrong ^ word).count_ones() < CORRECTED as u32 {
                wrong ^= 1 << (next() % LENGTH as u64);
            }
            assert_eq!(decode(wrong), Some(word));
        }
    }

    #[test]
    fn any_decoded_word_is_a_code_word() {
        let mut next = scattered(2);
        for _ in 0..20_000 {
            let word = (u128::from(next()) << 96)
                ^ (u128::from(next()) << 64)
                ^ (u128::from(next()) << 32)
                ^ u128::from(next());
            let word = word & ((1 << LENGTH) - 1);
            if let Some(decoded) = decode(word) {
                assert_eq!(encode(data(decoded)), decoded);
                assert!((decoded ^ word).count_ones() <= CORRECTED as u32);
            }
        }
    }

    #[test]
    fn code_words_differ_in_at_least_27_bits() {
        let mut next = scattered(3);
        let words: Vec<u128> = (0..300).map(|_| encode(next() << 25 ^ next())).collect();
        for (index, word) in words.iter().enumerate() {
            for other in &words[..index] {
                assert!((word ^ other).count_ones() as usize > 2 * CORRECTED);
            }
        }
    }
}
