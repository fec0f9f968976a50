//! Label selectors in kubectl's grammar: `app=web,tier in (a,b),!old`.
//!
//! The grammar, and what an absent label means to each operator, are those of `k8s.io/apimachinery/pkg/labels`; kube has
//! a type for selectors, and nothing that reads them.

use std::fmt;

/// Which objects are meant, by their labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    text: Box<str>,
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: Box<str>,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(Vec<Box<str>>),
    NotIn(Vec<Box<str>>),
    Greater(i64),
    Less(i64),
}

/// Why a text is no selector, in the words of kubectl.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Something else should stand there.
    #[error("found '{found}', expected: {expected}")]
    Unexpected {
        /// What stands there; empty at the end of the text.
        found: String,
        /// What should.
        expected: &'static str,
    },
    /// A key that no label can have.
    #[error(
        "{0:?} is no label's key: a key is [PREFIX/]NAME, the name at most 63 letters, digits, '-', '_' and '.', \
         beginning and ending with a letter or digit, the prefix a DNS name"
    )]
    Key(String),
    /// A value that no label can have.
    #[error(
        "{0:?} is no label's value: a value has at most 63 letters, digits, '-', '_' and '.', and begins and ends with \
         a letter or digit"
    )]
    Value(String),
    /// `>` and `<` compare integers.
    #[error("{0:?} is no integer, which '>' and '<' compare with")]
    Number(String),
}

impl Selector {
    /// Reads a selector; nothing but white space selects everything.
    ///
    /// # Errors
    /// The text does not follow the grammar, or holds a key or a value that no label can have.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser { tokens: tokens(text), next: 0 };
        let mut requirements = Vec::new();
        while parser.peek() != Token::End {
            requirements.push(parser.requirement()?);
            match parser.take() {
                Token::End => break,
                Token::Symbol(",") if matches!(parser.peek(), Token::Word(_) | Token::Symbol("!")) => {}
                Token::Symbol(",") => return Err(unexpected(parser.peek(), "identifier after ','")),
                other => return Err(unexpected(other, "',' or 'end of string'")),
            }
        }
        Ok(Self { text: text.trim().into(), requirements })
    }

    /// Whether an object is meant whose label of a key has this value.
    #[must_use]
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|Requirement { key, test }| {
            let value = label(key);
            let is_among =
                |values: &[Box<str>]| value.is_some_and(|value| values.iter().any(|v| **v == *value));
            let number = || value.and_then(|value| value.parse::<i64>().ok());
            match test {
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::In(values) => is_among(values),
                Test::NotIn(values) => !is_among(values),
                Test::Greater(limit) => number().is_some_and(|number| number > *limit),
                Test::Less(limit) => number().is_some_and(|number| number < *limit),
            }
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'a str),
    End,
}

const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn tokens(text: &str) -> Vec<Token<'_>> {
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let is_symbol = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let symbol = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol));
        let length = match symbol {
            Some(symbol) => symbol.len(),
            None => rest.find(|c| is_space(c) || is_symbol(c)).unwrap_or(rest.len()),
        };
        let (token, behind) = rest.split_at(length);
        tokens.push(if symbol.is_some() { Token::Symbol(token) } else { Token::Word(token) });
        rest = behind.trim_start_matches(is_space);
    }
    tokens
}

fn unexpected(found: Token<'_>, expected: &'static str) -> SelectorError {
    let found = match found {
        Token::Word(text) | Token::Symbol(text) => text.to_owned(),
        Token::End => String::new(),
    };
    SelectorError::Unexpected { found, expected }
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    next: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.next).copied().unwrap_or(Token::End)
    }

    fn take(&mut self) -> Token<'a> {
        let token = self.peek();
        self.next += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let is_absent = self.peek() == Token::Symbol("!");
        if is_absent {
            self.next += 1;
        }
        let key = match self.take() {
            Token::Word(key) if is_key(key) => key.into(),
            Token::Word(key) => return Err(SelectorError::Key(key.to_owned())),
            other => return Err(unexpected(other, "!, identifier, or 'end of string'")),
        };
        if is_absent {
            return Ok(Requirement { key, test: Test::Absent });
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Ok(Requirement { key, test: Test::Exists });
        }
        let test = match self.take() {
            Token::Symbol("=" | "==") => Test::In(vec![self.value()?.into()]),
            Token::Symbol("!=") => Test::NotIn(vec![self.value()?.into()]),
            Token::Symbol(">") => Test::Greater(self.number()?),
            Token::Symbol("<") => Test::Less(self.number()?),
            Token::Word("in") => Test::In(self.values()?),
            Token::Word("notin") => Test::NotIn(self.values()?),
            other => return Err(unexpected(other, "in, notin, =, ==, !=, >, <")),
        };
        Ok(Requirement { key, test })
    }

    /// One value; none is the empty one.
    fn value(&mut self) -> Result<&'a str, SelectorError> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(""),
            Token::Word(value) if is_value(value) => {
                self.next += 1;
                Ok(value)
            }
            Token::Word(value) => Err(SelectorError::Value(value.to_owned())),
            other @ Token::Symbol(_) => Err(unexpected(other, "identifier")),
        }
    }

    fn number(&mut self) -> Result<i64, SelectorError> {
        let value = self.value()?;
        value.parse().map_err(|_| SelectorError::Number(value.to_owned()))
    }

    /// `(a,b)`; what is left out between commas is the empty value.
    fn values(&mut self) -> Result<Vec<Box<str>>, SelectorError> {
        match self.take() {
            Token::Symbol("(") => {}
            other => return Err(unexpected(other, "'('")),
        }
        let mut values = Vec::new();
        loop {
            let value = match self.peek() {
                Token::Symbol(")") => "",
                _ => self.value()?,
            };
            values.push(value.into());
            match self.take() {
                Token::Symbol(")") => return Ok(values),
                Token::Symbol(",") => {}
                other => return Err(unexpected(other, "',' or ')'")),
            }
        }
    }
}

/// Whether a label can have this key: a qualified name of Kubernetes.
fn is_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    !name.is_empty() && is_value(name) && prefix.is_none_or(is_dns_name)
}

/// Whether a label can have this value.
fn is_value(value: &str) -> bool {
    let is_end = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    value.len() <= 63
        && is_end(value.bytes().next())
        && is_end(value.bytes().next_back())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn is_dns_name(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|label| {
            label.bytes().all(|byte| is_inner(byte) || byte == b'-')
                && label.bytes().next().is_some_and(is_inner)
                && label.bytes().next_back().is_some_and(is_inner)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(selector: &str, labels: &[(&str, &str)]) -> bool {
        let parsed = Selector::parse(selector).unwrap_or_else(|error| panic!("{selector}: {error}"));
        parsed.matches(|key| labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
    }

    #[test]
    fn selectors_are_those_of_kubectl() {
        let labels =
            [("app", "web"), ("example.com/tier", "a.b"), ("n", "7"), ("empty", ""), ("in", "notin")];
        for yes in [
            "",
            "  ",
            "app",
            "app=web",
            "app == web",
            "app!=api",
            "other!=web",
            "!other",
            "app in (api, web)",
            "app notin (api)",
            "other notin (web)",
            "example.com/tier=a.b,app",
            "n>6,n<8",
            "empty=",
            "empty in ()",
            "empty in (x,)",
            "in in (notin)",
            "in=notin",
            "app in (web),n,!old",
        ] {
            assert!(selects(yes, &labels), "{yes}");
        }
        for no in [
            "app=api",
            "app!=web",
            "other",
            "!app",
            "app in (api,WEB)",
            "app notin (web)",
            "other in (web)",
            "n>7",
            "app>1",
            "other<1",
            "app,other",
            "empty!=",
        ] {
            assert!(!selects(no, &labels), "{no}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused_in_kubectl_s_words() {
        for (text, error) in [
            ("app=web,", "found '', expected: identifier after ','"),
            (",app", "found ',', expected: !, identifier, or 'end of string'"),
            ("app web", "found 'web', expected: in, notin, =, ==, !=, >, <"),
            ("app=web api", "found 'api', expected: ',' or 'end of string'"),
            ("!app=web", "found '=', expected: ',' or 'end of string'"),
            ("app in web", "found 'web', expected: '('"),
            ("app in (web", "found '', expected: ',' or ')'"),
            ("app in (web api)", "found 'api', expected: ',' or ')'"),
            ("app=(web)", "found '(', expected: identifier"),
            ("n>seven", "\"seven\" is no integer, which '>' and '<' compare with"),
        ] {
            assert_eq!(Selector::parse(text).unwrap_err().to_string(), error, "{text}");
        }
        let long = "a".repeat(64);
        for key in ["-app", "app-", "/app", "A/", "a_b/app", "ä", "a/b/c", &long] {
            let error = Selector::parse(&format!("{key}=web")).unwrap_err();
            assert_eq!(error, SelectorError::Key(key.to_owned()));
        }
        for value in ["-web", "a/b", "w\u{1b}", &long] {
            let error = Selector::parse(&format!("app={value}")).unwrap_err();
            assert_eq!(error, SelectorError::Value(value.to_owned()));
        }
    }
}
