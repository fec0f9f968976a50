//! The plugin's entry: parse, run, exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use oc_prune_images::{cli, run, ui::Ui};

fn main() -> ExitCode {
    let ui = Ui::of_process();
    let caller = std::env::var_os("KUBECTL_PATH").map(PathBuf::from);
    let exit = cli::parse_called_by(std::env::args_os(), caller.as_deref())
        .and_then(|invocation| run::run(invocation, &ui))
        .unwrap_or_else(|failure| {
            ui.restore();
            ui.failure(&failure);
            failure.exit
        });
    ui.restore();
    ExitCode::from(exit as u8)
}
