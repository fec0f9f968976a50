//! How many requests are on their way to a server at once: each needs a turn. `law.rs` decides how many there are; here
//! they are handed out, and the answers timed.
//!
//! Work that has begun goes before work that has not, so that little is left half done when a run ends early. After a
//! `Retry-After` nobody gets a turn until that time is over.

pub mod law;

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

pub use law::Work;
use law::{Law, MOST};

/// The longest that a server is left alone because of its `Retry-After`: as long as retries wait for at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The turns of one server. Clones share them.
#[derive(Clone)]
pub struct Throttle {
    shared: Arc<Shared>,
    lane: usize,
}

/// What servers share: the user's limit is one for all of them.
struct Shared {
    begun: Instant,
    state: Mutex<State>,
}

struct State {
    lanes: Vec<Lane>,
    /// How many requests may be on their way to all servers together.
    most: usize,
    in_flight: usize,
    /// Counts who has asked for a turn.
    asked: u64,
}

/// One server.
struct Lane {
    law: Law,
    in_flight: usize,
    /// Nobody gets a turn before.
    closed_until: Option<Instant>,
    /// By [`Order`].
    waiting: [VecDeque<Asked>; 2],
}

/// Somebody who waits for a turn.
struct Asked {
    ticket: u64,
    grant: oneshot::Sender<Turn>,
}

/// Who goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// What continues something.
    Begun,
    /// What has not begun.
    New,
}

/// How a request ended, as far as its server's load is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The server did what it was asked for, or looked and found it done.
    Done,
    /// 429 or 503: too much is asked of it, and how long it wants to be left alone.
    Refused(Option<Duration>),
    /// No answer in time, or none at all; also a proxy's that got none.
    Unanswered,
    /// An answer that tells nothing: a refusal for another reason is quick.
    Other,
}

/// The right to have one request on its way. Goes back when it is dropped.
#[must_use]
pub struct Turn {
    throttle: Option<Throttle>,
    held: bool,
}

impl Throttle {
    /// The turns of `N` servers. With a number of the user's no more requests than that are on their way to all of them
    /// together; otherwise each server's number follows its answers, up to [`MOST`].
    #[must_use]
    pub fn of_servers<const N: usize>(number: Option<NonZeroUsize>) -> [Self; N] {
        let law = number.map_or_else(|| Law::adaptive(MOST), |number| Law::fixed(number.get()));
        let lanes = (0..N).map(|_| Lane {
            law: law.clone(),
            in_flight: 0,
            closed_until: None,
            waiting: Default::default(),
        });
        let most = number.map_or(usize::MAX, NonZeroUsize::get);
        let state = Mutex::new(State { lanes: lanes.collect(), most, in_flight: 0, asked: 0 });
        let shared = Arc::new(Shared { begun: Instant::now(), state });
        std::array::from_fn(|lane| Self { shared: Arc::clone(&shared), lane })
    }

    /// Waits for a turn.
    pub async fn turn(&self, order: Order) -> Turn {
        let granted = self.ask(order);
        self.shared.grant();
        // Whoever asked stays in the queue until it is served.
        granted.await.unwrap_or_else(|_| Turn::free())
    }

    /// Waits for a turn to go on with what had this one, which goes back: to nobody who has not begun.
    pub async fn turn_after(&self, before: Turn) -> Turn {
        let granted = self.ask(Order::Begun);
        drop(before);
        self.shared.grant();
        granted.await.unwrap_or_else(|_| Turn::free())
    }

    fn ask(&self, order: Order) -> oneshot::Receiver<Turn> {
        let (grant, granted) = oneshot::channel();
        let mut state = self.shared.state();
        state.asked += 1;
        let ticket = state.asked;
        state.lanes[self.lane].waiting[order as usize].push_back(Asked { ticket, grant });
        granted
    }

    /// How many requests may be on their way now.
    #[must_use]
    pub fn limit(&self) -> usize {
        let state = self.shared.state();
        state.lanes[self.lane].law.limit().min(state.most)
    }

    /// Notes how a request ended that was sent at `sent`.
    fn ended(&self, work: Work, sent: Instant, end: End) {
        let now = Instant::now();
        let since = |at: Instant| at.duration_since(self.shared.begun);
        let mut state = self.shared.state();
        let lane = &mut state.lanes[self.lane];
        let before = lane.law.limit();
        match end {
            End::Done => {
                let full = lane.in_flight >= before;
                lane.law.answered(work, now.duration_since(sent), since(now), full);
            }
            End::Refused(_) | End::Unanswered => lane.law.refused(since(sent), since(now)),
            End::Other => {}
        }
        let has_risen = lane.law.limit() > before;
        if lane.law.limit() != before {
            tracing::debug!(server = self.lane, before, now = lane.law.limit(), "requests at once");
        }
        let mut closed = None;
        if let End::Refused(Some(pause)) = end {
            let until = now + pause.min(LONGEST_PAUSE);
            if lane.closed_until.is_none_or(|known| known < until) {
                lane.closed_until = Some(until);
                closed = Some(until);
            }
        }
        drop(state);
        if let Some(until) = closed {
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move {
                sleep_until(until).await;
                shared.grant();
            });
        }
        if has_risen {
            self.shared.grant();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands out what turns there are.
    fn grant(self: &Arc<Self>) {
        let granted = {
            let mut state = self.state();
            let mut granted = Vec::new();
            while let Some((lane, asked)) = state.next() {
                state.in_flight += 1;
                state.lanes[lane].in_flight += 1;
                granted.push((lane, asked));
            }
            granted
        };
        for (lane, asked) in granted {
            let throttle = Throttle { shared: Arc::clone(self), lane };
            // The turn of somebody who waits no longer comes back, and goes to the next one.
            let _ = asked.grant.send(Turn { throttle: Some(throttle), held: true });
        }
    }
}

impl State {
    /// Who is next, if there is a turn: of all servers those first that continue something, and of those who waits longest.
    fn next(&mut self) -> Option<(usize, Asked)> {
        if self.in_flight >= self.most {
            return None;
        }
        let now = Instant::now();
        for order in [Order::Begun, Order::New] {
            let open = self.lanes.iter_mut().enumerate().filter(|(_, lane)| lane.has_room(now));
            let waiting = open.map(|(number, lane)| (number, &mut lane.waiting[order as usize]));
            let first = waiting
                .filter_map(|(number, queue)| Some((queue.front()?.ticket, number, queue)))
                .min_by_key(|(ticket, ..)| *ticket);
            if let Some((_, number, queue)) = first {
                return Some((number, queue.pop_front()?));
            }
        }
        None
    }
}

impl Lane {
    fn has_room(&self, now: Instant) -> bool {
        self.in_flight < self.law.limit() && !self.is_closed(now)
    }

    fn is_closed(&self, now: Instant) -> bool {
        self.closed_until.is_some_and(|until| now < until)
    }
}

impl Turn {
    /// A turn where nobody counts.
    pub fn free() -> Self {
        Self { throttle: None, held: false }
    }

    /// Notes how the request ended that was sent at `sent`, which this is the moment to say.
    pub fn ended(&self, work: Work, sent: Instant, end: End) {
        if let Some(throttle) = &self.throttle {
            throttle.ended(work, sent, end);
        }
    }

    /// Before the next request: makes room if there are more on their way than there may be by now.
    pub async fn again(&mut self) {
        let Some(throttle) = &self.throttle else { return };
        let gives_way = {
            let state = throttle.shared.state();
            let lane = &state.lanes[throttle.lane];
            !self.held || lane.in_flight > lane.law.limit() || lane.is_closed(Instant::now())
        };
        if gives_way {
            let throttle = throttle.clone();
            let before = std::mem::replace(self, Self::free());
            *self = throttle.turn_after(before).await;
        }
    }

    /// Waits before the next request, and lets others have the turn meanwhile.
    pub async fn wait(&mut self, pause: Duration) {
        self.release();
        sleep(pause).await;
        self.again().await;
    }

    fn release(&mut self) {
        let Some(throttle) = self.throttle.as_ref().filter(|_| self.held) else { return };
        self.held = false;
        {
            let mut state = throttle.shared.state();
            state.in_flight -= 1;
            state.lanes[throttle.lane].in_flight -= 1;
        }
        throttle.shared.grant();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use futures::{FutureExt as _, poll};

    use super::*;

    fn number(number: usize) -> Option<NonZeroUsize> {
        NonZeroUsize::new(number)
    }

    #[tokio::test]
    async fn no_more_turns_than_allowed_for_all_servers_together() {
        let [api, registry] = Throttle::of_servers(number(2));
        let first = api.turn(Order::New).await;
        let second = registry.turn(Order::New).await;
        let mut third = std::pin::pin!(api.turn(Order::New));
        assert!(poll!(&mut third).is_pending());
        drop(second);
        let third = third.await;
        drop((first, third));
        let (one, two) = (api.turn(Order::New).await, api.turn(Order::New).await);
        assert!(registry.turn(Order::New).now_or_never().is_none());
        drop((one, two));
    }

    #[tokio::test]
    async fn without_a_number_each_server_has_its_own() {
        let [api, registry] = Throttle::of_servers(None);
        let held = join_all((0..law::START).map(|_| api.turn(Order::New))).await;
        assert!(api.turn(Order::Begun).now_or_never().is_none());
        assert!(registry.turn(Order::New).now_or_never().is_some());
        drop(held);
    }

    #[tokio::test]
    async fn what_has_begun_goes_first_on_whichever_server() {
        let [api, registry] = Throttle::of_servers(number(1));
        let held = api.turn(Order::New).await;
        let mut new = std::pin::pin!(api.turn(Order::New));
        let mut begun = std::pin::pin!(registry.turn(Order::Begun));
        assert!(poll!(&mut new).is_pending() && poll!(&mut begun).is_pending());
        drop(held);
        assert!(poll!(&mut new).is_pending());
        let goes_on = begun.await;
        let mut elsewhere = std::pin::pin!(api.turn_after(goes_on));
        let goes_on = poll!(&mut elsewhere);
        assert!(goes_on.is_ready() && poll!(&mut new).is_pending());
        drop(goes_on);
        drop(new.await);
    }

    #[tokio::test]
    async fn the_turn_of_somebody_who_has_gone_away_is_not_lost() {
        let [api] = Throttle::of_servers(number(1));
        let held = api.turn(Order::New).await;
        assert!(api.turn(Order::Begun).now_or_never().is_none());
        let mut granted = Box::pin(api.turn(Order::Begun));
        assert!(poll!(&mut granted).is_pending());
        let mut last = std::pin::pin!(api.turn(Order::Begun));
        assert!(poll!(&mut last).is_pending());
        drop(held);
        // It has one by now, and never looked.
        drop(granted);
        drop(last.await);
    }

    const PAUSE: Duration = Duration::from_millis(30);

    #[tokio::test]
    async fn nobody_gets_a_turn_before_the_server_s_time_is_over() {
        let [api, registry] = Throttle::of_servers(number(8));
        let mut turn = api.turn(Order::New).await;
        let begun = Instant::now();
        turn.ended(Work::Delete, begun, End::Refused(Some(PAUSE)));
        assert_eq!(api.limit(), 4);
        assert!(registry.turn(Order::New).now_or_never().is_some(), "it said nothing");
        let new = async {
            let _turn = api.turn(Order::New).await;
            assert!(begun.elapsed() >= PAUSE);
        };
        let again = async {
            turn.again().await;
            assert!(begun.elapsed() >= PAUSE);
        };
        tokio::join!(new, again);
        assert!(api.turn(Order::New).now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_waits_lets_others_have_the_turn() {
        let [api] = Throttle::of_servers(number(1));
        let mut turn = api.turn(Order::New).await;
        let done = std::cell::Cell::new(false);
        let waits = async {
            turn.wait(PAUSE).await;
            assert!(turn.held && done.get());
        };
        let other = async {
            let _turn = api.turn(Order::New).await;
            sleep(PAUSE * 2).await;
            done.set(true);
        };
        tokio::join!(waits, other);
    }

    #[tokio::test]
    async fn answers_that_come_as_fast_as_before_give_more_turns() {
        let [api] = Throttle::of_servers(None);
        let worker = || async {
            while api.limit() < 20 {
                let turn = api.turn(Order::New).await;
                let sent = Instant::now();
                tokio::task::yield_now().await;
                turn.ended(Work::Delete, sent, End::Done);
            }
        };
        join_all((0..30).map(|_| worker())).await;
    }
}
