//! Large transactions are brought into the kernel while they are being rendered.
//!
//! The kernel needs longer for ten thousand rules than we for making them. So sets, and then
//! chains, that nothing leads to yet go to it in batches of their own, each of which it takes while
//! the next one is being made. Nothing of that meets a packet. What does (maps, chains with a hook)
//! changes with the last batch, as ever.

use calico_core::dataplane::{Transaction, Update};

use super::commit::next;
use super::linux::Inner;
use crate::nft::{Batch, Error};

/// From so many members of sets and rules on.
const MANY: usize = 2_000;
/// A batch has about so many members of sets, or chains of so many policies.
const MEMBERS: usize = 40_000;
const POLICIES: usize = 250;

/// What is on its way to the kernel.
#[derive(Default)]
struct Way {
    next: Option<Batch>,
    /// Whether the kernel has taken anything.
    begun: bool,
    /// What is believed of the kernel is wrong from here on.
    failed: Option<Error>,
}

impl Inner {
    /// Takes a transaction over; what can go ahead of its commit is in the kernel afterwards. True
    /// if the kernel is known to have had what was believed of it.
    ///
    /// # Errors
    /// When the kernel cannot be read, after it refused something. The refusal itself is no error:
    /// the commit will meet it again.
    pub(super) async fn take(&mut self, transaction: Transaction) -> Result<bool, Error> {
        if !(is_large(&transaction) && self.may_go_ahead(&transaction)) {
            self.state.apply(transaction);
            return Ok(false);
        }
        // The kernel would tell of every rule.
        let ear = self.ear.clone();
        let deaf = ear.as_ref().and_then(|ear| ear.close(usize::MAX));
        let Transaction { revision, updates } = transaction;
        let mut updates = updates.into_iter().peekable();
        let mut way = Way::default();
        while let Some(Update::Set { .. }) = updates.peek() {
            let (mut sets, mut members) = (Vec::new(), 0);
            while members < MEMBERS
                && let Some(set) = updates.next_if(|update| matches!(update, Update::Set { .. }))
            {
                members += weight(&set);
                sets.push(set);
            }
            self.step(&mut way, |inner| inner.apply(Transaction { revision, updates: sets })).await;
        }
        let rest = Transaction { revision, updates: updates.collect() };
        self.step(&mut way, |state| state.take(rest)).await;
        while self.step(&mut way, |state| state.render_some(POLICIES)).await {}
        self.step(&mut way, |_| {}).await;
        drop(deaf);
        if let Some(error) = way.failed {
            tracing::debug!(%error, "committing at once what could not be committed ahead");
            self.observe().await?;
        }
        Ok(way.begun)
    }

    /// Does a part of the work while the kernel takes what the part before it made.
    async fn step<T>(
        &mut self,
        way: &mut Way,
        work: impl FnOnce(&mut super::state::State) -> T,
    ) -> T {
        let Self { socket, state, generation, .. } = self;
        let done = match way.next.take() {
            Some(batch) => {
                let work = || work(state);
                let (committed, done) = socket.commit_while(&batch, Some(*generation), work).await;
                match committed {
                    Ok(()) => (*generation, way.begun) = (next(*generation), true),
                    Err(error) => way.failed = Some(error),
                }
                done
            }
            None => work(state),
        };
        if way.failed.is_none() {
            way.next = state.table().take_ahead();
        }
        done
    }

    /// Only on top of a table that is as it should be, and only what is wanted for sure.
    fn may_go_ahead(&mut self, transaction: &Transaction) -> bool {
        let ends = || transaction.updates.iter().any(|update| matches!(update, Update::InSync));
        !self.removed && self.state.table().is_settled() && (self.state.in_sync() || ends())
    }
}

fn is_large(transaction: &Transaction) -> bool {
    transaction.updates.iter().map(weight).sum::<usize>() >= MANY
}

fn weight(update: &Update) -> usize {
    match update {
        Update::Set { members, .. } => members.len(),
        Update::Rules { rules, .. } => rules.ingress.len() + rules.egress.len(),
        _ => 0,
    }
}
