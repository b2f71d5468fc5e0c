//! Ways to hide a link or a number, each of which must count once.

use super::*;

#[test]
fn a_hidden_link_counts_once() {
    for text in [
        "%68%74%74%70%3a%2f%2fevil.com",
        "http%3A%2F%2Fevil.com",
        "http%253A%252F%252Fevil.com",
        "evil%2Ecom",
        "evil%252Ecom",
        "evil%E3%80%82com",
        r"\u0068ttp://evil.com",
        r"http:\u002f\u002fevil.com",
        r"http:\/\/evil.com",
        r"evil\u002ecom",
        r"\x68ttp://evil.com",
        "&#104;&#116;&#116;&#112;://evil.com",
        "&#x68;ttp&#58;//evil.com",
        "http&colon;&sol;&sol;evil.com",
        "evil&period;com",
        "evil&#46;com",
        "evil&amp;#46;com",
        "evil\u{200b}.com",
        "evil.\u{200b}com",
        "e\u{200d}v\u{2060}i\u{feff}l.com",
        "ht\u{ad}tp://evil.com",
        "evil\u{ff0e}com",
        "evil\u{3002}com",
        "evil\u{ff61}com",
        "evil\u{2024}com",
        "\u{ff45}\u{ff56}\u{ff49}\u{ff4c}.\u{ff43}\u{ff4f}\u{ff4d}",
        "\u{ff48}\u{ff54}\u{ff54}\u{ff50}\u{ff1a}\u{ff0f}\u{ff0f}evil.com",
        "\u{1d425}\u{1d428}\u{1d42f}\u{1d41e}.\u{1d41c}\u{1d428}\u{1d426}",
        "\u{24d4}\u{24e5}\u{24d8}\u{24db}.com",
        "h\0t\0t\0p\0:\0/\0/\0e\0v\0i\0l\0.\0c\0o\0m\0",
        "hxxp://evil.com",
        "hXXps://evil.com",
        "h**p://evil.com",
        "evil[.]com",
        "evil[dot]com",
        "evil(dot)com",
        "evil{.}com",
        "evil [.] com",
        "evil [ dot ] com",
        "evil dot com",
        "EVIL DOT COM",
        "shop dot evil dot co dot uk",
        "hxxp[:]//evil[.]com",
        "hxxps[://]evil[.]ru/x",
        "http:/\\evil.com",
        "http:\\\\evil.com",
        "http:////evil.com",
        "http://user@evil.com",
        "xn--e1afmkfd.xn--p1ai",
        "президент\u{3002}рф",
        "buyhttp://evil.com",
        "EVIL.COM",
        "evil.com.",
    ] {
        assert_eq!(urls(text), 1, "{text}");
    }
}

#[test]
fn a_hidden_number_counts_once() {
    for text in [
        "\u{ff0b}\u{ff14}\u{ff14}2079460018",
        "+٤٤ ٢٠ ٧٩٤٦ ٠٠١٨",
        "+४४ २० ७९४६ ००१८",
        "+44\u{200b}20\u{200b}7946\u{200b}0018",
        "+44\u{a0}20\u{a0}7946\u{a0}0018",
        "+44\u{2011}20\u{2013}7946\u{2212}0018",
        "+\u{1d7d2}\u{1d7d2}2079460018",
        "+4\u{fe0f}\u{20e3}4\u{fe0f}\u{20e3}2079460018",
        "+\u{2463}\u{2463}2079460018",
        "%2B442079460018",
        "&#43;442079460018",
        "&plus;442079460018",
        r"\u002b442079460018",
        "+44&nbsp;20&nbsp;7946&nbsp;0018",
        "+44%2020%207946%200018",
    ] {
        assert_eq!(phones(text, &[]), 1, "{text}");
    }
}

#[test]
fn a_mail_address_in_disguise_is_still_one() {
    for text in ["me[at]example[.]com", "me%40example.com", "me(at)example(dot)com", "me\u{ff20}example.com"] {
        assert_eq!(urls(text), 0, "{text}");
    }
}
