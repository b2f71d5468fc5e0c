//! What counts and what does not, row by row.

use super::*;

#[test]
fn a_scheme_counts_with_any_host() {
    for text in [
        "http://example.com",
        "see https://localhost/x now",
        "ftp://files.example.org/a.txt",
        "ws://h:9/",
        "wss://h",
        "http://[::1]:8080/x",
        "http://user:pass@host.internal/x",
        "HTTP://EXAMPLE.COM",
        "http://10.0.0.1",
        "http:\\\\example.com",
        "experiencehttp://www.a.com/x",
        "(http://a.b/c)",
        "<a href=\"https://example.com/?a=b&c=d#e\">x</a>",
        "http://президент.рф/",
        "git+https://example.com/a.git",
        "https://example.com/a,b;c/(d)",
        "https://web.archive.org/web/2020/http://other.com/",
        "https://example.com/?next=https://other.com/",
    ] {
        assert_eq!(urls(text), 1, "{text}");
    }
}

#[test]
fn a_defanged_link_counts() {
    for text in [
        "hxxp://evil.com",
        "hxxps://evil.top/x",
        "example[.]com",
        "example(.)com",
        "example{dot}com",
        "example [dot] com",
        "visit example dot com today",
        "www dot example dot com",
        "evil[.]top",
        "hxxp[://]evil[.]top",
    ] {
        assert_eq!(urls(text), 1, "{text}");
    }
}

#[test]
fn www_counts_with_any_ending() {
    for text in [
        "www.example.com",
        "go to www.x.tld now",
        "www.Ldew.com.subs16+1win150ppmx3",
        "WWW.FOO.BAR",
        "T&Cs www.80488.biz",
    ] {
        assert_eq!(urls(text), 1, "{text}");
    }
    assert_eq!(urls("www"), 0);
    assert_eq!(urls("www."), 0);
    assert_eq!(urls("www.foo"), 0);
}

#[test]
fn a_bare_name_counts_when_its_ending_is_no_word() {
    for text in [
        "example.com",
        "buy at shop.example.net!",
        "(example.org)",
        "example.biz, ok",
        "my-site.info",
        "mit.edu",
        "80488.biz is spam",
        "x.co.uk",
        "shop.com.au.",
        "example.com:8443/x",
        "wait...example.com",
        "example.com-based",
        "Example.Com",
        "EXAMPLE.COM",
        "请访问example.com谢谢",
        "example.com\u{1f389}",
        "visit:example.com",
        "staff.science.nus.edu.sg/~x",
    ] {
        assert_eq!(urls(text), 1, "{text}");
    }
}

#[test]
fn a_bare_name_with_another_ending_needs_what_follows_a_host() {
    for text in [
        "bit.ly/abc",
        "t.co/x",
        "acme.io:8443",
        "okay.me?x",
        "docs.rs/serde",
        "youtu.be/",
        "crates.io/crates/x",
        "a.sh/install",
    ] {
        assert_eq!(urls(text), 1, "{text}");
    }
    for text in [
        "message.it",
        "okay.me",
        "README.md",
        "main.rs",
        "setup.sh",
        "a.zip",
        "Wife.how",
        "acme.io",
        "docs.rs",
        "main.rs:42",
        "src/main.rs:42:7",
        "main.rs/lib.rs",
        "user.id:42",
        "time.is:10:30",
        "okay.me? yes",
        "it.is/ was",
    ] {
        assert_eq!(urls(text), u32::from(text == "it.is/ was"), "{text}");
    }
}

#[test]
fn idn_counts() {
    for text in [
        "президент.рф",
        "xn--e1afmkfd.xn--p1ai",
        "xn--80ak6aa92e.com",
        "例子.中国",
        "bücher.example.com",
        "сайт президент.рф.",
    ] {
        assert_eq!(urls(text), 1, "{text}");
    }
    assert_eq!(urls("я пришёл.рфа"), 0);
}

#[test]
fn what_only_looks_like_a_name_does_not_count() {
    for text in [
        "me@example.com",
        "john.smith+tag@mail.example.co.uk wrote",
        "mailto:me@example.com?subject=x",
        "@example.com",
        "/a/b.sh",
        "/etc/sites/example.com",
        "C:\\dir\\file.com",
        "1.2.3",
        "v1.2.3-beta.4",
        "3.14159",
        "192.168.0.1",
        "192.168.0.1:8080",
        "10.0.0.0/8",
        "e.g. this, i.e. that",
        "Hello.World",
        "he went home.Info follows",
        "ASP.NET and VB.NET",
        "com.example.app",
        "org.example.info",
        "log.info(x)",
        "obj.method()",
        "file.tar.gz",
        "index.html",
        "a..com",
        ".com",
        "com.",
        "3.com",
        "http://",
        "http://...",
        "http:///",
        "http://<host>",
        "std::io::Error",
        "10:30",
        "foo_bar.com_baz",
        "my_name.com",
        "日本語。日本",
        "...",
        ":",
        "a:b.c:d",
        "news://x",
    ] {
        assert_eq!(urls(text), 0, "{text}");
    }
    assert_eq!(urls("192.168.0.1/admin"), 1);
}

#[test]
fn own_host_does_not_count_and_nothing_passes_for_it() {
    for text in ["https://own.example/x", "http://OWN.example", "http://own.example:8443/", "http://own.example."] {
        assert_eq!(urls(text), 0, "{text}");
    }
    for text in [
        "https://sub.own.example/",
        "https://own.example@evil.com/",
        "https://own.example\\@evil.com/",
        "https://own.example.evil.com/",
        "https://notown.example/",
    ] {
        assert_eq!(urls(text), 1, "{text}");
    }
}

#[test]
fn links_that_stand_together_are_counted_apart() {
    for (text, count) in [
        ("http://a.com http://b.com", 2),
        ("http://a.com,http://b.com", 2),
        ("http://a.comhttp://b.com", 2),
        ("http://a.com/x,b.com/y;www.c.de", 3),
        ("(http://a.com/x)(http://b.com/y)", 2),
        ("http://a.com/xhttp://b.com/y", 2),
        ("a.com,b.com;c.com|d.com\te.com\nf.com", 6),
        ("[a.com](http://b.com)", 2),
        ("http://a.com|http://b.com", 2),
        ("访问a.com或b.com", 2),
        ("http://a.com http://a.com", 2),
        ("a.com/b.com/c.com", 1),
    ] {
        assert_eq!(urls(text), count, "{text}");
    }
}

#[test]
fn keys_that_name_schemas_are_ignored_in_json_and_nowhere_else() {
    let waf = compiled(&Settings { urls_max: At::nowhere(0), ..site() });
    for body in [
        r#"{"$schema":"https://json-schema.org/draft"}"#,
        r#"{"a":{"$ref":"https://a.com/b"}}"#,
        r#"{"@context":["https://schema.org",{"x":"https://a.com"}]}"#,
        r#"{"xmlns:a":"http://a.com"}"#,
        r#"{"http://a.com":"x"}"#,
    ] {
        assert_eq!(code(json(&waf, body)), "pass", "{body}");
    }
    for body in [
        r#"{"$ref":{"note":"https://a.com"}}"#,
        r#"{"schema":"https://a.com"}"#,
        r#"{"\u0024ref":"https://a.com"}"#,
        r#"{"@context":"x","y":"https://a.com"}"#,
    ] {
        assert_eq!(code(json(&waf, body)), "waf.urls", "{body}");
    }
    let xml = |body: &str| ask(&waf, "", &[("content-type", "application/xml")], Body::Whole(body.as_bytes()));
    assert_eq!(code(xml("<a xmlns='http://a.com' xmlns:b = \"http://b.com/x\"/>")), "pass");
    assert_eq!(code(xml("<a href='http://a.com'/>")), "waf.urls");
    assert_eq!(code(xml("<a nxmlns='http://a.com'/>")), "waf.urls");
}
