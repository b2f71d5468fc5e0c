//! The words before a candidate, and the name of its field.

use super::super::text::{before, char_before, part};

/// What the surroundings say of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    /// A word such as "call" or "tel": what follows is a phone number if it can be one.
    Phone,
    /// A word such as "order" or "invoice": what follows is some other number.
    Other,
    /// Neither.
    None,
}

/// How far back words are looked at, in bytes and in words.
const BYTES_BACK: usize = 48;
const WORDS_BACK: usize = 4;

impl Context {
    /// A word that announces a phone number may stand a few words before it ("call us now on"); one that announces
    /// another number stands right before it ("order no. 12"). The nearest decides, then the name of the field.
    pub(super) fn before(text: &str, start: usize, keyword_glued: bool, name: Option<&str>) -> Self {
        if keyword_glued {
            return Self::Phone;
        }
        let mut at = start;
        let mut adjacent = true;
        for _ in 0..WORDS_BACK {
            at = skip_between(text, at, start.saturating_sub(BYTES_BACK));
            let word = word_before(text, at);
            if word.is_empty() {
                break;
            }
            at = at.saturating_sub(word.len());
            if is_keyword(word) {
                return Self::Phone;
            }
            if adjacent && is_other(word) {
                return Self::Other;
            }
            adjacent &= listed(FILLERS, word);
        }
        name.map_or(Self::None, of_name)
    }
}

/// `phone`, `contactPhone`, `billing_tel`, `mobile-number`; `order_id`, `invoiceNumber`.
fn of_name(name: &str) -> Context {
    let mut other = false;
    for word in name.split(|c: char| !c.is_alphanumeric()).flat_map(camel_words) {
        if is_keyword(word) {
            return Context::Phone;
        }
        other |= is_other(word);
    }
    if other { Context::Other } else { Context::None }
}

/// Splits before each capital that follows a small letter.
fn camel_words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let cut = rest
            .char_indices()
            .zip(rest.char_indices().skip(1))
            .find(|((_, a), (_, b))| a.is_lowercase() && b.is_uppercase())
            .map_or(rest.len(), |(_, (at, _))| at);
        let (word, tail) = rest.split_at_checked(cut)?;
        rest = tail;
        Some(word)
    })
}

/// Skips what stands between words, on the same line and not before `limit`.
fn skip_between(text: &str, mut at: usize, limit: usize) -> usize {
    while at > limit {
        match char_before(text, at) {
            Some(c) if !c.is_alphabetic() && c != '\n' => at = at.saturating_sub(c.len_utf8()),
            Some(_) | None => break,
        }
    }
    at
}

/// Longest word that is looked at.
const WORD_BYTES_MAX: usize = 32;

/// The word that ends at `end`; empty when there is none.
pub(super) fn word_before(text: &str, end: usize) -> &str {
    let mut start = end;
    while end.saturating_sub(start) < WORD_BYTES_MAX {
        match char_before(text, start) {
            Some(c) if c.is_alphabetic() || (c == '\'' && before(text.as_bytes(), start) == b'\'') => {
                start = start.saturating_sub(c.len_utf8());
            }
            Some(_) | None => break,
        }
    }
    part(text, start..end)
}

/// Whether the word announces a phone number.
pub(super) fn is_keyword(word: &str) -> bool {
    listed(KEYWORDS, word) || CJK_KEYWORDS.iter().any(|keyword| word.ends_with(keyword))
}

fn is_other(word: &str) -> bool {
    listed(OTHERS, word)
}

fn listed(words: &[&str], word: &str) -> bool {
    if word.is_ascii() {
        return words.iter().any(|known| known.eq_ignore_ascii_case(word));
    }
    let lower = word.to_lowercase();
    words.contains(&lower.as_str())
}

/// Words in the languages whose speakers write national numbers most.
#[rustfmt::skip]
const KEYWORDS: &[&str] = &[
    "call", "calls", "called", "calling", "caller", "callback", "ring", "dial", "phone", "phones", "ph", "tel",
    "tele", "telephone", "fone", "mob", "mobile", "cell", "cellphone", "cellular", "landline", "hotline",
    "helpline", "whatsapp", "viber", "sms", "txt", "text", "texts", "texting", "msg", "fax", "handy", "telefon",
    "mobil", "anrufen", "téléphone", "tél", "portable", "appelez", "appeler", "teléfono", "telefono", "móvil",
    "celular", "llame", "llamar", "llama", "chiama", "chiamare", "cellulare", "telefone", "ligue", "telemóvel",
    "telefoon", "bel", "zadzwoń", "телефон", "тел", "звоните", "моб", "हेल्पलाइन", "फोन",
];

/// The same in scripts without spaces, where the word before the number may be part of a longer run.
#[rustfmt::skip]
const CJK_KEYWORDS: &[&str] = &[
    "电话", "電話", "手机", "手機", "致电", "热线", "전화", "연락처", "携帯", "โทร"
];

/// Words that may stand between a number and the word that announces it.
const FILLERS: &[&str] =
    &["number", "numbers", "no", "nos", "num", "nr", "code", "is", "was", "of", "the", "your", "our", "key"];

/// Words that announce a number of another kind.
#[rustfmt::skip]
const OTHERS: &[&str] = &[
    "order", "orders", "invoice", "inv", "ref", "reference", "id", "ids", "uid", "uuid", "account", "acct", "sku",
    "isbn", "issn", "ean", "upc", "gtin", "asin", "serial", "ticket", "case", "tracking", "parcel", "shipment",
    "part", "model", "booking", "confirmation", "po", "card", "visa", "mastercard", "amex", "iban", "bic", "swift",
    "sort", "routing", "vat", "tax", "ssn", "ein", "passport", "licence", "license", "policy", "transaction", "txn",
    "imei", "batch", "lot", "version", "build", "commit", "epoch", "timestamp", "unix", "lat", "lon", "lng",
    "latitude", "longitude", "coordinates", "member", "membership", "employee", "customer", "student", "meter",
    "barcode", "zip", "postcode", "pin", "otp", "voucher", "coupon", "receipt", "quote", "article", "item",
    "product", "bestellung", "rechnung", "kundennummer", "commande", "facture", "pedido", "factura",
];
