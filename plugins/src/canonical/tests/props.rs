//! What holds for every head.

use percent_encoding::percent_decode_str;
use proptest::prelude::*;

use super::*;

/// Paths made of the pieces that attacks are made of.
fn path() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
        "/",
        ".",
        "..",
        "%2e",
        "%2E",
        "%2f",
        "%5c",
        "%25",
        "2e",
        "%252e",
        "a",
        "admin",
        ";",
        "\\",
        "%00",
        "%61",
        "%c3%a9",
        "%c0%ae",
        "%c2%85",
        "%",
        "%2",
        "#",
        "?",
        "x=1",
        "%20",
        "//",
        "*",
        "é",
        "%3b",
        "+",
        "~",
        "%7f",
        "%e2%82%ac",
    ]);
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| format!("/{}", pieces.concat()))
}

fn host_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9.:\\[\\]-]{0,20}",
        "([a-zA-Z0-9-]{1,8}\\.){0,3}[a-zA-Z]{1,8}\\.?(:[0-9]{1,5})?",
        "\\[[0-9a-fA-F:.]{2,20}\\](:[0-9]{1,5})?",
        "([0-9]{1,3}\\.){3}[0-9]{1,3}",
    ]
}

proptest! {
    #[test]
    fn an_accepted_path_decoded_once_has_one_meaning(target in path()) {
        for outcome in [get(&target), H2 { path: &target, ..H2 }.read()] {
            let Ok(read) = outcome else { continue };
            prop_assert_eq!(read.origin_form(), target.as_str());
            let decoded = percent_decode_str(read.path()).decode_utf8().unwrap().into_owned();
            prop_assert_eq!(decoded.matches('/').count(), read.path().matches('/').count());
            let mut segments: Vec<_> = decoded.strip_prefix('/').unwrap().split('/').collect();
            segments.pop_if(|last| last.is_empty());
            prop_assert!(segments.iter().all(|segment| !["", ".", ".."].contains(segment)), "{}", decoded);
            prop_assert!(!decoded.chars().any(|c| c.is_control() || "\\;#?".contains(c)), "{}", decoded);
            // Decoding once more changes nothing.
            prop_assert_eq!(percent_decode_str(&decoded).decode_utf8().unwrap().into_owned(), decoded);
        }
    }

    #[test]
    fn an_accepted_host_is_a_fixed_point_and_a_host_name(text in host_text()) {
        if let Ok(read) = host(&text) {
            let again = host(read.host()).unwrap();
            prop_assert_eq!(again.host(), read.host());
            let name = portcullis_api::HostName::canonical(read.host()).unwrap();
            prop_assert_eq!(name.as_str(), read.host());
            let shouted = host(&read.host().to_ascii_uppercase()).unwrap();
            prop_assert_eq!(shouted.host(), read.host());
        }
    }

    #[test]
    fn both_protocols_read_the_same_target_and_host(target in path(), name in host_text()) {
        // A trailing blank or fragment is cut by the HTTP/1 parser; everything else must agree.
        let one = h1(format!("GET {target} HTTP/1.1\r\nHost: {name}\r\n\r\n"));
        let two = H2 { path: &target, authority: Some(&name), ..H2 }.read();
        match (one, two) {
            (Ok(one), Ok(two)) => {
                prop_assert_eq!((one.host(), one.path(), one.query()), (two.host(), two.path(), two.query()));
            }
            (one, two) => prop_assert!(one.is_err() && two.is_err(), "{:?} {:?}", one, two),
        }
    }

    #[test]
    fn any_bytes_get_an_answer(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _answer = h1(raw);
    }

    #[test]
    fn any_bytes_in_the_place_of_a_part_get_an_answer(
        target in proptest::collection::vec(any::<u8>(), 0..40),
        authority in any::<String>(),
        scheme in any::<String>(),
        name in "[!-~]{1,20}",
        value in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut headers = HeaderMap::new();
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::from_bytes(&value)) {
            headers.append(name, value);
        }
        let head = Head {
            protocol: Protocol::Http2,
            method: &Method::POST,
            raw_target: &target,
            authority: Some(&authority),
            scheme: Some(&scheme),
            headers: &headers,
            raw_h1: None,
            ended: Ended::Open,
            bounds: BOUNDS,
        };
        let _answer = canonicalise(&head);
        let mut raw = b"POST ".to_vec();
        raw.extend(&target);
        raw.extend(b" HTTP/1.1\r\nHost: ");
        raw.extend(authority.as_bytes());
        raw.extend(b"\r\nX-A: ");
        raw.extend(&value);
        raw.extend(b"\r\n\r\n");
        let _answer = h1(raw);
    }

    #[test]
    fn one_field_name_is_either_refused_or_plain(name in "[!-~]{1,24}") {
        let outcome = fields(&[&format!("{name}: v")]);
        if outcome.is_ok() {
            prop_assert!(name.split(':').next().unwrap().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
        }
    }
}
