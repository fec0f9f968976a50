//! The dialogue with the person at the terminal: from what was read to a plan that was agreed to, or to nothing.
//!
//! Nothing is changed here. The registry is contacted once somebody wants to proceed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::dialogue::{self, Confirmation, Next};
use super::keeping;
use super::look;
use super::prune::{Begun, Job, Planned, Ready, decide, get_ready, has_token, impersonation, tell_unread};
use super::signals::interrupted;
use crate::cache::{CacheStep, Strategy};
use crate::cli::{self, Keep, Options};
use crate::error::Failure;
use crate::execute::Signal;
use crate::journal::Found;
use crate::plan::{Counts, Danger, dangers};
use crate::report::document::View;
use crate::report::{self, printable, summary, text};
use crate::ui::{Answer, Ui};

/// Shows plans until somebody agrees to one; `None` if nobody does.
///
/// # Errors
/// What ends a run before any change, Ctrl-C included.
pub(super) async fn agree(options: &Options, ui: &Arc<Ui>, begun: Begun) -> Result<Option<Job>, Failure> {
    let read = Instant::now();
    let mut talk = Talk { options: options.clone(), ui, begun, said: BTreeSet::new() };
    let agreed = talk.agree(read).await?;
    if agreed.is_none() {
        ui.message("no changes made");
    }
    let Talk { options, begun, .. } = talk;
    Ok(agreed.map(|(planned, ready)| Job { options, begun, planned, ready, resumed: None }))
}

/// What is to be done about runs that were cut short.
pub(super) enum Offer {
    /// The one with this journal is to be finished.
    Finish(PathBuf),
    /// There are none, or they are left as they are.
    GoOn,
    /// Nothing is to be done at all.
    Quit,
}

/// Asks whether a run that was cut short is to be finished; the oldest, if there are several.
///
/// # Errors
/// Ctrl-C.
pub(super) async fn offer(ui: &Arc<Ui>, unfinished: &[Found]) -> Result<Offer, Failure> {
    let Some(oldest) = unfinished.first() else { return Ok(Offer::GoOn) };
    for found in unfinished {
        ui.warning(&printable(&keeping::unfinished_line(found)));
    }
    let menu = ["Finish it", "Leave it as it is, and go on", "Quit, change nothing"].map(str::to_owned);
    let asking = Arc::clone(ui);
    let asked = move || asking.choose("What next", &menu, 0);
    let offer = match tokio::task::spawn_blocking(asked).await {
        Ok(Answer::Given(0)) => Offer::Finish(oldest.path.clone()),
        Ok(Answer::Given(1)) => Offer::GoOn,
        Ok(Answer::Interrupted) => return Err(interrupted(Signal::Interrupt)),
        Ok(Answer::Given(_) | Answer::Left) | Err(_) => Offer::Quit,
    };
    if matches!(offer, Offer::Quit) {
        ui.message("no changes made");
    }
    Ok(offer)
}

struct Talk<'a> {
    /// As given, and changed since.
    options: Options,
    ui: &'a Arc<Ui>,
    begun: Begun,
    /// Warnings that were given already.
    said: BTreeSet<String>,
}

impl Talk<'_> {
    async fn agree(&mut self, read: Instant) -> Result<Option<(Planned, Ready)>, Failure> {
        'plan: loop {
            let planned = decide(&self.options, self.ui, &self.begun, &mut self.said)?;
            let counts = self.view(&planned).summary();
            self.show(&planned, &counts);
            loop {
                let menu = dialogue::menu(&self.options.prune.keep, &counts);
                let Some(next) = self.choose("What next", &menu, 0).await? else { return Ok(None) };
                match next {
                    Next::Details => self.show_details(&planned),
                    Next::Proceed => return self.proceed(planned, counts, read).await,
                    Next::TagRevisions | Next::YoungerThan if self.change(next).await? => continue 'plan,
                    Next::TagRevisions | Next::YoungerThan | Next::Quit => return Ok(None),
                }
            }
        }
    }

    fn view<'a>(&'a self, planned: &'a Planned) -> View<'a> {
        View { inventory: &self.begun.look.inventory, plan: &planned.plan }
    }

    fn show(&self, planned: &Planned, counts: &Counts) {
        let width = self.ui.width();
        let view = self.view(planned);
        self.ui.result(|out| {
            summary::plan(out, view, width)?;
            for danger in self.dangers(planned) {
                let text = format!("DANGER   {}", summary::danger(view, &danger));
                summary::wrapped(out, &text, width, 9)?;
            }
            if !dialogue::something_goes(counts) {
                summary::wrapped(out, "Nothing to prune with these values.", width, 0)?;
            }
            Ok(())
        });
    }

    fn dangers(&self, planned: &Planned) -> Vec<Danger> {
        dangers(&self.begun.look.inventory, &planned.plan, self.options.prune.ignore_invalid_refs)
    }

    fn show_details(&self, planned: &Planned) {
        let view = self.view(planned);
        self.ui.result(|out| text::plan(out, view, self.options.show_kept));
    }

    /// Asks for another value; whether there is one.
    async fn change(&mut self, what: Next) -> Result<bool, Failure> {
        let Keep::Revisions { keep_tag_revisions: revisions, keep_younger_than: age } =
            self.options.prune.keep
        else {
            return Ok(true);
        };
        let question = match what {
            Next::TagRevisions => "--keep-tag-revisions (3, 0, ...)",
            _ => "--keep-younger-than (60m, 96h, 0, ...)",
        };
        loop {
            let Some(word) = self.ask(move |ui| ui.line(question)).await? else { return Ok(false) };
            let word = word.trim();
            let keep = match what {
                Next::TagRevisions => cli::keep_tag_revisions(word).map(|revisions| Keep::Revisions {
                    keep_tag_revisions: revisions,
                    keep_younger_than: age,
                }),
                _ => cli::keep_younger_than(word)
                    .map(|age| Keep::Revisions { keep_tag_revisions: revisions, keep_younger_than: age }),
            };
            match keep {
                Ok(keep) => {
                    self.options.prune.keep = keep;
                    return Ok(true);
                }
                Err(failure) => self.ui.failure(&failure),
            }
        }
    }

    /// From the wish to proceed to the last word.
    async fn proceed(
        &mut self,
        planned: Planned,
        counts: Counts,
        read: Instant,
    ) -> Result<Option<(Planned, Ready)>, Failure> {
        self.options.confirm = true;
        let Begun { cluster, look, .. } = &self.begun;
        has_token(&self.options, cluster).await?;
        if let Some(warning) = impersonation(&self.options, cluster) {
            self.ui.warning(&printable(&warning));
        }
        let mut ready =
            get_ready(&self.options, self.ui, &self.begun, planned.plan.changes_registry()).await?;
        tell_unread(self.ui, look);
        if let Some(caches) = &mut ready.caches
            && !self.choose_step(caches).await?
        {
            return Ok(None);
        }
        let user = look::user(cluster).await;
        let width = self.ui.width();
        let view = View { inventory: &look.inventory, plan: &planned.plan };
        let dangers = self.dangers(&planned);
        let cluster = match cluster.context() {
            Some(context) => format!("{} (context {context})", cluster.server()),
            None => cluster.server().to_owned(),
        };
        self.ui.result(|out| {
            writeln!(out)?;
            let line = |out: &mut dyn std::io::Write, name: &str, text: &str| {
                summary::wrapped(out, &format!("{name:8} {}", printable(text)), width, 9)
            };
            line(out, "Delete", &summary::sentence(&counts))?;
            line(out, "Cluster", &cluster)?;
            line(out, "User", &user)?;
            for danger in &dangers {
                line(out, "DANGER", &summary::danger(view, danger))?;
            }
            Ok(())
        });
        if let Some(old) = dialogue::old(read.elapsed()) {
            self.ui.warning(&old);
        }
        let agreed = self.confirm(Confirmation::of(&dangers, &counts)).await?;
        Ok(agreed.then_some((planned, ready)))
    }

    /// Asks for the cache step; whether there is an answer.
    async fn choose_step(&self, caches: &mut CacheStep) -> Result<bool, Failure> {
        let options = caches.alternatives();
        if options.is_empty() {
            return Ok(true);
        }
        let width = self.ui.width();
        self.ui.result(|out| {
            writeln!(out)?;
            summary::wrapped(out, "What makes the registry's caches forget the deleted blobs:", width, 0)?;
            options
                .iter()
                .try_for_each(|option| summary::wrapped(out, &report::cache::option_line(option), width, 9))
        });
        let chosen = caches.plan().step;
        let at = dialogue::preselected(&options, chosen);
        let why = match self.options.cache.strategy {
            Strategy::Auto => " (the best that was found)",
            _ => " (as --registry-cache says)",
        };
        let menu: Vec<_> = options
            .into_iter()
            .map(|option| {
                let note = match &option.effect {
                    _ if option.step == chosen => why,
                    Ok(_) => "",
                    Err(_) => " (not possible)",
                };
                let text = format!("{}{note}", option.step);
                (option, text)
            })
            .collect();
        loop {
            let Some(option) = self.choose("Which cache step", &menu, at).await? else { return Ok(false) };
            match option.effect {
                Ok(_) => return caches.choose(&option).map(|()| true),
                Err(why) => self.ui.message(&format!("{} is not possible: {}", option.step, printable(&why))),
            }
        }
    }

    /// The last question.
    async fn confirm(&self, confirmation: Confirmation) -> Result<bool, Failure> {
        match confirmation {
            Confirmation::YesNo => Ok(self.ask(|ui| ui.confirm("Delete it now?")).await?.unwrap_or_default()),
            Confirmation::Number { expected, of } => {
                let question = format!("Type the number of {of} that go");
                let Some(typed) = self.ask(move |ui| ui.line(&question)).await? else { return Ok(false) };
                if confirmation.accepts(&typed) {
                    return Ok(true);
                }
                Err(Failure::nothing_changed(format!(
                    "confirm the prune: {:?} is not the number of {of} that go, {expected} - no changes made",
                    typed.trim()
                )))
            }
        }
    }

    /// Asks for one of these; `None` if somebody leaves.
    async fn choose<T: Clone>(
        &self,
        question: &'static str,
        menu: &[(T, String)],
        preselected: usize,
    ) -> Result<Option<T>, Failure> {
        let texts: Vec<String> = menu.iter().map(|(_, text)| text.clone()).collect();
        let chosen = self.ask(move |ui| ui.choose(question, &texts, preselected)).await?;
        Ok(chosen.and_then(|at| menu.get(at)).map(|(next, _)| next.clone()))
    }

    /// Asks without blocking those who listen to signals; `None` if somebody leaves.
    async fn ask<T: Send + 'static>(
        &self,
        prompt: impl FnOnce(&Ui) -> Answer<T> + Send + 'static,
    ) -> Result<Option<T>, Failure> {
        let ui = Arc::clone(self.ui);
        match tokio::task::spawn_blocking(move || prompt(&ui)).await {
            Ok(Answer::Given(answer)) => Ok(Some(answer)),
            Ok(Answer::Interrupted) => Err(interrupted(Signal::Interrupt)),
            Ok(Answer::Left) | Err(_) => Ok(None),
        }
    }
}
