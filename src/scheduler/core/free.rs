//! Which containers have free slots, by how many: finding the fullest or the emptiest costs the same with ten
//! containers and with ten thousand.

/// Containers by their number of free slots. Names them by index.
#[derive(Debug)]
pub(super) struct Free {
    /// `buckets[n]` has the containers with `n` free slots, n > 0.
    buckets: Vec<Vec<u32>>,
    /// Of each container, by index: its count and its place in the bucket.
    places: Vec<(u32, u32)>,
    /// One bit for each bucket that is not empty.
    occupied: Vec<u64>,
}

impl Free {
    pub(super) fn new(slots_per_container: u32) -> Self {
        let buckets = slots_per_container as usize + 1;
        Self { buckets: vec![Vec::new(); buckets], places: Vec::new(), occupied: vec![0; buckets.div_ceil(64)] }
    }

    /// The container now has so many free slots. 0: it has none, or must not be given any more.
    pub(super) fn set(&mut self, container: u32, free: u32) {
        let index = container as usize;
        if self.places.len() <= index {
            self.places.resize(index + 1, (0, 0));
        }
        let (old, place) = self.places[index];
        if old == free {
            return;
        }
        if old > 0 {
            let bucket = &mut self.buckets[old as usize];
            bucket.swap_remove(place as usize);
            if let Some(moved) = bucket.get(place as usize) {
                self.places[*moved as usize].1 = place;
            }
            if bucket.is_empty() {
                self.occupied[old as usize / 64] &= !(1 << (old % 64));
            }
        }
        let mut place = 0;
        if free > 0 {
            let bucket = &mut self.buckets[free as usize];
            place = bucket.len() as u32;
            bucket.push(container);
            self.occupied[free as usize / 64] |= 1 << (free % 64);
        }
        self.places[index] = (free, place);
    }

    /// One of the containers with the fewest free slots, but not none.
    pub(super) fn fullest(&self) -> Option<u32> {
        let word = self.occupied.iter().position(|word| *word != 0)?;
        let bucket = word * 64 + self.occupied[word].trailing_zeros() as usize;
        self.buckets[bucket].last().copied()
    }

    /// One of the containers with the most free slots.
    pub(super) fn emptiest(&self) -> Option<u32> {
        let word = self.occupied.iter().rposition(|word| *word != 0)?;
        let bucket = word * 64 + 63 - self.occupied[word].leading_zeros() as usize;
        self.buckets[bucket].last().copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_finds_what_a_search_would_find(changes in proptest::collection::vec((0..20_u32, 0..=70_u32), 0..200)) {
            let mut free = Free::new(70);
            let mut model = [0_u32; 20];
            for (container, count) in changes {
                free.set(container, count);
                model[container as usize] = count;
                let counts = || model.iter().copied().filter(|count| *count > 0);
                prop_assert_eq!(free.fullest().map(|found| model[found as usize]), counts().min());
                prop_assert_eq!(free.emptiest().map(|found| model[found as usize]), counts().max());
            }
        }
    }
}
