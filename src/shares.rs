//! Counts what is held at once, by holder and in all. No holder gets more than a share, and all
//! together get no more than there is.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;

pub struct Shares<K>(Arc<Counts<K>>);

struct Counts<K> {
    /// The most of one holder; `None` counts no holders.
    each: Option<usize>,
    in_all: usize,
    held: Mutex<Held<K>>,
}

struct Held<K> {
    in_all: usize,
    /// Bounded by what is held in all.
    by_holder: HashMap<K, usize>,
}

/// One of what is held. Dropping it gives it back.
pub struct Share<K: Hash + Eq> {
    counts: Arc<Counts<K>>,
    holder: Option<K>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoShare {
    /// The holder has its share.
    OfHolder,
    InAll,
}

impl<K> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Hash + Eq + Clone> Shares<K> {
    pub fn new(each: Option<usize>, in_all: usize) -> Self {
        let held = Held {
            in_all: 0,
            by_holder: HashMap::new(),
        };
        Self(Arc::new(Counts {
            each,
            in_all,
            held: Mutex::new(held),
        }))
    }

    /// Takes one. Without a holder it counts in all only.
    pub fn take(&self, holder: Option<K>) -> Result<Share<K>, NoShare> {
        let holder = holder.filter(|_| self.0.each.is_some());
        let mut held = self.0.held.lock();
        if held.in_all >= self.0.in_all {
            return Err(NoShare::InAll);
        }
        if let (Some(holder), Some(most)) = (&holder, self.0.each) {
            let of_holder = held.by_holder.entry(holder.clone()).or_default();
            if *of_holder >= most {
                return Err(NoShare::OfHolder);
            }
            *of_holder += 1;
        }
        held.in_all += 1;
        Ok(Share {
            counts: Arc::clone(&self.0),
            holder,
        })
    }
}

impl<K: Hash + Eq> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = self.counts.held.lock();
        held.in_all -= 1;
        let Some(holder) = &self.holder else { return };
        if let Some(of_holder) = held.by_holder.get_mut(holder) {
            *of_holder -= 1;
            if *of_holder == 0 {
                held.by_holder.remove(holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_has_its_share_and_all_together_no_more_than_there_is() {
        let shares = Shares::new(Some(2), 4);
        let first = shares.take(Some("ada")).ok().unwrap();
        let _second = shares.take(Some("ada")).ok().unwrap();
        assert_eq!(shares.take(Some("ada")).err(), Some(NoShare::OfHolder));
        let _nobodys = [(); 2].map(|()| shares.take(None).ok().unwrap());
        assert_eq!(shares.take(Some("bob")).err(), Some(NoShare::InAll));
        drop(first);
        assert!(shares.take(Some("ada")).is_ok());
    }

    #[test]
    fn nothing_is_kept_of_what_was_given_back() {
        let shares = Shares::new(Some(2), 4);
        drop(["ada", "bob"].map(|holder| shares.take(Some(holder)).ok().unwrap()));
        let held = shares.0.held.lock();
        assert!(held.by_holder.is_empty() && held.in_all == 0);
    }
}
