//! The plugin's entry: parse, run, exit code.

use std::process::ExitCode;
use std::sync::Arc;

use oc_prune_images::{cli, run, ui::Ui};

fn main() -> ExitCode {
    let ui = Arc::new(Ui::default());
    let exit = cli::parse(std::env::args_os())
        .and_then(|invocation| run::run(invocation, &ui))
        .unwrap_or_else(|failure| {
            ui.failure(&failure);
            failure.exit
        });
    ExitCode::from(exit as u8)
}
