//! Cuts rows into pieces of few sizes, for statements whose text depends on the number of their rows. So
//! a connection meets few texts, and keeps them prepared. On SQLite each statement also makes a trip to
//! its thread and back, which costs more than a row.

const SIZES: [usize; 15] = [256, 128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1];

/// The rows in order, the largest pieces first.
pub(crate) fn row_chunks<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = SIZES.into_iter().find(|size| *size <= rows.len())?;
        let (now, later) = rows.split_at(size);
        rows = later;
        Some(now)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_piece_in_order() {
        let rows: Vec<usize> = (0..607).collect();
        let pieces: Vec<&[usize]> = row_chunks(&rows).collect();
        assert_eq!(pieces.concat(), rows);
        let sizes: Vec<usize> = pieces.iter().map(|piece| piece.len()).collect();
        assert_eq!(sizes, [256, 256, 64, 24, 6, 1]);
        assert_eq!(row_chunks::<usize>(&[]).count(), 0);
    }
}
