//! Label keys and values as numbers.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// A label key or value, or the name of a profile. Equal texts have equal symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Symbol(u32);

/// Maps keyed by [`Symbol`]s or other small numbers that we count up ourselves.
pub(crate) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Multiplies and rotates. Keys are numbers that this crate allots, so nobody outside can choose
/// them to collide; the standard hasher would cost more than the lookup itself.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(26) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Texts in use, each stored once and counted; a text that nobody uses any more is forgotten, so
/// that a cluster whose pods come and go for months does not fill the memory with their names.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    /// With hashbrown's own hasher, whose seed is another one in each process: a large cluster has
    /// millions of texts to be looked up at the start.
    symbols: hashbrown::HashMap<Arc<str>, Symbol>,
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    text: Arc<str>,
    uses: u32,
}

impl Interner {
    /// The symbol of `text`, with one more use. Give it back with [`release`](Self::release).
    pub(crate) fn acquire(&mut self, text: &str) -> Symbol {
        if let Some(&symbol) = self.symbols.get(text) {
            self.slots[symbol.0 as usize].uses += 1;
            return symbol;
        }
        let slot = Slot { text: text.into(), uses: 1 };
        let text = Arc::clone(&slot.text);
        let symbol = if let Some(index) = self.free.pop() {
            self.slots[index as usize] = slot;
            Symbol(index)
        } else {
            self.slots.push(slot);
            Symbol(u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 distinct labels"))
        };
        self.symbols.insert(text, symbol);
        symbol
    }

    /// One more use of a symbol that is in use.
    pub(crate) fn acquire_again(&mut self, symbol: Symbol) {
        self.slots[symbol.0 as usize].uses += 1;
    }

    /// One use less.
    pub(crate) fn release(&mut self, symbol: Symbol) {
        let slot = &mut self.slots[symbol.0 as usize];
        slot.uses -= 1;
        if slot.uses == 0 {
            let text = std::mem::replace(&mut slot.text, "".into());
            self.symbols.remove(&text);
            self.free.push(symbol.0);
        }
    }

    /// The symbol of a text in use; `None` if nobody uses it.
    pub(crate) fn get(&self, text: &str) -> Option<Symbol> {
        self.symbols.get(text).copied()
    }

    /// The text of a symbol that is in use.
    pub(crate) fn text(&self, symbol: Symbol) -> &Arc<str> {
        &self.slots[symbol.0 as usize].text
    }

    /// Number of distinct texts in use.
    pub(crate) fn len(&self) -> usize {
        self.symbols.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_stored_once_and_forgotten_after_its_last_use() {
        let mut names = Interner::default();
        let (a, b) = (names.acquire("app"), names.acquire("web"));
        assert_eq!(names.acquire("app"), a);
        assert_ne!(a, b);
        names.release(a);
        assert_eq!(&**names.text(a), "app");
        names.release(a);
        assert_eq!(names.len(), 1);
        assert_eq!(names.acquire("db"), a, "the number is used again");
        assert_eq!(&**names.text(a), "db");
    }
}
