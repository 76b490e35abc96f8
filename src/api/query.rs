//! What a request's target and headers ask for: percent-decoding, query parameters, conditions, idempotency keys. Strict:
//! what is not understood is refused, so that a misspelt `If-Match` or `?timeout` is never ignored.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use bytes::Bytes;

use super::Problem;
use crate::kv::{Condition, IdempotencyKey};
use crate::types::{LogIndex, Revision};

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write that was acknowledged before the read began.
    #[default]
    Linearizable,
    /// What this node has applied, however old; answered even without a leader.
    Stale,
}

/// The query parameters that any request may have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) key: Option<Bytes>,
    pub(super) value: Option<Bytes>,
    pub(super) consistency: Consistency,
    pub(super) timeout: Option<Duration>,
    pub(super) expected: Option<LogIndex>,
    /// Version 2 of the encoding of commands is asked for, which only tests of upgrades do.
    pub(super) is_encoding_2: bool,
}

impl Parameters {
    /// Parses a query; `known` are the parameters that this route takes.
    pub(super) fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut parameters = Self::default();
        let mut seen = 0_u32;
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode_text(name)?;
            let Some(place) = known.iter().position(|known| *known == name) else {
                return Err(unknown(&name, known));
            };
            if seen & (1 << place) != 0 {
                return Err(Problem::bad_request(format!("query parameter `{name}` is given twice")));
            }
            seen |= 1 << place;
            let value = decode_text(value)?;
            match known[place] {
                "key" => parameters.key = Some(value.into_owned().into()),
                "value" => parameters.value = Some(value.into_owned().into()),
                "consistency" => parameters.consistency = parse_consistency(&value)?,
                "expected" => {
                    let index = parse_number(&value).map(LogIndex);
                    let wrong = || Problem::bad_request("`expected` is not the index of a configuration");
                    parameters.expected = Some(index.ok_or_else(wrong)?);
                }
                "encoding" => parameters.is_encoding_2 = parse_encoding(&value)?,
                "timeout" => parameters.timeout = Some(parse_timeout(&value)?),
                _ => return Err(unknown(&name, known)),
            }
        }
        Ok(parameters)
    }
}

fn unknown(name: &str, known: &[&str]) -> Problem {
    let known = if known.is_empty() { "none".into() } else { known.join(", ") };
    Problem::bad_request(format!("unknown query parameter `{name}`; known here: {known}"))
}

fn parse_consistency(value: &str) -> Result<Consistency, Problem> {
    match value {
        "linearizable" => Ok(Consistency::Linearizable),
        "stale" => Ok(Consistency::Stale),
        _ => Err(Problem::bad_request("`consistency` is neither `linearizable` nor `stale`")),
    }
}

/// `1` or `2`; true for 2.
fn parse_encoding(value: &str) -> Result<bool, Problem> {
    match value {
        "1" => Ok(false),
        "2" => Ok(true),
        _ => Err(Problem::bad_request("`encoding` is neither `1` nor `2`")),
    }
}

/// `2s` or `500ms`, more than zero.
fn parse_timeout(value: &str) -> Result<Duration, Problem> {
    let (digits, unit): (_, fn(u64) -> Duration) = match value.strip_suffix("ms") {
        Some(digits) => (digits, Duration::from_millis),
        None => (value.strip_suffix('s').unwrap_or(""), Duration::from_secs),
    };
    parse_number(digits)
        .filter(|number| *number > 0)
        .map(unit)
        .ok_or_else(|| Problem::bad_request("`timeout` is not a duration such as `2s` or `500ms`"))
}

/// Digits only: `parse` alone would take a sign.
fn parse_number(digits: &str) -> Option<u64> {
    if digits.starts_with('+') { None } else { digits.parse().ok() }
}

/// One name or value of a query, as forms encode it: `+` is a space; UTF-8.
fn decode_text(text: &str) -> Result<Cow<'_, str>, Problem> {
    match decode(text.as_bytes(), true)? {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).ok(),
        Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).ok(),
    }
    .ok_or_else(|| Problem::bad_request("the query is not UTF-8"))
}

/// The key of a `/v1/kv/{key}` path: any bytes; slashes may be encoded or not.
pub(super) fn decode_key(path: &str) -> Result<Bytes, Problem> {
    Ok(match decode(path.as_bytes(), false)? {
        Cow::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
        Cow::Owned(bytes) => bytes.into(),
    })
}

/// Percent-decodes; a `%` without two hex digits is an error rather than itself.
fn decode(text: &[u8], plus_is_space: bool) -> Result<Cow<'_, [u8]>, Problem> {
    let is_plain = |byte: u8| byte != b'%' && !(plus_is_space && byte == b'+');
    let Some(first) = text.iter().position(|byte| !is_plain(*byte)) else {
        return Ok(Cow::Borrowed(text));
    };
    let mut decoded = Vec::with_capacity(text.len());
    decoded.extend_from_slice(&text[..first]);
    let mut rest = &text[first..];
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if is_plain(*byte) {
            decoded.push(*byte);
        } else if *byte == b'+' {
            decoded.push(b' ');
        } else {
            let pair = tail.first_chunk::<2>().and_then(|[high, low]| Some(hex(*high)? << 4 | hex(*low)?));
            decoded.push(pair.ok_or_else(|| Problem::bad_request("`%` is not followed by two hex digits"))?);
            rest = &tail[2..];
        }
    }
    Ok(Cow::Owned(decoded))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// The condition that `If-Match` or `If-None-Match` puts on a write (RFC 9110, 13.1).
pub(super) fn parse_condition(headers: &HeaderMap) -> Result<Condition, Problem> {
    let if_match = single(headers, &header::IF_MATCH)?;
    let if_none_match = single(headers, &header::IF_NONE_MATCH)?;
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::Always),
        (Some(value), None) if value == "*" => Ok(Condition::Present),
        (Some(value), None) => parse_etag(value)
            .map(Condition::ModRevision)
            .ok_or_else(|| Problem::bad_request("`If-Match` is neither `*` nor one quoted revision")),
        (None, Some(value)) if value == "*" => Ok(Condition::Absent),
        (None, Some(_)) => Err(Problem::bad_request("`If-None-Match` of a write is not `*`")),
        (Some(_), Some(_)) => Err(Problem::bad_request("`If-Match` and `If-None-Match` do not go together")),
    }
}

/// Names a request, so that repeating it does nothing more (IETF draft "The Idempotency-Key HTTP Header Field").
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The key that [`IDEMPOTENCY_KEY`] gives: 1 to 64 visible ASCII characters, quoted as a string of RFC 8941 (3.3.3) or
/// bare.
pub(super) fn parse_idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(value) = single(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    let key = match value.as_bytes() {
        [b'"', quoted @ ..] => unquote(quoted),
        bare => Some(bare.to_vec()),
    };
    key.filter(|key| key.iter().all(u8::is_ascii_graphic))
        .and_then(|key| IdempotencyKey::new(key).ok())
        .map(Some)
        .ok_or_else(|| Problem::bad_request("`Idempotency-Key` is not 1 to 64 visible ASCII characters"))
}

/// What a quoted string holds, from behind the opening quote to the closing one; only quotes and backslashes are
/// escaped.
fn unquote(text: &[u8]) -> Option<Vec<u8>> {
    let mut rest = text.strip_suffix(b"\"")?;
    let mut content = Vec::with_capacity(rest.len());
    while let [byte, tail @ ..] = rest {
        let (byte, tail) = match (byte, tail) {
            (b'\\', [escaped @ (b'"' | b'\\'), tail @ ..]) => (escaped, tail),
            (b'\\' | b'"', _) => return None,
            _ => (byte, tail),
        };
        content.push(*byte);
        rest = tail;
    }
    Some(content)
}

/// The reverse of [`parse_idempotency_key`]; `None` if the key is not visible ASCII.
pub(super) fn quote(key: &IdempotencyKey) -> Option<HeaderValue> {
    if !key.as_bytes().iter().all(u8::is_ascii_graphic) {
        return None;
    }
    let mut quoted = vec![b'"'];
    for byte in key.as_bytes() {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(*byte);
    }
    quoted.push(b'"');
    HeaderValue::from_bytes(&quoted).ok()
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Problem::bad_request(format!("header `{name}` is given twice")));
    }
    Ok(first)
}

/// `"<revision>"`, the form in which `ETag` gives it.
fn parse_etag(value: &HeaderValue) -> Option<Revision> {
    let quoted = value.to_str().ok()?.strip_prefix('"')?.strip_suffix('"')?;
    parse_number(quoted).map(Revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 4] = ["key", "value", "consistency", "timeout"];

    fn detail(result: Result<Parameters, Problem>) -> String {
        let problem = result.unwrap_err();
        assert_eq!((problem.status, &problem.code[..]), (400, "bad_request"));
        problem.detail.into_owned()
    }

    #[test]
    fn a_query_is_decoded_as_forms_are() {
        let parameters = Parameters::parse(Some("key=a%2Fb+c&value=1%2C2,3=4&&timeout=500ms"), &ALL).unwrap();
        assert_eq!(parameters.key.as_deref(), Some(&b"a/b c"[..]));
        assert_eq!(parameters.value.as_deref(), Some(&b"1,2,3=4"[..]));
        assert_eq!(parameters.timeout, Some(Duration::from_millis(500)));
        assert_eq!(parameters.consistency, Consistency::Linearizable);
        assert_eq!(Parameters::parse(None, &[]), Ok(Parameters::default()));
        let parameters = Parameters::parse(Some("key&value=&consistency=stale&timeout=2s"), &ALL).unwrap();
        assert_eq!(parameters.key.as_deref(), Some(&b""[..]));
        assert_eq!(parameters.value.as_deref(), Some(&b""[..]));
        assert_eq!(parameters.consistency, Consistency::Stale);
        assert_eq!(parameters.timeout, Some(Duration::from_secs(2)));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let refused = |query: &str| detail(Parameters::parse(Some(query), &ALL));
        assert_eq!(
            refused("kye=a"),
            "unknown query parameter `kye`; known here: key, value, consistency, timeout"
        );
        assert_eq!(refused("key=a&key=b"), "query parameter `key` is given twice");
        assert_eq!(refused("key=%ff"), "the query is not UTF-8");
        for bad in ["key=%", "key=%4", "key=%4g", "key=%+1"] {
            assert_eq!(refused(bad), "`%` is not followed by two hex digits", "{bad}");
        }
        let bad = "`consistency` is neither `linearizable` nor `stale`";
        assert_eq!(refused("consistency=strong"), bad);
        for bad in ["", "2", "s", "ms", "0s", "-1s", "%2B1s", "1.5s", "1m", "99999999999999999999s"] {
            let query = format!("timeout={bad}");
            assert_eq!(refused(&query), "`timeout` is not a duration such as `2s` or `500ms`", "{bad}");
        }
        let none = detail(Parameters::parse(Some("key=a"), &[]));
        assert_eq!(none, "unknown query parameter `key`; known here: none");
    }

    #[test]
    fn a_key_in_a_path_is_any_bytes() {
        assert_eq!(decode_key("a/b%2Fc%00%ff+").unwrap(), &b"a/b/c\0\xff+"[..]);
        assert!(decode_key("a%").is_err());
    }

    #[test]
    fn an_idempotency_key_is_bare_or_quoted() {
        let parse = |value: &[u8]| {
            let value = HeaderValue::from_bytes(value).unwrap();
            parse_idempotency_key(&HeaderMap::from_iter([(IDEMPOTENCY_KEY, value)]))
        };
        let key = |text: &str| Ok(Some(IdempotencyKey::new(text.to_owned()).unwrap()));
        assert_eq!(parse_idempotency_key(&HeaderMap::new()), Ok(None));
        let long = "k".repeat(64);
        for (value, name) in [
            ("8e03978e-40d5-43dd", "8e03978e-40d5-43dd"),
            ("\"8e03978e-40d5-43dd\"", "8e03978e-40d5-43dd"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (r"a\b", r"a\b"),
            (&long, &long),
        ] {
            assert_eq!(parse(value.as_bytes()), key(name), "{value}");
            assert_eq!(parse(quote(&key(name).unwrap().unwrap()).unwrap().as_bytes()), key(name));
        }
        let quoted = format!("\"{long}k\"");
        let long = format!("{long}k");
        for bad in
            ["", "\"\"", "\"", "\"a", "\"a\"b\"", r#""a\""#, r#""a\b""#, "a b", "\"a b\"", &long, &quoted]
        {
            let problem = parse(bad.as_bytes()).unwrap_err();
            assert_eq!(problem.detail, "`Idempotency-Key` is not 1 to 64 visible ASCII characters", "{bad}");
        }
        assert!(parse(b"\xc3\xa4").is_err());
        assert_eq!(quote(&IdempotencyKey::new(&b"\xff"[..]).unwrap()), None);
        let twice = [(IDEMPOTENCY_KEY, "a".parse().unwrap()), (IDEMPOTENCY_KEY, "a".parse().unwrap())];
        assert!(parse_idempotency_key(&HeaderMap::from_iter(twice)).is_err());
    }

    fn condition(headers: &[(HeaderName, &'static str)]) -> Result<Condition, String> {
        let headers =
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        parse_condition(&headers).map_err(|problem| problem.detail.into_owned())
    }

    #[test]
    fn conditions_come_from_headers() {
        let (yes, no) = (header::IF_MATCH, header::IF_NONE_MATCH);
        assert_eq!(condition(&[]), Ok(Condition::Always));
        assert_eq!(condition(&[(yes.clone(), "*")]), Ok(Condition::Present));
        assert_eq!(condition(&[(yes.clone(), "\"12\"")]), Ok(Condition::ModRevision(Revision(12))));
        assert_eq!(condition(&[(no.clone(), "*")]), Ok(Condition::Absent));
        for bad in ["12", "W/\"12\"", "\"1\",\"2\"", "\"\"", "\"", "\"-1\"", "\"+1\"", ""] {
            let answer = condition(&[(yes.clone(), bad)]);
            assert_eq!(answer, Err("`If-Match` is neither `*` nor one quoted revision".into()), "{bad}");
        }
        assert!(condition(&[(no.clone(), "\"1\"")]).is_err());
        assert!(condition(&[(no.clone(), "*"), (yes, "*")]).is_err());
        assert!(condition(&[(no.clone(), "*"), (no, "*")]).is_err());
    }
}
