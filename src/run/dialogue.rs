//! What is asked at the terminal, and where each answer leads. Pure.

use std::time::Duration;

use crate::cache::StepOption;
use crate::cli::Keep;
use crate::plan::{Counts, Danger};
use crate::text::{age_text, time_text};

/// From this age on the plan is said to be old.
const OLD: Duration = Duration::from_secs(300);

/// What can be done with a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Show everything that goes, and why.
    Details,
    /// Carry it out.
    Proceed,
    /// Plan again with another `--keep-tag-revisions`.
    TagRevisions,
    /// Plan again with another `--keep-younger-than`.
    YoungerThan,
    /// Change nothing.
    Quit,
}

/// The menu below a plan; what does no harm comes first.
pub(super) fn menu(keep: &Keep, counts: &Counts) -> Vec<(Next, String)> {
    let mut menu = Vec::new();
    if something_goes(counts) {
        menu.push((Next::Details, "See details".to_owned()));
        menu.push((Next::Proceed, "Proceed".to_owned()));
    }
    if let Keep::Revisions { keep_tag_revisions, keep_younger_than } = keep {
        menu.push((Next::TagRevisions, format!("Change --keep-tag-revisions={keep_tag_revisions}")));
        menu.push((
            Next::YoungerThan,
            format!("Change --keep-younger-than={}", age_text(*keep_younger_than)),
        ));
    }
    menu.push((Next::Quit, "Quit, change nothing".to_owned()));
    menu
}

/// Whether a plan with these numbers changes anything.
pub(super) fn something_goes(counts: &Counts) -> bool {
    counts.images + counts.image_stream_tag_items > 0
}

/// How the last question is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confirmation {
    /// By a key.
    YesNo,
    /// By this number, so that it has been looked at.
    Number {
        /// What has to be typed.
        expected: usize,
        /// What it counts.
        of: &'static str,
    },
}

impl Confirmation {
    /// A dangerous plan takes the number of images; of items, where no image goes.
    pub(super) fn of(dangers: &[Danger], counts: &Counts) -> Self {
        match counts {
            _ if dangers.is_empty() => Self::YesNo,
            Counts { images: 0, image_stream_tag_items, .. } => {
                Self::Number { expected: *image_stream_tag_items, of: "items" }
            }
            Counts { images, .. } => Self::Number { expected: *images, of: "images" },
        }
    }

    /// Whether what was typed is the number; a comma as the summary shows it may be in it.
    pub(super) fn accepts(self, typed: &str) -> bool {
        match self {
            Self::YesNo => false,
            Self::Number { expected, .. } => typed.trim().replace(',', "").parse() == Ok(expected),
        }
    }
}

/// Which of the cache steps is preselected: the one that was chosen by what was found, or by a flag.
pub(super) fn preselected(options: &[StepOption], chosen: &str) -> usize {
    options.iter().position(|option| option.step == chosen).unwrap_or_default()
}

/// What somebody should know who took long.
pub(super) fn old(age: Duration) -> Option<String> {
    (age >= OLD).then(|| {
        let minutes = Duration::from_secs(age.as_secs() / 60 * 60);
        format!(
            "the cluster was read {} ago. What is in use by now stays all the same: an image stream that changed is decided about again, and before any image goes, all image streams and everything that refers to images are read again",
            time_text(minutes)
        )
    })
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::cache::Strategy;

    const KEEP: Keep =
        Keep::Revisions { keep_tag_revisions: 3, keep_younger_than: SignedDuration::from_mins(60) };

    fn counts(images: usize, items: usize) -> Counts {
        Counts { images, image_stream_tag_items: items, ..Counts::default() }
    }

    fn nexts(keep: &Keep, counts: &Counts) -> Vec<Next> {
        menu(keep, counts).into_iter().map(|(next, _)| next).collect()
    }

    #[test]
    fn the_menu_has_what_is_possible() {
        use Next::{Details, Proceed, Quit, TagRevisions, YoungerThan};
        assert_eq!(nexts(&KEEP, &counts(1, 0)), [Details, Proceed, TagRevisions, YoungerThan, Quit]);
        assert_eq!(nexts(&KEEP, &counts(0, 0)), [TagRevisions, YoungerThan, Quit]);
        assert_eq!(nexts(&Keep::OverSizeLimit, &counts(0, 2)), [Details, Proceed, Quit]);
        let texts: Vec<String> = menu(&KEEP, &counts(0, 0)).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts[..2], ["Change --keep-tag-revisions=3", "Change --keep-younger-than=1h"]);
        let zero = Keep::Revisions { keep_tag_revisions: 0, keep_younger_than: SignedDuration::ZERO };
        assert_eq!(menu(&zero, &counts(0, 0))[1].1, "Change --keep-younger-than=0");
    }

    #[test]
    fn a_dangerous_plan_takes_its_number() {
        assert_eq!(Confirmation::of(&[], &counts(4, 3)), Confirmation::YesNo);
        let dangers = [Danger::NoRevisions];
        let images = Confirmation::of(&dangers, &counts(1234, 3));
        assert_eq!(images, Confirmation::Number { expected: 1234, of: "images" });
        for typed in ["1234", " 1,234 "] {
            assert!(images.accepts(typed), "{typed}");
        }
        for typed in ["", "y", "yes", "123", "12345", "-1234", "3"] {
            assert!(!images.accepts(typed), "{typed}");
        }
        let items = Confirmation::of(&dangers, &counts(0, 3));
        assert_eq!(items, Confirmation::Number { expected: 3, of: "items" });
        assert!(!Confirmation::YesNo.accepts("y"));
    }

    #[test]
    fn what_was_found_is_preselected() {
        let option = |strategy, step| StepOption { strategy, step, effect: Ok(String::new()) };
        let options = [option(Strategy::Evict, "evict"), option(Strategy::Restart, "restart")];
        assert_eq!(preselected(&options, "restart"), 1);
        assert_eq!(preselected(&options, "flush"), 0);
    }

    #[test]
    fn an_old_plan_is_said_to_be_old() {
        assert_eq!(old(Duration::from_secs(299)), None);
        let said = old(Duration::from_secs(12 * 60 + 7)).unwrap_or_default();
        assert!(said.starts_with("the cluster was read 12m ago."), "{said}");
    }
}
