//! Ctrl-C, SIGTERM, and the SIGHUP of a terminal that goes away: the first asks the run to end, the second ends the process. `--timeout` asks as the first does.

use std::sync::Arc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use tokio::sync::watch;

use crate::error::{Exit, Failure};
use crate::execute::{Signal, Stop};
use crate::text::time_text;
use crate::ui::Ui;

pub(super) fn interrupted(signal: Signal) -> Failure {
    Failure {
        exit: signal.exit(),
        message: format!("prune: ended by {} - no changes made", signal.name()),
        hints: Vec::new(),
    }
}

/// Does what may be ended wherever it is, because it changes nothing or can be done again: a signal ends it, and `ended`
/// says how.
pub(super) fn unless_ended<'a, T: 'a>(
    ui: &'a Arc<Ui>,
    ended: impl FnOnce(Signal) -> Failure + 'a,
    work: impl Future<Output = Result<T, Failure>> + 'a,
) -> LocalBoxFuture<'a, Result<T, Failure>> {
    Box::pin(async move {
        let mut stop = listen_to_signals(ui.clone());
        tokio::select! {
            signal = first_signal(&mut stop) => Err(ended(signal)),
            done = work => done,
        }
    })
}

async fn first_signal(stop: &mut watch::Receiver<Option<Signal>>) -> Signal {
    let first = stop.wait_for(Option::is_some).await.ok().and_then(|signal| *signal);
    match first {
        Some(signal) => signal,
        // The listener is gone: no signal will come.
        None => std::future::pending().await,
    }
}

/// What ends a run that takes no longer than this: a signal, or its time.
pub(super) fn until(
    signals: watch::Receiver<Option<Signal>>,
    limit: Option<Duration>,
    ui: Arc<Ui>,
) -> watch::Receiver<Option<Stop>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let mut signals = signals;
        let over = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        let stop = tokio::select! {
            signal = first_signal(&mut signals) => Stop::Signal(signal),
            () = over => Stop::Timeout,
        };
        if stop == Stop::Timeout {
            ui.leave_prompt();
            ui.message("ending: the time is over; what was begun is being finished");
        }
        // Nobody waits for it any longer once the run is over.
        let _ = sender.send(Some(stop));
    });
    receiver
}

/// What ends a run, also that its lock is lost.
pub(super) fn or_lost(
    mut stop: watch::Receiver<Option<Stop>>,
    mut lost: watch::Receiver<Option<String>>,
    ui: Arc<Ui>,
) -> watch::Receiver<Option<Stop>> {
    let (sender, receiver) = watch::channel(*stop.borrow());
    tokio::spawn(async move {
        let lost = async {
            let why = lost.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
            match why {
                Some(why) => why,
                // Nobody renews a lock: it cannot be lost.
                None => std::future::pending().await,
            }
        };
        let stop = tokio::select! {
            stop = stopped(&mut stop) => stop,
            why = lost => {
                ui.message(&format!("ending: the lock is lost: {why}; what was begun is being finished"));
                Stop::LostLock
            }
        };
        // Nobody waits for it any longer once the run is over.
        let _ = sender.send(Some(stop));
    });
    receiver
}

/// Waits until the run is to end.
pub(super) async fn stopped(stop: &mut watch::Receiver<Option<Stop>>) -> Stop {
    match stop.wait_for(Option::is_some).await.ok().and_then(|stop| *stop) {
        Some(stop) => stop,
        // Whoever watches is gone: nothing will come.
        None => std::future::pending().await,
    }
}

/// How a run ends that was stopped before its first change. `limit` is `--timeout`.
pub(super) fn nothing_done(stop: Stop, limit: Option<Duration>) -> Failure {
    match stop {
        Stop::Signal(signal) => interrupted(signal),
        Stop::LostLock => Failure::nothing_changed("prune: the lock was lost - no changes made"),
        Stop::Timeout => Failure {
            exit: Exit::Timeout,
            message: format!("prune: ended by {} - no changes made", timeout_flag(limit)),
            hints: vec!["give it more time, or leave --timeout out".to_owned()],
        },
    }
}

/// `--timeout=10m`.
pub(super) fn timeout_flag(limit: Option<Duration>) -> String {
    limit.map_or_else(|| "--timeout".to_owned(), |limit| format!("--timeout={}", time_text(limit)))
}

/// The first signal asks the run to end, the second one ends the process.
pub(super) fn listen_to_signals(ui: Arc<Ui>) -> watch::Receiver<Option<Signal>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let mut signals = Signals::new(&ui);
        let first = signals.next().await;
        signals.forgive_hang_ups();
        ui.leave_prompt();
        if sender.send(Some(first)).is_ok() {
            ui.message("ending: what was begun is being finished; a second signal aborts at once");
        }
        let second = signals.next().await;
        ui.abort();
        #[expect(clippy::exit, reason = "the user asked twice: nothing is waited for any longer")]
        std::process::exit(interrupted(second).exit as i32);
    });
    receiver
}

struct Signals {
    #[cfg(unix)]
    terminate: Option<tokio::signal::unix::Signal>,
    #[cfg(unix)]
    hang_up: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    /// Of a terminal that goes away only those hear who sit at one: `nohup` wants the others to go on.
    fn new(ui: &Ui) -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        Self {
            terminate: signal(SignalKind::terminate()).ok(),
            hang_up: ui.can_ask().then(|| signal(SignalKind::hangup()).ok()).flatten(),
        }
    }

    /// A terminal that goes away tells of it more than once, and means it once.
    fn forgive_hang_ups(&mut self) {
        self.hang_up = None;
    }

    async fn next(&mut self) -> Signal {
        async fn heard(signal: &mut Option<tokio::signal::unix::Signal>) {
            match signal {
                Some(signal) => {
                    signal.recv().await;
                }
                None => std::future::pending().await,
            }
        }
        let Self { terminate, hang_up } = self;
        tokio::select! {
            _ = tokio::signal::ctrl_c() => Signal::Interrupt,
            () = heard(terminate) => Signal::Terminate,
            () = heard(hang_up) => Signal::HangUp,
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    fn new(_: &Ui) -> Self {
        Self {}
    }

    fn forgive_hang_ups(&mut self) {}

    async fn next(&mut self) -> Signal {
        // It fails only where there are no signals at all.
        let _ = tokio::signal::ctrl_c().await;
        Signal::Interrupt
    }
}
