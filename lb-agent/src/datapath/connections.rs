//! Connections by backend, counted while the records of their replies are swept.

use std::{cell::RefCell, collections::BTreeMap};

use lb_common::abi::{CLASS_CLOSING_BY_CLIENT, CLASS_DATAGRAM, CLASS_ESTABLISHED};

use super::record_table::Pass;

/// Connections by backend number, of one address family.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// Of the present pass.
    counting: RefCell<BTreeMap<u32, u64>>,
    /// Of the last whole one.
    counted: Option<BTreeMap<u32, u64>>,
}

impl Connections {
    /// A record of a living flow was seen.
    pub(super) fn note(&self, backend: u32, class: u32) {
        if matches!(class, CLASS_ESTABLISHED | CLASS_CLOSING_BY_CLIENT | CLASS_DATAGRAM) {
            *self.counting.borrow_mut().entry(backend).or_default() += 1;
        }
    }

    /// A call of the sweep is over, and with it perhaps the pass.
    pub(super) fn end_call(&mut self, pass: &Pass) {
        if pass.is_whole {
            self.counted = Some(self.counting.take());
        }
    }

    /// What the last whole pass found; `None`: there was none yet.
    pub(super) fn counted(&self) -> Option<&BTreeMap<u32, u64>> {
        self.counted.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{CLASS_CLOSED, CLASS_HALF_OPEN};

    use super::*;

    #[test]
    fn only_whole_passes_count() {
        let mut connections = Connections::default();
        let call = |connections: &mut Connections, classes: &[u32], is_whole| {
            for class in classes {
                connections.note(7, *class);
            }
            connections.end_call(&Pass { is_whole, ..Pass::default() });
            connections.counted().and_then(|counted| counted.get(&7).copied())
        };
        let live = [CLASS_ESTABLISHED, CLASS_CLOSING_BY_CLIENT, CLASS_DATAGRAM];
        assert_eq!(call(&mut connections, &live, false), None);
        assert_eq!(call(&mut connections, &[CLASS_HALF_OPEN, CLASS_CLOSED], true), Some(3));
        // The next pass has begun, and the last one still counts.
        assert_eq!(call(&mut connections, &live[..1], false), Some(3));
        assert_eq!(call(&mut connections, &[], true), Some(1));
        assert_eq!(call(&mut connections, &[], true), None);
    }
}
