//! Counts over all values of one request.

use std::borrow::Cow;

use super::{
    Deny, Rules,
    fold::fold,
    limits::Limits,
    phones::{self, Counter},
    place::Place,
    text::Shape,
    urls::{self, Style},
};

/// What the key of a value says about the URLs in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    /// They count.
    Count(Style),
    /// They are names of schemas, not links: `$schema`, `@context`, `$ref`, `xmlns…`.
    Ignore,
}

/// The counts so far.
pub(super) struct Tally<'w> {
    limits: Limits,
    own_host: &'w str,
    urls: u32,
    phones: u32,
    counter: Counter<'w>,
}

impl<'w> Tally<'w> {
    pub(super) fn new(limits: Limits, rules: &'w Rules, own_host: &'w str) -> Self {
        Self { limits, own_host, urls: 0, phones: 0, counter: Counter::new(&rules.plan) }
    }

    /// Inspects one decoded text value.
    ///
    /// # Errors
    /// The limit that it breaks, alone or with the values before it.
    pub(super) fn value(&mut self, text: &str, place: &Place<'_>, links: Links) -> Result<(), Deny> {
        self.chars(text, place)?;
        let shape = Shape::of(text);
        if !shape.folds() {
            return self.plain(text, shape, place, links);
        }
        match fold(text) {
            Cow::Borrowed(text) => self.plain(text, shape, place, links),
            Cow::Owned(folded) => self.plain(&folded, Shape::of(&folded), place, links),
        }
    }

    fn chars(&self, text: &str, place: &Place<'_>) -> Result<(), Deny> {
        let max = usize::try_from(self.limits.chars_max).unwrap_or(usize::MAX);
        // No text has more characters than bytes.
        if text.len() > max && text.chars().count() > max {
            return Err(Deny::Chars { max: self.limits.chars_max, at: place.to_string() });
        }
        Ok(())
    }

    fn plain(&mut self, text: &str, shape: Shape, place: &Place<'_>, links: Links) -> Result<(), Deny> {
        let Limits { urls_max, phones_max, .. } = self.limits;
        if let Links::Count(style) = links
            && shape.links()
        {
            let stop_at = urls_max.saturating_sub(self.urls).saturating_add(1);
            self.urls = self.urls.saturating_add(urls::count(text, self.own_host, style, stop_at));
            if self.urls > urls_max {
                return Err(Deny::Urls { max: urls_max, at: place.to_string() });
            }
        }
        if shape.digits >= phones::DIGITS_MIN {
            let stop_at = phones_max.saturating_sub(self.phones).saturating_add(1);
            let counted =
                self.counter.count(text, place.name(), stop_at).map_err(|phones::TooMany| Deny::TooManyValues {
                    what: "digit groups that could be phone numbers",
                    max: usize::try_from(phones::QUESTIONS_MAX).unwrap_or(usize::MAX),
                    at: place.to_string(),
                })?;
            self.phones = self.phones.saturating_add(counted);
            if self.phones > phones_max {
                return Err(Deny::Phones { max: phones_max, at: place.to_string() });
            }
        }
        Ok(())
    }

    /// The counts so far: URLs and phone numbers.
    #[cfg(test)]
    pub(super) const fn counts(&self) -> (u32, u32) {
        (self.urls, self.phones)
    }
}
