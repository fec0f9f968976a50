//! The dialogue at the terminal, answered for real: what is asked, where each answer leads, and what is left behind.

#![cfg(unix)]
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests: whatever is wrong here fails the test"
)]

#[path = "../common/mod.rs"]
mod common;
mod terminal;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use common::objects::{KEEP_ONE, digest, shop};
use http::{Method, StatusCode};
use sandbox::api::restarter;
use sandbox::fault::{Action, Answer, Fault};
use sandbox::log::Server;
use sandbox::{Cluster, ClusterConfig, Pace};
use terminal::{CTRL_C, CTRL_D, DOWN, END, ENTER, ESC, Setup, Terminal};

/// The shop behind a registry with two replicas.
fn cluster() -> Cluster {
    filled(ClusterConfig { replicas: 2, ..ClusterConfig::default() })
}

fn filled(config: ClusterConfig) -> Cluster {
    let cluster = Cluster::start(config);
    cluster.sandbox().load_objects(shop().into());
    cluster.seed_registry();
    cluster
}

fn setup(cluster: &Cluster) -> Setup {
    let setup = Setup::new();
    let kubeconfig = cluster.kubeconfig(setup.home(), "pruner");
    std::fs::write(setup.home().join("ca.crt"), cluster.sandbox().ca_pem()).unwrap();
    let registry = format!("--registry-url={}", cluster.registry_url(0));
    let setup = setup.arg(format!("--kubeconfig={}", kubeconfig.display())).arg(registry);
    setup.arg("--certificate-authority=ca.crt")
}

fn images(cluster: &Cluster) -> BTreeSet<String> {
    cluster.sandbox().store().names("images").into_iter().collect()
}

fn digests(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| digest(name)).collect()
}

fn is_unchanged(cluster: &Cluster) {
    let changes = cluster.sandbox().request_log().mutations();
    assert!(changes.is_empty(), "{changes:#?}");
}

/// Where somebody may be asked.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Menu,
    Value,
    Step,
    Confirmation,
    Number,
}

const STAGES: [Stage; 5] = [Stage::Menu, Stage::Value, Stage::Step, Stage::Confirmation, Stage::Number];

/// A run that waits at this stage for an answer.
fn at(cluster: &Cluster, stage: Stage) -> Terminal {
    let setup = setup(cluster);
    let setup = if matches!(stage, Stage::Number) { setup.arg(KEEP_ONE) } else { setup };
    let mut terminal = setup.start();
    go_to(&mut terminal, stage);
    terminal
}

fn go_to(terminal: &mut Terminal, stage: Stage) {
    terminal.sees("What next").sees("Quit, change nothing");
    match stage {
        Stage::Menu => {}
        Stage::Value => {
            terminal.press(&[DOWN, DOWN, ENTER]).sees("--keep-tag-revisions (");
        }
        Stage::Step => {
            terminal.press(&[DOWN, ENTER]).sees("Which cache step").sees("none");
        }
        Stage::Confirmation => {
            go_on_to_the_end(terminal);
            terminal.sees("Delete it now?");
        }
        Stage::Number => {
            go_on_to_the_end(terminal);
            terminal.sees("Type the number of images that go");
        }
    }
}

fn go_on_to_the_end(terminal: &mut Terminal) {
    terminal.press(&[DOWN, ENTER]).sees("Which cache step").sees("none").press(&[ENTER]);
}

#[test]
fn what_is_agreed_to_is_done() {
    let cluster = cluster();
    let mut terminal = setup(&cluster).start();
    terminal.sees("images").sees("2         7").sees("shop/web").sees("WHAT STAYS, AND WHY");
    go_to(&mut terminal, Stage::Step);
    terminal.press(&[ENTER]);
    let [server, context] = [cluster.sandbox().api_url(), "(context sandbox)".into()];
    terminal.sees("2 image(s), 1 item(s) of 1 image stream(s)").sees(&server).sees(&context).sees("pruner");
    is_unchanged(&cluster);
    terminal.sees("Delete it now?").press(&["y"]);
    let ended =
        terminal.ends(0).saw("Summary: deleted 2 image object(s), deleted 1 image stream tag item(s)");
    ended
        .saw("Cache step: done (evict: each of 2 registry replica(s)")
        .saw("Less is protected than could be: rights are missing: list controllerrevisions.apps");
    assert_eq!(images(&cluster), digests(&["a", "b", "c", "e", "f"]));
}

#[test]
fn another_value_makes_another_plan_from_what_was_read() {
    let cluster = cluster();
    let mut terminal = at(&cluster, Stage::Menu);
    let before = cluster.sandbox().request_log().len();
    terminal.press(&[DOWN, DOWN, ENTER]).sees("--keep-tag-revisions (").press(&["x", ENTER]);
    terminal.sees("invalid argument \"x\" for \"--keep-tag-revisions\" flag");
    terminal.sees("--keep-tag-revisions (").press(&["2\u{7f}1", ENTER]);
    terminal.sees("4         7").sees("DANGER").sees("4 of 7 images go, more than half");
    terminal.sees("Change --keep-tag-revisions=1").sees("Quit").press(&[DOWN, DOWN, DOWN, ENTER]);
    terminal.sees("--keep-younger-than (").press(&["1000h", ENTER]);
    terminal.sees("Nothing to prune with these values").sees("Change --keep-younger-than=1000h").sees("Quit");
    assert!(!terminal.screen().0.iter().any(|line| line.contains("Proceed")), "{:?}", terminal.screen());
    assert_eq!(cluster.sandbox().request_log().len(), before, "the cluster was asked again");
    terminal.press(&[END, ENTER]);
    terminal.ends(0).saw("no changes made");
    is_unchanged(&cluster);
}

#[test]
fn details_show_what_goes_and_lead_back() {
    let cluster = cluster();
    let mut terminal = at(&cluster, Stage::Menu);
    terminal
        .press(&[ENTER])
        .sees("Image stream shop/web: 1 of 4 items go")
        .sees("beyond --keep-tag-revisions=3");
    terminal.sees("What next").sees("Quit").press(&["q"]);
    terminal.ends(0).saw("no changes made");
    is_unchanged(&cluster);
}

#[test]
fn whoever_leaves_changes_nothing() {
    let cluster = cluster();
    for key in [ESC, CTRL_D] {
        for stage in STAGES {
            let mut terminal = at(&cluster, stage);
            terminal.press(&[key]);
            terminal.ends(0).saw("no changes made");
        }
    }
    let mut terminal = at(&cluster, Stage::Confirmation);
    terminal.press(&[ENTER]);
    terminal.ends(0).saw("no changes made");
    is_unchanged(&cluster);
}

#[test]
fn ctrl_c_ends_every_question() {
    let cluster = cluster();
    for stage in STAGES {
        let mut terminal = at(&cluster, stage);
        terminal.press(&[CTRL_C]);
        terminal.ends(130).saw("error: prune: ended by SIGINT - no changes made");
    }
    is_unchanged(&cluster);
}

#[test]
fn signals_from_elsewhere_leave_the_terminal_as_it_was() {
    let cluster = cluster();
    for (name, code) in [("TERM", 143), ("INT", 130), ("HUP", 143)] {
        for stage in [Stage::Menu, Stage::Value, Stage::Confirmation] {
            let mut terminal = at(&cluster, stage);
            terminal.signal(name);
            terminal.ends(code).saw("no changes made");
        }
    }
    is_unchanged(&cluster);
}

#[test]
fn ctrl_c_ends_the_reading() {
    let cluster = cluster();
    let hang = Fault::new(Action::Hang).server(Server::Api).path("/imagestreams?");
    cluster.sandbox().faults().add(hang);
    let mut terminal = setup(&cluster).start();
    terminal.sees("images.image.openshift.io").sees("7").press(&[CTRL_C]);
    terminal.ends(130).saw("error: prune: ended by SIGINT - no changes made").did_not_see("What next");
    is_unchanged(&cluster);
}

#[test]
fn ctrl_c_while_it_deletes_finishes_what_was_begun() {
    let cluster = cluster();
    let (go_on, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let wait = Action::hook(move || {
        // The sender is gone once the test is over.
        let _ = gate.lock().unwrap().recv();
    });
    // In stage 1, so that stage 2 is left.
    cluster.sandbox().faults().add(Fault::new(wait).method(Method::DELETE).path("/manifests/").times(1));
    let mut terminal = at(&cluster, Stage::Number);
    terminal
        .press(&["4", ENTER])
        .sees("pruning [")
        .sees("/s")
        .press(&[CTRL_C])
        .sees("ending: what was begun");
    drop(go_on);
    let ended = terminal.ends(130).saw("error: the run was ended early by SIGINT").saw("Summary: deleted");
    ended.saw("Deleting ");
    assert_eq!(images(&cluster).len(), 7);
}

#[test]
fn a_dangerous_plan_takes_the_number_of_images() {
    let cluster = cluster();
    for wrong in ["5", "", "y"] {
        let mut terminal = at(&cluster, Stage::Number);
        terminal.press(&[wrong, ENTER]);
        terminal.ends(1).saw("is not the number of images that go, 4 - no changes made");
    }
    is_unchanged(&cluster);
    let mut terminal = at(&cluster, Stage::Number);
    terminal.press(&["4", ENTER]);
    terminal
        .ends(0)
        .saw("DANGER   4 of 7 images go, more than half")
        .saw("Summary: deleted 4 image object(s)");
    assert_eq!(images(&cluster), digests(&["a", "c", "e"]));
}

#[test]
fn every_danger_is_named() {
    let cluster = cluster();
    cluster.sandbox().load_objects(vec![common::objects::pod("shop", "odd", "a//b")].into());
    let args = ["--keep-tag-revisions=0", "--ignore-invalid-refs"];
    let mut terminal = args.iter().fold(setup(&cluster), |setup, arg| setup.arg(*arg)).start();
    terminal.sees("DANGER   --keep-tag-revisions=0 keeps no revision of any tag");
    terminal.sees("DANGER   --ignore-invalid-refs: 1 reference(s) do not parse");
    terminal.sees("DANGER   6 of 7 images go, more than half");
    terminal.sees("DANGER   image stream shop/api would have no tag left").sees("What next").sees("Quit");
    terminal.press(&[ESC]);
    terminal.ends(0).saw("no changes made");
    is_unchanged(&cluster);
}

#[test]
fn errors_are_counted_while_it_deletes() {
    let cluster = cluster();
    let faults = cluster.sandbox().faults();
    let broken = Action::Answer(Answer::new(StatusCode::FORBIDDEN));
    faults.add(Fault::new(broken).method(Method::DELETE).path("/admin/blobs/"));
    let mut terminal = at(&cluster, Stage::Number);
    terminal.press(&["4", ENTER]).sees("pruning [").sees("error");
    terminal.ends(3).saw("error: prune: ").saw("error deleting blob");
}

#[test]
fn another_cache_step_can_be_chosen() {
    let cluster = cluster();
    let mut terminal = at(&cluster, Stage::Step);
    terminal.press(&[DOWN, DOWN, ENTER]).sees("flush is not possible: the registry has no Redis");
    terminal.sees("Which cache step").sees("none").press(&[END, ENTER]);
    terminal.sees("Delete it now?").press(&["y"]);
    terminal.ends(0).saw("Cache step: none: the caches stay as they are").did_not_see("Cache step: done");
}

#[test]
fn pods_are_counted_as_they_are_replaced() {
    let config = ClusterConfig { replicas: 2, controller: Some(Pace::default()), ..ClusterConfig::default() };
    let cluster = filled(config);
    cluster.sandbox().access().grant("pruner", restarter());
    let mut terminal = at(&cluster, Stage::Step);
    terminal.press(&[DOWN, ENTER]).sees("Delete it now?").press(&["y"]);
    terminal.sees("cache step").sees(" of 2 pods replaced");
    terminal.ends(0).saw("Cache step: done (restart: ");
}

#[test]
fn what_is_typed_too_early_is_no_answer() {
    let cluster = cluster();
    let (go_on, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let wait = Action::hook(move || {
        // The sender is gone once there was enough typing.
        let _ = gate.lock().unwrap().recv();
    });
    cluster.sandbox().faults().add(Fault::new(wait).server(Server::Api).path("/imagestreams?").times(1));
    let mut terminal = setup(&cluster).start();
    // The terminal itself shows what is typed while nobody takes keys.
    terminal.sees("images.image.openshift.io").press(&["early", ENTER, "y", ENTER]).sees("early");
    drop(go_on);
    go_to(&mut terminal, Stage::Menu);
    terminal.press(&[ESC]);
    terminal.ends(0).saw("no changes made").did_not_see("Image stream shop/web");
    is_unchanged(&cluster);
}

#[test]
fn the_registry_is_not_contacted_before_somebody_proceeds() {
    let cluster = cluster();
    let setup = setup(&cluster).arg("--registry-url=https://127.0.0.1:1");
    let mut terminal = setup.start();
    go_to(&mut terminal, Stage::Menu);
    let asked = cluster.sandbox().request_log().filter(|entry| entry.server != Server::Api);
    assert!(asked.is_empty(), "{asked:#?}");
    terminal.press(&[DOWN, ENTER]);
    terminal.ends(1).saw("error: ").saw("hint: ").saw("127.0.0.1:1").did_not_see("Which cache step");
    is_unchanged(&cluster);
}

#[test]
fn what_is_said_on_the_command_line_is_not_asked() {
    let cluster = cluster();
    for args in [&["--dry-run"][..], &["-o", "text"], &["--confirm=false"]] {
        let terminal = args.iter().fold(setup(&cluster), |setup, arg| setup.arg(*arg)).start();
        let ended = terminal.ends(0).saw("Dry run enabled - no modifications will be made");
        ended.saw("Summary: would delete 2 image object(s)").did_not_see("What next");
    }
    is_unchanged(&cluster);
    let terminal = setup(&cluster).arg(KEEP_ONE).arg("--confirm").start();
    terminal
        .ends(0)
        .saw("Summary: deleted 4 image object(s)")
        .did_not_see("What next")
        .did_not_see("Which cache step");
}

#[test]
fn invalid_references_stop_the_run() {
    let cluster = cluster();
    cluster.sandbox().load_objects(vec![common::objects::pod("shop", "odd", "a//b")].into());
    let terminal = setup(&cluster).start();
    let ended =
        terminal.ends(1).saw("The following objects have invalid references").saw("pod/odd namespace=shop");
    ended.saw("hint: prune without what these references protect").did_not_see("What next");
}

/// The lines of the screen, none of which was too long from the plan on; what the server warns of, above it, is its own.
#[track_caller]
fn fits(terminal: &Terminal) -> Vec<String> {
    let (lines, wrapped) = terminal.screen();
    let plan = lines.iter().position(|line| line.starts_with("PLAN")).unwrap_or_default();
    assert!(!wrapped[plan..].contains(&true), "{lines:#?}");
    lines
}

#[test]
fn forty_columns_are_enough() {
    let cluster = cluster();
    let mut terminal = setup(&cluster).arg(KEEP_ONE).columns(40).start();
    terminal.sees("PLAN").sees("What next").sees("Quit, change nothing");
    let lines = fits(&terminal);
    for expected in
        ["images", "shop/web", "WHAT STAYS, AND WHY", "newest revisions", "streams changed", "Proceed"]
    {
        assert!(lines.iter().any(|line| line.contains(expected)), "{expected}: {lines:#?}");
    }
    go_on_to_the_end(&mut terminal);
    terminal.sees("Type the number of images that go");
    let lines = terminal.screen().0;
    for expected in ["Delete   4 image(s), 3 item(s) of 2", "         image stream(s) and 13 blob(s),"] {
        assert!(lines.iter().any(|line| line == expected), "{expected}: {lines:#?}");
    }
    terminal.press(&["4", ENTER]);
    terminal.ends(0).saw("Summary: deleted 4 image object(s)");
}

#[test]
fn colours_are_there_unless_nobody_wants_them() {
    let cluster = cluster();
    let is_coloured = |all: &[u8]| {
        let text = String::from_utf8_lossy(all);
        let sequences = text.split("\u{1b}[").skip(1);
        sequences
            .filter_map(|rest| rest.find(|c: char| c.is_ascii_alphabetic()).map(|end| &rest[end..=end]))
            .any(|end| end == "m")
    };
    for (name, value, coloured) in [("COLUMNS", "", true), ("NO_COLOR", "1", false)] {
        let mut terminal = setup(&cluster).env(name, value).start();
        go_to(&mut terminal, Stage::Confirmation);
        terminal.press(&["n"]);
        assert_eq!(is_coloured(&terminal.ends(0).saw("no changes made").all), coloured, "{name}");
    }
}

#[test]
fn a_locale_without_unicode_gets_ascii() {
    let cluster = cluster();
    for (name, value, ascii) in [("LC_CTYPE", "C.UTF-8", false), ("LC_ALL", "C", true)] {
        let mut terminal = setup(&cluster).env(name, value).start();
        go_to(&mut terminal, Stage::Confirmation);
        terminal.press(&["n"]);
        assert_eq!(terminal.ends(0).saw("no changes made").all.is_ascii(), ascii, "{name}");
    }
}

#[test]
fn a_terminal_without_a_cursor_gets_numbers() {
    let cluster = cluster();
    let mut terminal = setup(&cluster).arg(KEEP_ONE).env("TERM", "dumb").start();
    terminal.sees("What next").sees("2) Proceed").sees("Number (1 to 5)").press(&["7", ENTER]);
    terminal.sees("Number (1 to 5)").press(&["2", ENTER]);
    terminal.sees("Which cache step").sees("1) evict").sees("Number (1 to 6)").press(&["1", ENTER]);
    terminal.sees("Type the number of images that go").press(&["4", ENTER]);
    let ended = terminal.ends(0).saw("Summary: deleted 4 image object(s)");
    assert!(!ended.all.contains(&0x1b), "{}", String::from_utf8_lossy(&ended.all).escape_debug());
}
