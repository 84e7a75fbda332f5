//! A vector of fixed capacity, for what is needed before there is a heap.

/// Up to `N` values kept in place.
#[derive(Clone, Copy, Debug)]
pub struct Bounded<T, const N: usize> {
    items: [T; N],
    len: usize,
}

/// There was no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl<T: Copy + Default, const N: usize> Default for Bounded<T, N> {
    fn default() -> Self {
        Bounded { items: [T::default(); N], len: 0 }
    }
}

impl<T: Copy, const N: usize> Bounded<T, N> {
    /// An empty vector; `filler` stands in the unused places.
    pub const fn new(filler: T) -> Self {
        Bounded { items: [filler; N], len: 0 }
    }

    /// The values.
    pub fn as_slice(&self) -> &[T] {
        &self.items[..self.len]
    }

    /// The values, to change.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.items[..self.len]
    }

    /// Appends a value.
    pub fn push(&mut self, value: T) -> Result<(), Full> {
        *self.items.get_mut(self.len).ok_or(Full)? = value;
        self.len += 1;
        Ok(())
    }

    /// Puts a value before the one at `at`; `at` may be the length.
    pub fn insert(&mut self, at: usize, value: T) -> Result<(), Full> {
        if self.len == N || at > self.len {
            return Err(Full);
        }
        self.items.copy_within(at..self.len, at + 1);
        self.items[at] = value;
        self.len += 1;
        Ok(())
    }

    /// Takes a value out; nothing happens beyond the end.
    pub fn remove(&mut self, at: usize) {
        if at < self.len {
            self.items.copy_within(at + 1..self.len, at);
            self.len -= 1;
        }
    }
}
