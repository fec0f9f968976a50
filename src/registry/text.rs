//! Text that a server sent, made safe for a terminal and for one line of a report.

/// The longest text of a server that is repeated, in characters.
const LONGEST: usize = 200;

/// Returns `text` on one line, without characters that could steer a terminal, and shortened.
///
/// White space becomes one blank; control characters and those that reorder or hide text become U+FFFD.
pub(super) fn sanitise(text: &str) -> String {
    let mut safe = String::new();
    for (length, character) in text.split_whitespace().flat_map(spaced).skip(1).enumerate() {
        if length == LONGEST {
            safe.push('…');
            break;
        }
        safe.push(if is_harmful(character) { char::REPLACEMENT_CHARACTER } else { character });
    }
    safe
}

/// Returns a blank and the characters of `word`.
fn spaced(word: &str) -> impl Iterator<Item = char> {
    std::iter::once(' ').chain(word.chars())
}

/// Whether a terminal would act on the character, or show other characters in another place because of it.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_server_cannot_steer_the_terminal() {
        assert_eq!(sanitise("  a\r\nb\tc  "), "a b c");
        assert_eq!(sanitise("\u{1b}[31mred\u{7}"), "\u{fffd}[31mred\u{fffd}");
        assert_eq!(sanitise("evil\u{202e}txt"), "evil\u{fffd}txt");
        assert_eq!(sanitise(""), "");
        let long = sanitise(&"x".repeat(10_000));
        assert_eq!(long.chars().count(), LONGEST + 1);
        assert!(long.ends_with('…'));
    }
}
