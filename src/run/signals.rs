//! Ctrl-C and SIGTERM: the first asks the run to end, the second ends the process.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::Failure;
use crate::execute::Signal;
use crate::ui::Ui;

pub(super) fn interrupted(signal: Signal) -> Failure {
    Failure {
        exit: signal.exit(),
        message: format!("prune: ended by {} - no changes made", signal.name()),
        hints: Vec::new(),
    }
}

pub(super) async fn first_signal(stop: &mut watch::Receiver<Option<Signal>>) -> Signal {
    let first = stop.wait_for(Option::is_some).await.ok().and_then(|signal| *signal);
    match first {
        Some(signal) => signal,
        // The listener is gone: no signal will come.
        None => std::future::pending().await,
    }
}

/// The first signal asks the run to end, the second one ends the process.
pub(super) fn listen_to_signals(ui: Arc<Ui>) -> watch::Receiver<Option<Signal>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let mut signals = Signals::new();
        let first = signals.next().await;
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
}

impl Signals {
    fn new() -> Self {
        Self {
            #[cfg(unix)]
            terminate: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).ok(),
        }
    }

    async fn next(&mut self) -> Signal {
        #[cfg(unix)]
        let terminate = async {
            match &mut self.terminate {
                Some(terminate) => terminate.recv().await,
                None => std::future::pending().await,
            }
        };
        #[cfg(not(unix))]
        let terminate = std::future::pending::<Option<()>>();
        tokio::select! {
            _ = tokio::signal::ctrl_c() => Signal::Interrupt,
            _ = terminate => Signal::Terminate,
        }
    }
}
