//! What reads by lease depend on (thesis, 6.4.1), as long as clocks keep within the margin.

use super::{Checked, Invariants, broken};
use crate::types::Term;

impl Invariants {
    /// This node leads this term, and would serve a read without asking anybody.
    ///
    /// # Errors
    /// Somebody has won a later term: what that one commits is not in such a read.
    pub fn has_lease(&self, node: usize, term: Term) -> Checked {
        let Some((newest, (winner, _))) = self.winners.last_key_value().filter(|(newest, _)| **newest > term)
        else {
            return Ok(());
        };
        let what = format!(
            "n{} has a lease as leader of term {term}; n{} has won term {newest}",
            node + 1,
            winner + 1
        );
        broken("a lease ends before its leader's reign", what)
    }
}
