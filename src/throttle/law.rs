//! How many requests a server is sent at once, from how it answers. Pure: the time is told.
//!
//! One more for every `WINDOW` answers, as long as they take about as long as they did when there were few; fewer when
//! they take much longer; half as many when the server says that there are too many, or does not answer. What was too
//! many is remembered for a while, so that a server with a fixed bound refuses few.

use std::time::Duration;

/// What a number that nobody gave begins with, and what slow answers alone never lower it below: the default of
/// `oc adm prune images`.
pub const START: usize = 5;

/// The most that a number that nobody gave rises to, for each server.
pub const MOST: usize = 64;

/// The least answers that are judged together: single ones tell little.
const WINDOW: usize = 16;

/// Up to so many times as long as with few requests: the number may rise.
const HOLDS: f64 = 1.5;

/// From so many times as long: it falls.
const SLOW: f64 = 2.0;

/// What is shorter is not told apart: it is this machine's doing as much as the server's.
const FINEST: f64 = 0.002;

/// How fast the time that answers take with few requests is believed to have grown: in so many seconds it becomes what
/// is measured.
const FORGETTING: f64 = 300.0;

/// How long a number that was too many is kept away from at first, and at most.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);
const LONGEST_PATIENCE: Duration = Duration::from_secs(160);

/// What is asked of a server. What takes longer by nature must not count as slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Reads an object.
    Read,
    /// Updates an object.
    Update,
    /// Deletes an object, or a blob.
    Delete,
    /// Deletes a manifest link.
    ManifestLink,
    /// Deletes a layer link.
    LayerLink,
}

/// The kinds of [`Work`].
const WORKS: usize = 5;

/// How many requests one server is sent at once.
#[derive(Debug, Clone)]
pub struct Law {
    limit: usize,
    most: usize,
    /// Whether slow answers count, too: the number is not the user's.
    adapts: bool,
    /// The answers since the last judgement, in seconds.
    window: Vec<(Work, f64)>,
    /// Whether all that was allowed was used since then.
    was_full: bool,
    judged: Duration,
    /// How long each kind of work takes with few requests, in seconds.
    least: [Option<f64>; WORKS],
    lowered: Option<Duration>,
    ceiling: Option<Ceiling>,
}

/// What was too many.
#[derive(Debug, Clone, Copy)]
struct Ceiling {
    limit: usize,
    until: Duration,
    patience: Duration,
}

impl Law {
    /// A number that follows the server, from [`START`] to `most`.
    #[must_use]
    pub fn adaptive(most: usize) -> Self {
        Self { adapts: true, ..Self::fixed(START.min(most)).up_to(most) }
    }

    /// The user's number; less only while the server refuses.
    #[must_use]
    pub fn fixed(number: usize) -> Self {
        let number = number.max(1);
        Self {
            limit: number,
            most: number,
            adapts: false,
            window: Vec::new(),
            was_full: false,
            judged: Duration::ZERO,
            least: [None; WORKS],
            lowered: None,
            ceiling: None,
        }
    }

    fn up_to(self, most: usize) -> Self {
        Self { most: most.max(1), ..self }
    }

    /// How many requests may be on their way now.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The server has done something: what, in what time, and when (since the beginning); `full` says whether as many
    /// requests were on their way as are allowed.
    pub fn answered(&mut self, work: Work, took: Duration, now: Duration, full: bool) {
        self.was_full |= full;
        self.window.push((work, took.as_secs_f64().max(FINEST)));
        if self.window.len() < WINDOW.max(self.limit) {
            return;
        }
        let slowness = self.slowness(now);
        let was_full = std::mem::take(&mut self.was_full);
        self.window.clear();
        self.judged = now;
        if self.adapts && slowness > SLOW {
            self.limit = self.limit.min(START).max(self.limit * 9 / 10);
        } else if was_full && (!self.adapts || slowness <= HOLDS) && self.may_rise(now) {
            self.limit += 1;
        }
    }

    /// The server said that there are too many requests, or did not answer one that was sent at `begun`. Requests that
    /// were on their way together count once.
    pub fn refused(&mut self, begun: Duration, now: Duration) {
        if self.lowered.is_some_and(|lowered| begun < lowered) {
            return;
        }
        let patience = match self.ceiling {
            Some(Ceiling { limit, patience, .. }) if self.limit >= limit => patience * 2,
            Some(Ceiling { patience, .. }) => patience,
            None => FIRST_PATIENCE,
        };
        let patience = patience.min(LONGEST_PATIENCE);
        self.ceiling = Some(Ceiling { limit: self.limit, until: now + patience, patience });
        self.limit = (self.limit / 2).max(1);
        self.lowered = Some(now);
        self.window.clear();
    }

    fn may_rise(&self, now: Duration) -> bool {
        let is_near = |ceiling: Ceiling| now < ceiling.until && self.limit + 1 >= ceiling.limit;
        self.limit < self.most && !self.ceiling.is_some_and(is_near)
    }

    /// How many times as long as with few requests the window's answers took: the median, which single answers do not
    /// move.
    fn slowness(&mut self, now: Duration) -> f64 {
        let since = now.saturating_sub(self.judged).as_secs_f64();
        for work in 0..WORKS {
            let of_work = self.window.iter().filter(|(done, _)| *done as usize == work);
            let Some(median) = median(of_work.map(|(_, took)| *took).collect()) else { continue };
            self.least[work] = Some(match self.least[work] {
                Some(least) if median > least => least + (median - least) * (since / FORGETTING).min(1.0),
                _ => median,
            });
        }
        let times = self.window.iter().filter_map(|(work, took)| Some(took / self.least[*work as usize]?));
        median(times.collect()).unwrap_or(1.0)
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers after a time that depends on how many requests are on their way, and refuses those above
    /// `bound`.
    struct Server {
        law: Law,
        now: Duration,
        refusals: usize,
    }

    impl Server {
        fn new(law: Law) -> Self {
            Self { law, now: Duration::ZERO, refusals: 0 }
        }

        /// So many rounds, in each of which as many requests are sent as are allowed.
        fn rounds(&mut self, rounds: usize, bound: usize, millis: impl Fn(usize) -> u64) -> usize {
            for _ in 0..rounds {
                let (sent, begun) = (self.law.limit(), self.now);
                let took = Duration::from_millis(millis(sent));
                self.now += took;
                for number in 0..sent {
                    if number < bound {
                        self.law.answered(Work::Delete, took, self.now, true);
                    } else {
                        self.refusals += 1;
                        self.law.refused(begun, self.now);
                    }
                }
            }
            self.law.limit()
        }
    }

    const ANY: usize = usize::MAX;

    #[test]
    fn rises_to_the_most_while_latency_holds_and_soon() {
        let mut server = Server::new(Law::adaptive(MOST));
        assert_eq!(server.law.limit(), START);
        assert_eq!(server.rounds(100, ANY, |_| 5), MOST);
        assert_eq!(server.rounds(1000, ANY, |_| 5), MOST);
    }

    #[test]
    fn stops_where_a_server_that_has_enough_to_do_gets_slower() {
        // Ten requests keep it busy; more of them wait for each other.
        let busy = |sent: usize| 20 * sent.max(10) as u64 / 10;
        let mut server = Server::new(Law::adaptive(MOST));
        let limit = server.rounds(500, ANY, busy);
        assert!((14..=20).contains(&limit), "{limit}");
    }

    #[test]
    fn falls_when_answers_take_much_longer_but_not_below_the_start() {
        let mut server = Server::new(Law::adaptive(MOST));
        server.rounds(200, ANY, |_| 5);
        assert_eq!(server.rounds(100, ANY, |_| 50), START);
        assert_eq!(server.rounds(200, ANY, |_| 5), MOST);
    }

    #[test]
    fn a_server_that_stays_slower_is_believed_in_the_end() {
        let mut server = Server::new(Law::adaptive(MOST));
        server.rounds(200, ANY, |_| 5);
        assert_eq!(server.rounds(50, ANY, |_| 100), START);
        assert_eq!(server.rounds(20_000, ANY, |_| 100), MOST);
    }

    #[test]
    fn a_server_that_refuses_above_a_bound_is_kept_just_below_it() {
        for bound in [1, 3, 12, 40] {
            let mut server = Server::new(Law::adaptive(MOST));
            server.rounds(500, bound, |_| 5);
            let (refusals, limit) = (server.refusals, server.law.limit());
            assert!(limit <= bound && limit + 1 >= bound, "{limit} of {bound}");
            // Three minutes: what was too many is tried again ever more seldom.
            server.rounds(36_000, bound, |_| 5);
            assert!(server.refusals - refusals < 12, "{bound}: {}", server.refusals - refusals);
            assert!(server.law.limit() <= bound);
        }
    }

    #[test]
    fn a_bound_that_is_lifted_is_noticed() {
        let mut server = Server::new(Law::adaptive(MOST));
        server.rounds(500, 8, |_| 5);
        assert_eq!(server.rounds(8000, ANY, |_| 5), MOST);
    }

    #[test]
    fn requests_that_are_refused_together_count_once() {
        let mut law = Law::fixed(40);
        for _ in 0..40 {
            law.refused(Duration::ZERO, Duration::from_millis(5));
        }
        assert_eq!(law.limit(), 20);
    }

    #[test]
    fn a_server_that_does_not_answer_gets_one_request_at_a_time() {
        let mut server = Server::new(Law::adaptive(MOST));
        server.rounds(200, ANY, |_| 5);
        assert_eq!(server.rounds(10, 0, |_| 60_000), 1);
    }

    #[test]
    fn a_number_of_the_user_s_is_used_at_once_and_falls_only_when_the_server_refuses() {
        let mut server = Server::new(Law::fixed(30));
        assert_eq!(server.rounds(1, ANY, |_| 5), 30);
        assert_eq!(server.rounds(100, ANY, |_| 500), 30);
        assert!(server.rounds(200, 10, |_| 5) <= 10);
        assert_eq!(server.rounds(50_000, ANY, |_| 5), 30);
    }

    #[test]
    fn what_is_not_used_does_not_rise() {
        let mut law = Law::adaptive(MOST);
        for millis in 0..1000 {
            law.answered(Work::Read, Duration::from_millis(5), Duration::from_millis(millis), false);
        }
        assert_eq!(law.limit(), START);
    }

    #[test]
    fn slower_work_is_not_slowness() {
        let mut law = Law::adaptive(MOST);
        let mut now = Duration::ZERO;
        for (work, millis) in [(Work::Read, 5), (Work::Update, 40), (Work::Delete, 90)] {
            for _ in 0..2000 {
                now += Duration::from_millis(1);
                law.answered(work, Duration::from_millis(millis), now, true);
            }
        }
        assert_eq!(law.limit(), MOST);
    }

    #[test]
    fn single_slow_answers_change_nothing() {
        let mut law = Law::adaptive(MOST);
        for number in 0..4000_u64 {
            let took = Duration::from_millis(if number % 5 == 0 { 900 } else { 6 + number % 3 });
            law.answered(Work::Delete, took, Duration::from_millis(number), true);
        }
        assert_eq!(law.limit(), MOST);
    }
}
