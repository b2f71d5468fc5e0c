//! Asks the numbering plans of libphonenumber whether digits are a phone number.
//!
//! Only digits and a leading `+` are handed over, at most [`INTERNATIONAL_DIGITS_MAX`] of them: that input cannot make
//! the library slice inside a character or fail on a pattern, so nothing here guards against a panic.

use rlibphonenumber::{PHONE_NUMBER_UTIL, PhoneNumber, PhoneNumberFormat, PhoneNumberType, Region};

use super::candidate::{Gap, Group};

/// Most digits behind a `+` (E.164 has 15) with a `00` or a trunk `(0)` besides.
pub(super) const INTERNATIONAL_DIGITS_MAX: usize = 17;
/// Fewest digits of a number in national format, trunk prefix included.
pub(super) const NATIONAL_DIGITS_MIN: usize = 7;
/// Most digits of a number in national format, trunk prefix included.
pub(super) const NATIONAL_DIGITS_MAX: usize = 13;

/// Regions that are tried for a national format behind a keyword when no region is configured: where most numbers
/// are.
#[rustfmt::skip]
const PANEL: &[Region] = &[
    Region::US, Region::GB, Region::IN, Region::DE, Region::FR, Region::BR, Region::ES, Region::IT,
    Region::CN, Region::JP, Region::AU, Region::MX, Region::NL, Region::RU, Region::PL, Region::ZA,
];

/// Fewest digits behind a keyword when no region is configured: shorter ones are valid somewhere far too often.
pub(super) const PANEL_DIGITS_MIN: usize = 9;

/// Fewest digits without a trunk prefix and without a keyword.
const UNPREFIXED_DIGITS_MIN: usize = 8;

/// The regions whose national format counts.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Plan {
    regions: Vec<Home>,
}

/// A configured region and its country code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Home {
    pub(super) region: Region,
    code: String,
}

impl Home {
    /// Whether the digits, grouped as they are, may be in this region's national format at all. It costs nothing and
    /// spares the numbering plan most identifiers.
    pub(super) fn may_be_national(&self, digits: &str, groups: &[Group]) -> bool {
        if digits.starts_with('0') {
            return groups.len() > 1 || (10..=12).contains(&digits.len());
        }
        groups.len() > 1 || (self.code.len() > 1 && digits.len() > 9 && digits.starts_with(&self.code))
    }
}

impl Plan {
    /// Adds a region by its two letters; `false` when it has no numbering plan.
    pub(in super::super) fn add(&mut self, letters: &str) -> bool {
        let Ok(region) = Region::from_code(letters) else { return false };
        let Some(code) = PHONE_NUMBER_UTIL.get_country_code_for_region(region) else { return false };
        let home = Home { region, code: code.to_string() };
        if !self.regions.contains(&home) {
            self.regions.push(home);
        }
        true
    }

    /// Asks for one number of every region that may be asked for, so that no request waits for tables and patterns.
    pub(in super::super) fn warm_up(&self) {
        for region in self.regions.iter().map(|home| &home.region).chain(self.panel()) {
            if let Ok(number) = PHONE_NUMBER_UTIL.get_example_number(*region) {
                let national = number.format_as(PhoneNumberFormat::National);
                Self::is_national(&national, *region, &[], true);
            }
        }
    }

    /// The configured regions.
    pub(super) fn regions(&self) -> &[Home] {
        &self.regions
    }

    /// The regions to try behind a keyword when none is configured.
    pub(super) fn panel(&self) -> &[Region] {
        if self.regions.is_empty() { PANEL } else { &[] }
    }

    /// Whether the digits, grouped as they are, are a number in the national format of `region`.
    pub(super) fn is_national(digits: &str, region: Region, groups: &[Group], keyword: bool) -> bool {
        let Ok(number) = PHONE_NUMBER_UTIL.parse(digits, Some(region)) else { return false };
        if !number.is_valid() {
            return false;
        }
        keyword
            || if digits.starts_with('0') {
                is_written_with_trunk(&number, digits, groups)
            } else {
                is_mobile_without_plus(&number, digits)
                    || (digits.len() >= UNPREFIXED_DIGITS_MIN
                        && groups.len() > 1
                        && is_grouped_as_usual(&number, region, groups))
            }
    }
}

/// Whether the digits behind a `+` are a number.
pub(super) fn is_international(digits: &str) -> bool {
    PHONE_NUMBER_UTIL.parse(digits, None).is_ok_and(|number| number.is_valid())
}

/// With a trunk 0 the length is the evidence. Nine digits are as often a post code or an insurance number, so they must
/// be grouped as the country groups them, and not by hyphens alone; and twelve in one run are as often an order.
fn is_written_with_trunk(number: &PhoneNumber, digits: &str, groups: &[Group]) -> bool {
    match digits.len() {
        ..=9 => {
            let formatted = number.format_as(PhoneNumberFormat::National);
            groups.len() > 1
                && groups.iter().any(|group| matches!(group.gap, Gap::Space | Gap::Paren | Gap::Wide))
                && lengths(&formatted).eq(groups.iter().map(Group::len))
        }
        10 | 11 => true,
        _ => groups.len() > 1 || number.get_type() == PhoneNumberType::Mobile,
    }
}

/// The lengths of the groups of digits in a formatted number.
fn lengths(formatted: &str) -> impl Iterator<Item = usize> + '_ {
    formatted.split(|c: char| !c.is_ascii_digit()).map(str::len).filter(|length| *length > 0)
}

/// `447700900123`: a mobile number of the region as operators and messengers write it. Country codes of one digit begin
/// too many other numbers.
fn is_mobile_without_plus(number: &PhoneNumber, digits: &str) -> bool {
    let code = number.country_code.to_string();
    code.len() > 1
        && digits.strip_prefix(&code).is_some_and(|rest| rest == number.get_national_significant_number())
        && number.get_type() == PhoneNumberType::Mobile
}

/// Without a trunk prefix the groups are the evidence: they must be the ones that the country writes
/// (`415-555-2671`, not `41-5555-2671`), with or without a prefix as a group of its own. Where the country writes a
/// trunk 0, what lacks it is no national format; only Indian mobile numbers are commonly written without.
fn is_grouped_as_usual(number: &PhoneNumber, region: Region, groups: &[Group]) -> bool {
    let formatted = number.format_as(PhoneNumberFormat::National);
    let usual = || lengths(&formatted);
    let written = || groups.iter().map(Group::len);
    if formatted.trim_start_matches('(').starts_with('0') {
        let spaced = groups.iter().skip(1).all(|group| group.gap == Gap::Space);
        return region == Region::IN && number.get_type() == PhoneNumberType::Mobile && spaced && written().eq([5, 5]);
    }
    let same = usual().eq(written());
    let prefixed = written().next() == Some(1) && usual().eq(written().skip(1));
    let threes = written().eq([3, 3, 3]) && usual().sum::<usize>() == 9;
    same || prefixed || threes
}
