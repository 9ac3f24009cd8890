//! Marks in films: a residual for every n-th frame, held until the next one, and one number out of
//! many frames.

use std::{collections::BTreeMap, num::NonZero};

use crate::{
    bch,
    detect::{self, Detection},
    embed::{MarkError, Residual},
    grid::Viewport,
    key::MarkKey,
    payload,
};

/// Frames without a readable mark in which the picture is looked for.
const SEARCHED_FRAMES: usize = 6;

/// Marks the frames of a film one after the other.
///
/// The residual is made for every n-th frame and added to those after it, too. A residual that came
/// and went would flicker, and a codec would pay for it.
pub struct FilmMarker<'a> {
    key: &'a MarkKey,
    number: u32,
    width: usize,
    height: usize,
    every: NonZero<usize>,
    held: Option<Residual>,
    embedded: FilmEmbedded,
}

/// A marked film.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FilmEmbedded {
    pub frames: usize,
    /// Frames that a residual was made for.
    pub made_for: usize,
    /// How many of those give the number back. Frames without light or with harsh contrast may not.
    pub readable: usize,
    /// The least peak signal-to-noise ratio of a frame, in dB.
    pub psnr: f64,
}

impl<'a> FilmMarker<'a> {
    /// How often a residual is made, in frames.
    pub const EVERY: NonZero<usize> = NonZero::new(12).expect("it is not 0");

    pub fn new(
        key: &'a MarkKey,
        number: u32,
        width: usize,
        height: usize,
        every: NonZero<usize>,
    ) -> Self {
        Self {
            key,
            number,
            width,
            height,
            every,
            held: None,
            embedded: FilmEmbedded {
                frames: 0,
                made_for: 0,
                readable: 0,
                psnr: f64::INFINITY,
            },
        }
    }

    /// Marks the luminance of the next frame.
    pub fn mark(&mut self, pixels: &mut [u8]) -> Result<(), MarkError> {
        let (width, height) = (self.width, self.height);
        let is_new = self.embedded.frames % self.every == 0;
        let residual = match self
            .held
            .take()
            .filter(|_| !is_new && pixels.len() == width * height)
        {
            Some(held) => held,
            None => Residual::new(self.key, self.number, width, height, pixels)?,
        };
        let embedded = residual.add_within(width, height, pixels);
        self.held = Some(residual);
        self.embedded.psnr = self.embedded.psnr.min(embedded.psnr);
        self.embedded.frames += 1;
        if is_new {
            let found = detect::detect_whole(self.key, width, height, pixels);
            self.embedded.made_for += 1;
            self.embedded.readable +=
                usize::from(found.is_some_and(|found| found.number == self.number));
        }
        Ok(())
    }

    /// What was marked so far.
    pub fn embedded(&self) -> FilmEmbedded {
        self.embedded
    }
}

/// Reads the mark of a film from some of its frames. Any frames do: each n-th one, or one a second.
pub struct FilmReader<'a> {
    key: &'a MarkKey,
    frames: usize,
    searches: usize,
    /// The picture within the first frame that it was found in, and that frame's size. A film is cut
    /// and shown the same way in each frame.
    placement: Option<(Viewport, (usize, usize))>,
    votes: BTreeMap<u32, Vote>,
    /// The sums of soft bits of whole frames.
    sums: [f32; bch::LENGTH],
}

#[derive(Default)]
struct Vote {
    frames: usize,
    confidence: f32,
}

/// A mark that was read from a film.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FilmDetection {
    pub number: u32,
    /// The mean confidence of the frames that gave the number, 0 to 1.
    pub confidence: f32,
    /// Frames that gave the number. Zero when only all frames together gave it.
    pub frames: usize,
    /// Frames that were read.
    pub read: usize,
}

impl<'a> FilmReader<'a> {
    /// So many frames of a film are enough, spread over its length.
    pub const FRAMES: usize = 30;

    pub fn new(key: &'a MarkKey) -> Self {
        Self {
            key,
            frames: 0,
            searches: 0,
            placement: None,
            votes: BTreeMap::new(),
            sums: [0.0; bch::LENGTH],
        }
    }

    /// Reads the luminance of a frame.
    pub fn read(&mut self, width: usize, height: usize, pixels: &[u8]) {
        self.frames += 1;
        let whole = Viewport::whole(width, height);
        if let Some(soft) = detect::soft_bits_of(self.key, (width, height), pixels, whole) {
            for (sum, soft) in self.sums.iter_mut().zip(soft) {
                *sum += soft;
            }
        }
        if let Some(found) = self.found(width, height, pixels) {
            let vote = self.votes.entry(found.number).or_default();
            vote.frames += 1;
            vote.confidence += found.confidence;
        }
    }

    fn found(&mut self, width: usize, height: usize, pixels: &[u8]) -> Option<Detection> {
        let size = (width, height);
        let known = self.placement.filter(|(_, seen)| *seen == size);
        let view = known.map_or(Viewport::whole(width, height), |(view, _)| view);
        let found = detect::detect_at(self.key, size, pixels, view);
        if found.is_some() || known.is_some() || self.searches == SEARCHED_FRAMES {
            return found;
        }
        self.searches += 1;
        let found = detect::detect(self.key, width, height, pixels)?;
        self.placement = Some((found.placement, size));
        Some(found)
    }

    /// The number that more frames gave than any other. Without one, the number in the sum of all
    /// frames.
    pub fn majority(&self) -> Option<FilmDetection> {
        let most = self.votes.values().map(|vote| vote.frames).max();
        let Some(most) = most else {
            return payload::decode(&self.sums).map(|decoded| FilmDetection {
                number: decoded.number,
                confidence: decoded.correlation,
                frames: 0,
                read: self.frames,
            });
        };
        let mut leading = self.votes.iter().filter(|(_, vote)| vote.frames == most);
        let (number, vote) = leading.next()?;
        if leading.next().is_some() {
            return None;
        }
        Some(FilmDetection {
            number: *number,
            confidence: vote.confidence / vote.frames as f32,
            frames: vote.frames,
            read: self.frames,
        })
    }
}
