//! From the lines of a log to traffic.
//!
//! Counted are requests that passed: lines with a route and without a code. Status and trail say no more of it: what
//! the gateway answers itself, be it 401, 403, 404, 429 or 502, has a code.

use std::{
    borrow::Cow,
    fs::File,
    io::{BufRead, BufReader, Read, stdin},
    path::Path,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use portcullis_api::Micros;
use portcullis_plugins::quota;
use serde::Deserialize;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    log_name,
    traffic::{Request, Stage, Traffic},
};

/// Bytes of a line. The gateway writes some hundred.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Codes of requests that limits of a route refused.
const LIMITED: &[&str] = &["rate_limit.exceeded", "in_flight.exceeded", "quota.exceeded"];

/// What is read of an access line, version 1.
#[derive(Deserialize)]
struct Line<'l> {
    v: u32,
    #[serde(borrow)]
    event: Text<'l>,
    ts: Text<'l>,
    tenant: Option<Text<'l>>,
    route: Option<Text<'l>>,
    code: Option<Text<'l>>,
    dur_ms: f64,
    client: Option<Client<'l>>,
    principal: Option<Principal<'l>>,
    trail: Vec<Step<'l>>,
}

/// Borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'l>(#[serde(borrow)] Cow<'l, str>);

#[derive(Deserialize)]
struct Client<'l> {
    #[serde(borrow)]
    ip_pseudonym: Text<'l>,
}

#[derive(Deserialize)]
struct Principal<'l> {
    #[serde(borrow)]
    id_pseudonym: Text<'l>,
    key_id: Option<Text<'l>>,
}

#[derive(Deserialize)]
struct Step<'l> {
    #[serde(borrow)]
    control: Text<'l>,
}

/// Reads a log, `-` for standard input.
pub(super) fn read(log: &Path, traffic: &mut Traffic) -> anyhow::Result<()> {
    let name = log_name(log);
    if log == Path::new("-") {
        read_lines(stdin().lock(), &name, traffic)
    } else {
        let file = File::open(log).with_context(|| name.clone())?;
        read_lines(BufReader::new(file), &name, traffic)
    }
}

pub(super) fn read_lines(mut lines: impl BufRead, name: &str, traffic: &mut Traffic) -> anyhow::Result<()> {
    let before = traffic.tally.lines;
    let most = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut line = Vec::new();
    let mut number = 0_u64;
    loop {
        line.clear();
        let read = lines
            .by_ref()
            .take(most.saturating_add(1))
            .read_until(b'\n', &mut line)
            .with_context(|| name.to_owned())?;
        if read == 0 {
            break;
        }
        number = number.saturating_add(1);
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let added = if text.len() > LINE_BYTES_MAX {
            Err(anyhow!("the line is longer than {LINE_BYTES_MAX} bytes"))
        } else {
            add(text, traffic)
        };
        added.with_context(|| format!("{name}:{number}"))?;
    }
    if number == 0 {
        bail!("{name} is empty");
    }
    if traffic.tally.lines == before {
        bail!("{name} has no access line among its {number} lines");
    }
    Ok(())
}

/// What is wrong with a line, without what stands in it: that may be an address.
fn without_values(wrong: &serde_json::Error) -> String {
    let said = wrong.to_string();
    if said.starts_with("missing field") || said.starts_with("duplicate field") {
        return said;
    }
    format!("a value of another kind, before column {}", wrong.column())
}

fn add(text: &[u8], traffic: &mut Traffic) -> anyhow::Result<()> {
    let line: Line<'_> = match serde_json::from_slice(text) {
        Ok(line) => line,
        // Other JSON, or none, or an access line that is not as the gateway writes it.
        Err(wrong) => {
            let value: Value = serde_json::from_slice(text).map_err(|error| anyhow!("the line is no JSON: {error}"))?;
            if value.get("event").and_then(Value::as_str) == Some("access") {
                bail!("the access line is not as the gateway writes it: {}", without_values(&wrong));
            }
            traffic.tally.other = traffic.tally.other.saturating_add(1);
            return Ok(());
        }
    };
    let tally = &mut traffic.tally;
    if line.event.0 != "access" {
        tally.other = tally.other.saturating_add(1);
        return Ok(());
    }
    if line.v != 1 {
        bail!("an access line of version {}, and only version 1 is known", line.v);
    }
    tally.lines = tally.lines.saturating_add(1);
    if let Some(code) = &line.code {
        tally.refused = tally.refused.saturating_add(1);
        if let Some(route) = &line.route
            && LIMITED.contains(&&*code.0)
        {
            let limited = &mut traffic.routes.entry(route.0.as_ref().to_owned()).or_default().limited;
            *limited = limited.saturating_add(1);
        }
        return Ok(());
    }
    let Some(route) = &line.route else {
        tally.routeless = tally.routeless.saturating_add(1);
        return Ok(());
    };
    tally.counted = tally.counted.saturating_add(1);
    let request = request(&line, traffic)?;
    match traffic.routes.get_mut(&*route.0) {
        Some(route) => route.requests.push(request),
        None => traffic.routes.entry(route.0.as_ref().to_owned()).or_default().requests.push(request),
    }
    Ok(())
}

fn request(line: &Line<'_>, traffic: &mut Traffic) -> anyhow::Result<Request> {
    let full = || anyhow!("more than {} addresses, keys, subjects or tenants cannot be told apart", u32::MAX);
    let key_id = line.principal.as_ref().and_then(|principal| principal.key_id.as_ref());
    Ok(Request {
        at: began(&line.ts.0, line.dur_ms)?,
        client: match &line.client {
            Some(client) => Some(traffic.clients.id(&client.ip_pseudonym.0).ok_or_else(full)?),
            None => None,
        },
        api_key: match key_id {
            Some(id) => Some(traffic.api_keys.id(&id.0).ok_or_else(full)?),
            None => None,
        },
        subject: match &line.principal {
            Some(principal) => Some(traffic.subjects.id(&principal.id_pseudonym.0).ok_or_else(full)?),
            None => None,
        },
        tenant: match &line.tenant {
            Some(tenant) => Some(traffic.tenants.id(&tenant.0).ok_or_else(full)?),
            None => None,
        },
        stage: stage(&line.trail),
    })
}

/// A line is written when a request ends; limits counted it when it began.
fn began(ts: &str, dur_ms: f64) -> anyhow::Result<Micros> {
    let ended = OffsetDateTime::parse(ts, &Rfc3339).map_err(|error| anyhow!("`ts` is no time: {error}"))?;
    let ended = ended.unix_timestamp_nanos().checked_div(1000).and_then(|micros| Micros::try_from(micros).ok());
    let ended = ended.context("`ts` is before 1970")?;
    let lasted = Duration::try_from_secs_f64(dur_ms / 1000.0).map_err(|error| anyhow!("`dur_ms`: {error}"))?;
    Ok(ended.saturating_sub(Micros::try_from(lasted.as_micros()).unwrap_or(Micros::MAX)))
}

fn stage(trail: &[Step<'_>]) -> Stage {
    if trail.iter().any(|step| step.control.0 == quota::NAME.as_str()) { Stage::After } else { Stage::Before }
}

#[cfg(test)]
mod tests {
    use super::{super::traffic::Tally, *};

    const ACCESS: &str = r#"{"v":1,"ts":"2026-08-01T12:00:01.5Z","event":"access","request_id":"r","tenant":"acme","route":"a.test/orders","status":200,"code":null,"dur_ms":500.25,"client":{"ip_pseudonym":"c1","source":"peer"},"principal":{"kind":"user","issuer":"main","id_pseudonym":"s\u0031"},"trail":[{"control":"rate_limit","outcome":"pass"},{"control":"quota","outcome":"pass"}]}"#;

    fn read(text: &str) -> anyhow::Result<Traffic> {
        let mut traffic = Traffic::default();
        read_lines(text.as_bytes(), "a.jsonl", &mut traffic)?;
        Ok(traffic)
    }

    fn wrong(text: &str) -> String {
        format!("{:#}", read(text).err().unwrap())
    }

    #[test]
    fn an_access_line_is_a_request_at_its_beginning() {
        let traffic = read(ACCESS).unwrap();
        let request = traffic.routes["a.test/orders"].requests[0];
        assert_eq!(request.at, 1_785_585_600_999_750);
        assert!(request.client.is_some() && request.subject.is_some() && request.tenant.is_some());
        assert_eq!((request.api_key, request.stage), (None, Stage::After));
    }

    #[test]
    fn a_line_without_the_step_of_quota_was_not_counted_by_identity() {
        let preflight = ACCESS.replace(r#",{"control":"quota","outcome":"pass"}"#, "");
        assert_eq!(read(&preflight).unwrap().routes["a.test/orders"].requests[0].stage, Stage::Before);
    }

    #[test]
    fn refusals_and_what_has_no_route_and_other_lines_are_told_apart() {
        let with = |from: &str, to: &str| ACCESS.replace(from, to);
        let lines = [
            ACCESS.to_owned(),
            with(r#""code":null"#, r#""code":"rate_limit.exceeded""#),
            with(r#""code":null"#, r#""code":"authentication.missing""#),
            with(r#""a.test/orders""#, "null"),
            with(r#""access""#, r#""audit""#),
            r#"{"level":"INFO","event":"config.loaded","route":{"not":"a text"}}"#.to_owned(),
            "[1]".to_owned(),
            "7".to_owned(),
        ];
        let traffic = read(&lines.join("\n")).unwrap();
        assert_eq!(traffic.tally, Tally { lines: 4, counted: 1, refused: 2, routeless: 1, other: 4 });
        let route = &traffic.routes["a.test/orders"];
        assert_eq!((route.requests.len(), route.limited), (1, 1));
    }

    #[test]
    fn a_line_that_is_no_json_is_an_error_with_its_place() {
        for torn in ["{\"v\":1,", "", "plain", "{\"v\":1}}", "\u{0}"] {
            let said = wrong(&format!("{ACCESS}\n{torn}\n{ACCESS}\n"));
            assert!(said.starts_with("a.jsonl:2: the line is no JSON"), "{said}");
        }
        let mut traffic = Traffic::default();
        let not_utf8 = [ACCESS.as_bytes(), b"\n{\"event\":\"\xff\"}"].concat();
        assert!(read_lines(&*not_utf8, "a.jsonl", &mut traffic).is_err());
    }

    #[test]
    fn a_log_without_access_lines_is_an_error_that_says_so() {
        assert_eq!(wrong(""), "a.jsonl is empty");
        assert_eq!(wrong("{}\n{}"), "a.jsonl has no access line among its 2 lines");
    }

    #[test]
    fn an_access_line_that_lies_is_an_error() {
        for (from, to, word) in [
            (r#""v":1"#, r#""v":2"#, "version 2"),
            (r#""dur_ms":500.25,"#, "", "dur_ms"),
            (r#""dur_ms":500.25"#, r#""dur_ms":-1"#, "dur_ms"),
            ("2026-08-01T12:00:01.5Z", "yesterday", "`ts`"),
            ("2026-08-01T12:00:01.5Z", "1969-12-31T00:00:00Z", "1970"),
            (r#""route":"a.test/orders""#, r#""route":7"#, "not as the gateway writes it"),
        ] {
            let said = wrong(&ACCESS.replace(from, to));
            assert!(said.starts_with("a.jsonl:1: ") && said.contains(word), "{said}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_shows_no_address_of_it() {
        let said = wrong(&ACCESS.replace(r#""route":"a.test/orders""#, r#""client":"203.0.113.7""#));
        assert!(!said.contains("203.0.113"), "{said}");
    }

    #[test]
    fn a_line_of_a_mebibyte_is_read_and_one_byte_more_is_refused() {
        let padded = |length: usize| format!("{ACCESS}{}", " ".repeat(length.checked_sub(ACCESS.len()).unwrap()));
        assert!(read(&padded(LINE_BYTES_MAX)).is_ok());
        assert!(wrong(&padded(LINE_BYTES_MAX + 1)).contains("longer than 1048576 bytes"));
    }
}
