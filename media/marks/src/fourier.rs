//! The fast Fourier transform of Cooley and Tukey (1965), for lengths that are powers of two.

use std::{
    f64::consts::TAU,
    ops::{Add, AddAssign, Mul, Sub},
};

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Complex {
    pub re: f32,
    pub im: f32,
}

impl Complex {
    /// The number on the unit circle at an angle.
    pub fn turned(angle: f32) -> Self {
        Self {
            re: angle.cos(),
            im: angle.sin(),
        }
    }

    pub fn size(self) -> f32 {
        self.re.hypot(self.im)
    }

    pub fn scaled(self, factor: f32) -> Self {
        Self {
            re: self.re * factor,
            im: self.im * factor,
        }
    }
}

impl Add for Complex {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            re: self.re + other.re,
            im: self.im + other.im,
        }
    }
}

impl AddAssign for Complex {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Complex {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            re: self.re - other.re,
            im: self.im - other.im,
        }
    }
}

impl Mul for Complex {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        Self {
            re: self.re * other.re - self.im * other.im,
            im: self.re * other.im + self.im * other.re,
        }
    }
}

/// A transform of one length.
pub struct Fourier {
    turns: Vec<Complex>,
}

impl Fourier {
    pub fn new(length: usize) -> Self {
        debug_assert!(length.is_power_of_two());
        let turn = |index: usize| {
            let angle = -TAU * index as f64 / length as f64;
            Complex {
                re: angle.cos() as f32,
                im: angle.sin() as f32,
            }
        };
        Self {
            turns: (0..length / 2).map(turn).collect(),
        }
    }

    pub fn transform(&self, values: &mut [Complex]) {
        let length = values.len();
        debug_assert_eq!(length, 2 * self.turns.len());
        let unused = usize::BITS - length.trailing_zeros();
        for index in 0..length {
            let other = index.reverse_bits() >> unused;
            if index < other {
                values.swap(index, other);
            }
        }
        let mut half = 1;
        while half < length {
            let stride = length / (2 * half);
            for pair in values.chunks_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (index, (a, b)) in low.iter_mut().zip(high).enumerate() {
                    let turned = *b * self.turns[index * stride];
                    *b = *a - turned;
                    *a += turned;
                }
            }
            half *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_has_one_frequency() {
        let length = 64;
        let mut values: Vec<Complex> = (0..length)
            .map(|at| Complex::turned((TAU * 5.0 * at as f64 / length as f64) as f32))
            .collect();
        Fourier::new(length).transform(&mut values);
        for (frequency, value) in values.iter().enumerate() {
            let expected = if frequency == 5 { 64.0 } else { 0.0 };
            assert!(
                (value.re - expected).abs() < 1e-3 && value.im.abs() < 1e-3,
                "{frequency}"
            );
        }
    }
}
