//! Grids of real numbers, and how a plane of luminance is brought to another size.

/// Numbers in rows.
#[derive(Debug, Clone)]
pub struct Grid {
    pub width: usize,
    pub height: usize,
    pub values: Vec<f32>,
}

impl Grid {
    pub fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            values: vec![0.0; width * height],
        }
    }

    pub fn row(&self, y: usize) -> &[f32] {
        &self.values[y * self.width..][..self.width]
    }

    pub fn row_mut(&mut self, y: usize) -> &mut [f32] {
        &mut self.values[y * self.width..][..self.width]
    }
}

/// The part of a plane that is looked at, in its pixels. It may reach outside.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Viewport {
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
}

impl Viewport {
    pub fn whole(width: usize, height: usize) -> Self {
        Self {
            left: 0.0,
            top: 0.0,
            width: width as f64,
            height: height as f64,
        }
    }
}

/// The source samples of one output sample.
struct Span {
    first: usize,
    weights: Vec<f32>,
    /// The share of the output sample that lies inside the source.
    inside: f32,
}

/// Area averages: each output sample is the mean of the source that it covers, at least one source
/// sample wide. Narrower samples are linear interpolation by that.
fn spans(start: f64, length: f64, count: usize, size: usize) -> Vec<Span> {
    let step = length / count as f64;
    let width = step.max(1.0);
    let span = |index: usize| {
        let centre = start + (index as f64 + 0.5) * step;
        let from = (centre - width / 2.0).clamp(0.0, size as f64);
        let to = (centre + width / 2.0).clamp(0.0, size as f64);
        let first = (from.floor() as usize).min(size - 1);
        let last = (to.ceil() as usize).clamp(first + 1, size);
        let overlap = |at: usize| (to.min(at as f64 + 1.0) - from.max(at as f64)).max(0.0) as f32;
        let mut weights: Vec<f32> = (first..last).map(overlap).collect();
        let total: f32 = weights.iter().sum();
        for weight in &mut weights {
            *weight = if total > 0.0 { *weight / total } else { 0.0 };
        }
        Span {
            first,
            weights,
            inside: ((to - from) / width) as f32,
        }
    };
    (0..count).map(span).collect()
}

/// A plane brought to another size, and how much of it was there.
pub struct Resampled {
    pub grid: Grid,
    /// For each column the share that lies inside the source.
    pub columns: Vec<f32>,
    pub rows: Vec<f32>,
}

/// Brings a part of a plane to another size by area averages. What lies outside is zero.
pub fn resample<T: Copy + Into<f32>>(
    pixels: &[T],
    (width, height): (usize, usize),
    view: Viewport,
    (out_width, out_height): (usize, usize),
) -> Resampled {
    let columns = spans(view.left, view.width, out_width, width);
    let rows = spans(view.top, view.height, out_height, height);
    let mut grid = Grid::new(out_width, out_height);
    let mut line = vec![0.0_f32; width];
    for (y, row) in rows.iter().enumerate() {
        line.fill(0.0);
        for (offset, weight) in row.weights.iter().enumerate() {
            let source = &pixels[(row.first + offset) * width..][..width];
            for (sum, value) in line.iter_mut().zip(source) {
                *sum += weight * (*value).into();
            }
        }
        for (out, column) in grid.row_mut(y).iter_mut().zip(&columns) {
            let source = &line[column.first..][..column.weights.len()];
            *out = source
                .iter()
                .zip(&column.weights)
                .map(|(value, weight)| value * weight)
                .sum();
        }
    }
    Resampled {
        grid,
        columns: columns.iter().map(|span| span.inside).collect(),
        rows: rows.iter().map(|span| span.inside).collect(),
    }
}

/// One output sample of cubic convolution: four source samples and their weights.
fn cubic(index: usize, count: usize, size: usize) -> ([usize; 4], [f32; 4]) {
    let at = (index as f64 + 0.5) * size as f64 / count as f64 - 0.5;
    let base = at.floor();
    let t = (at - base) as f32;
    let clamped = |offset: i64| (base as i64 + offset).clamp(0, size as i64 - 1) as usize;
    let weights = [
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    ];
    ([clamped(-1), clamped(0), clamped(1), clamped(2)], weights)
}

/// Enlarges a grid row by row, by cubic convolution (Keys, "Cubic convolution interpolation for
/// digital image processing", 1981), so that a residual has no visible blocks.
pub fn enlarge(grid: &Grid, width: usize, height: usize, mut row: impl FnMut(usize, &[f32])) {
    let columns: Vec<_> = (0..width).map(|x| cubic(x, width, grid.width)).collect();
    let mut wide = Grid::new(width, grid.height);
    for y in 0..grid.height {
        let source = grid.row(y);
        for (out, (at, weights)) in wide.row_mut(y).iter_mut().zip(&columns) {
            *out = (0..4).map(|tap| weights[tap] * source[at[tap]]).sum();
        }
    }
    let mut line = vec![0.0; width];
    for y in 0..height {
        let (at, weights) = cubic(y, height, grid.height);
        line.fill(0.0);
        for tap in 0..4 {
            for (sum, value) in line.iter_mut().zip(wide.row(at[tap])) {
                *sum += weights[tap] * value;
            }
        }
        row(y, &line);
    }
}
