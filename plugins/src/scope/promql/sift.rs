//! What is looked at before a query is parsed: that it is not too deep, that no duration in it makes the parser panic, and
//! its regular expressions, which the parser would compile. Each of those is taken out and a number left in its place.
//!
//! What this reads in another way than the parser cannot let anything by: it is the parser's tree that is confined, and the
//! printed text that is compared.

use promql_parser::util::unquote_string;

use super::{DEPTH_MAX, REGEXES_MAX, STEPS_MAX, Unscoped};

/// Bytes of one duration or number where a duration stands.
const DURATION_BYTES_MAX: usize = 64;
/// Digits of one number in it: the parser counts in 32 bits and leaves out what does not fit.
const DIGITS_MAX: usize = 9;

/// A query without its comments and with a number for each regular expression.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sifted {
    pub(super) text: String,
    pub(super) regexes: Vec<String>,
    /// `{` outside of strings.
    pub(super) braces: usize,
}

/// Where the text is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    Braces,
    Brackets,
}

/// What comes next, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Anything,
    /// `offset`, and its sign.
    Offset,
    /// `=` or `!` in braces.
    Compare,
    /// `=~` or `!~` in braces.
    Regex,
}

struct Sieve<'q> {
    rest: &'q str,
    out: Sifted,
    place: Place,
    after: After,
    depth: usize,
    steps: usize,
}

pub(super) fn sift(query: &str) -> Result<Sifted, Unscoped> {
    let out = Sifted { text: String::with_capacity(query.len()), regexes: Vec::new(), braces: 0 };
    let mut sieve = Sieve { rest: query, out, place: Place::Outside, after: After::Anything, depth: 0, steps: 0 };
    while let Some(next) = sieve.rest.chars().next() {
        sieve.take(next)?;
    }
    Ok(sieve.out)
}

impl<'q> Sieve<'q> {
    fn take(&mut self, next: char) -> Result<(), Unscoped> {
        match next {
            '#' => {
                self.split(|text| text.find(['\r', '\n']).unwrap_or(text.len()))?;
                self.out.text.push(' ');
                return Ok(());
            }
            '"' | '\'' | '`' => return self.string(next),
            c if c.is_ascii_whitespace() => return self.copy(next),
            c if is_word(c) => return self.word(),
            '(' => self.deeper()?,
            ')' => self.depth = self.depth.saturating_sub(1),
            '{' => {
                self.place = Place::Braces;
                self.out.braces = self.out.braces.saturating_add(1);
            }
            '[' => {
                self.step()?;
                self.place = Place::Brackets;
            }
            '}' | ']' => self.place = Place::Outside,
            _ if self.place == Place::Outside => self.step()?,
            _ => {}
        }
        self.after = match (self.place, self.after, next) {
            (Place::Outside, After::Offset, '+' | '-') => After::Offset,
            (Place::Braces, _, '=' | '!') => After::Compare,
            (Place::Braces, After::Compare, '~') => After::Regex,
            _ => After::Anything,
        };
        self.copy(next)
    }

    /// A number, a name or a keyword, with the durations that are one word.
    fn word(&mut self) -> Result<(), Unscoped> {
        let word = self.split(|text| text.find(|c| !is_word(c)).unwrap_or(text.len()))?;
        let is_number = word.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            || ["inf", "nan"].iter().any(|number| word.eq_ignore_ascii_case(number));
        let is_duration_wanted = self.place == Place::Brackets || (self.after == After::Offset && is_number);
        if is_duration_wanted && !is_duration(word) {
            return Err(Unscoped::Unsupported("a duration that is none, or too long"));
        }
        self.after = After::Anything;
        if self.place == Place::Outside {
            if ["and", "or", "unless", "atan2"].iter().any(|operator| word.eq_ignore_ascii_case(operator)) {
                self.step()?;
            }
            if word.eq_ignore_ascii_case("offset") {
                self.after = After::Offset;
            }
        }
        self.out.text.push_str(word);
        Ok(())
    }

    /// A string with its quotes. One that is a regular expression is taken out.
    fn string(&mut self, quote: char) -> Result<(), Unscoped> {
        let quoted = self.split(|text| end_of_string(text, quote))?;
        let is_whole = quoted.len() >= 2 && quoted.ends_with(quote);
        if !is_whole || self.place == Place::Brackets {
            return Err(Unscoped::Syntax);
        }
        if quote != '`' {
            plain_escapes(quoted)?;
        }
        if self.place == Place::Braces && self.after == After::Regex {
            if self.out.regexes.len() >= REGEXES_MAX {
                return Err(Unscoped::TooLarge { what: "regular expressions", max: REGEXES_MAX });
            }
            let number = format!("\"{}\"", self.out.regexes.len());
            self.out.regexes.push(unquote_string(quoted).map_err(|_| Unscoped::Syntax)?);
            self.out.text.push_str(&number);
        } else {
            self.out.text.push_str(quoted);
        }
        self.after = After::Anything;
        Ok(())
    }

    fn deeper(&mut self) -> Result<(), Unscoped> {
        self.depth = self.depth.saturating_add(1);
        if self.depth > DEPTH_MAX {
            return Err(Unscoped::TooLarge { what: "brackets in each other", max: DEPTH_MAX });
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), Unscoped> {
        self.steps = self.steps.saturating_add(1);
        if self.steps > STEPS_MAX {
            return Err(Unscoped::TooLarge { what: "operators", max: STEPS_MAX });
        }
        Ok(())
    }

    fn copy(&mut self, next: char) -> Result<(), Unscoped> {
        self.split(|_| next.len_utf8())?;
        self.out.text.push(next);
        Ok(())
    }

    /// Takes the text up to what `end` says, which is never its start.
    fn split(&mut self, end: impl Fn(&str) -> usize) -> Result<&'q str, Unscoped> {
        let (taken, rest) = self.rest.split_at_checked(end(self.rest)).ok_or(Unscoped::Syntax)?;
        if taken.is_empty() {
            return Err(Unscoped::Syntax);
        }
        self.rest = rest;
        Ok(taken)
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.')
}

/// Digits and units, or a plain number of seconds. No exponent, no hexadecimal number, no `Inf`: the parser would panic.
fn is_duration(word: &str) -> bool {
    word.len() <= DURATION_BYTES_MAX
        && word.bytes().all(|c| c.is_ascii_digit() || b"smhdwy.:".contains(&c))
        && word.split(|c: char| !c.is_ascii_digit()).all(|digits| digits.len() <= DIGITS_MAX)
}

/// Past the closing quote; the end of the text where there is none.
fn end_of_string(text: &str, quote: char) -> usize {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return at.saturating_add(1);
        }
        if c == '\\' && quote != '`' {
            chars.next();
        }
    }
    text.len()
}

/// Escapes that mean one character to every reader. `\xff` and `\377` are a byte to Prometheus, which is no text then.
fn plain_escapes(quoted: &str) -> Result<(), Unscoped> {
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            continue;
        }
        let plain = match (chars.next(), chars.clone().next()) {
            (Some('x'), Some(high)) => high.is_ascii_digit() && high < '8',
            (Some(first), _) if first.is_ascii_digit() => first < '2',
            (Some(other), _) => other.is_ascii(),
            (None, _) => false,
        };
        if !plain {
            return Err(Unscoped::Unsupported("an escape of a byte"));
        }
    }
    Ok(())
}
