//! Doubly linked lists over the rows of a table: appending, removing from anywhere and finding the first take constant
//! time, and nothing is allocated. The links stand in the rows, so that whoever touches a row has them at hand.

const NONE: u32 = u32::MAX;

/// The neighbours of a row in the list that it is in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Links {
    previous: u32,
    next: u32,
}

impl Links {
    pub(super) const NONE: Self = Self { previous: NONE, next: NONE };
}

/// A table whose rows can be in lists.
pub(super) trait Table {
    fn links(&self, row: u32) -> Links;
    fn links_mut(&mut self, row: u32) -> &mut Links;
}

impl Table for Vec<Links> {
    fn links(&self, row: u32) -> Links {
        self[row as usize]
    }

    fn links_mut(&mut self, row: u32) -> &mut Links {
        &mut self[row as usize]
    }
}

/// Where a list begins and ends. Every call is to be given the same table, whose rows are each in at most one of the
/// lists over it.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    first: u32,
    last: u32,
    length: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self { first: NONE, last: NONE, length: 0 };

    pub(super) fn len(&self) -> u32 {
        self.length
    }

    pub(super) fn first(&self) -> Option<u32> {
        some(self.first)
    }

    pub(super) fn iter<T: Table>(&self, table: &T) -> impl Iterator<Item = u32> {
        std::iter::successors(self.first(), |&row| some(table.links(row).next))
    }

    /// The row must be in no list.
    pub(super) fn push_last(&mut self, table: &mut impl Table, row: u32) {
        let previous = std::mem::replace(&mut self.last, row);
        self.length += 1;
        match some(previous) {
            Some(previous) => table.links_mut(previous).next = row,
            None => self.first = row,
        }
        *table.links_mut(row) = Links { previous, next: NONE };
    }

    /// The row must be in this list.
    pub(super) fn remove(&mut self, table: &mut impl Table, row: u32) {
        let Links { previous, next } = table.links(row);
        self.length -= 1;
        match some(previous) {
            Some(previous) => table.links_mut(previous).next = next,
            None => self.first = next,
        }
        match some(next) {
            Some(next) => table.links_mut(next).previous = previous,
            None => self.last = previous,
        }
    }
}

fn some(row: u32) -> Option<u32> {
    (row != NONE).then_some(row)
}

/// Rows sorted by a small number, for whoever wants one that has the least or the most. One with 0 is left out.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    lists: Vec<List>,
    links: Vec<Links>,
    /// A bit for each list that is not empty.
    occupied: Vec<u64>,
}

impl Buckets {
    /// Makes sure that there are so many rows.
    pub(super) fn make_rows(&mut self, rows: usize) {
        self.links.resize(rows.max(self.links.len()), Links::NONE);
    }

    pub(super) fn insert(&mut self, value: u32, row: u32) {
        let (index, word) = (value as usize, value as usize / 64);
        if value == 0 {
            return;
        }
        if self.lists.len() <= index {
            self.lists.resize(index + 1, List::EMPTY);
            self.occupied.resize(word + 1, 0);
        }
        self.occupied[word] |= 1 << (index % 64);
        self.lists[index].push_last(&mut self.links, row);
    }

    /// The row must have been inserted with this value.
    pub(super) fn remove(&mut self, value: u32, row: u32) {
        let index = value as usize;
        if value == 0 {
            return;
        }
        self.lists[index].remove(&mut self.links, row);
        if self.lists[index].len() == 0 {
            self.occupied[index / 64] &= !(1 << (index % 64));
        }
    }

    /// A row with the least value above 0.
    pub(super) fn least(&self) -> Option<u32> {
        let (index, word) = self.occupied.iter().enumerate().find(|(_, word)| **word != 0)?;
        self.lists[index * 64 + word.trailing_zeros() as usize].first()
    }

    /// A row with the greatest value, if that is above 0.
    pub(super) fn greatest(&self) -> Option<u32> {
        let (index, word) = self.occupied.iter().enumerate().rev().find(|(_, word)| **word != 0)?;
        self.lists[index * 64 + word.ilog2() as usize].first()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_know_the_least_and_the_greatest() {
        let mut buckets = Buckets::default();
        buckets.make_rows(4);
        assert_eq!((buckets.least(), buckets.greatest()), (None, None));
        buckets.insert(0, 0);
        assert_eq!((buckets.least(), buckets.greatest()), (None, None));
        buckets.insert(3, 1);
        buckets.insert(200, 2);
        buckets.insert(64, 3);
        assert_eq!((buckets.least(), buckets.greatest()), (Some(1), Some(2)));
        buckets.remove(3, 1);
        buckets.remove(200, 2);
        assert_eq!((buckets.least(), buckets.greatest()), (Some(3), Some(3)));
    }

    proptest! {
        /// Each step moves a row to the end of a list, or out of its list.
        #[test]
        fn lists_are_queues(steps in prop::collection::vec((0_u32..8, prop::option::of(0_usize..3)), 0..100)) {
            let mut table = vec![Links::NONE; 8];
            let mut lists = [List::EMPTY; 3];
            let mut model = vec![VecDeque::new(); 3];
            for (row, to) in steps {
                if let Some(from) = model.iter().position(|list| list.contains(&row)) {
                    model[from].retain(|other| *other != row);
                    lists[from].remove(&mut table, row);
                }
                if let Some(to) = to {
                    model[to].push_back(row);
                    lists[to].push_last(&mut table, row);
                }
                for (list, expected) in lists.iter().zip(&model) {
                    prop_assert!(list.iter(&table).eq(expected.iter().copied()));
                    prop_assert_eq!(list.first(), expected.front().copied());
                    prop_assert_eq!(list.len() as usize, expected.len());
                }
            }
        }
    }
}
