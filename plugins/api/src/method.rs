//! Methods as an operator writes them: in upper case, of a closed list, and `GET` stands for `HEAD` too.

use http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

use crate::nearest;

/// Methods a route may admit (RFC 9110, RFC 5789, RFC 4918). TRACE and CONNECT are not among them.
const METHODS: &[&str] = &[
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
];

/// A method that a route may admit.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct MethodName(Method);

impl MethodName {
    /// Parses a method.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        Err(if METHODS.contains(&text) {
            return Method::from_bytes(text.as_bytes()).map(Self).map_err(|error| error.to_string());
        } else if METHODS.contains(&upper.as_str()) {
            format!("write \"{upper}\": methods are compared by case")
        } else if text == "*" {
            "list the methods; nothing that is not written is meant".to_owned()
        } else if upper == "TRACE" || upper == "CONNECT" {
            format!("{upper} is never admitted")
        } else if let Some(near) = nearest(&upper, METHODS.iter().copied()) {
            format!("did you mean \"{near}\"?")
        } else {
            format!("possible are {}", METHODS.join(", "))
        })
    }

    /// Each method once, with `HEAD` where there is `GET`: what answers the one answers the other (RFC 9110 9.3.2).
    #[must_use]
    pub fn with_head(written: impl IntoIterator<Item = Self>) -> Vec<Method> {
        let mut methods: Vec<Method> = Vec::new();
        for Self(method) in written {
            if !methods.contains(&method) {
                methods.push(method);
            }
        }
        if methods.contains(&Method::GET) && !methods.contains(&Method::HEAD) {
            methods.push(Method::HEAD);
        }
        methods
    }

    /// The method.
    #[must_use]
    pub const fn method(&self) -> &Method {
        &self.0
    }
}

impl<'de> Deserialize<'de> for MethodName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let shown = || text.chars().take(32).flat_map(char::escape_default).collect::<String>();
        Self::parse(&text).map_err(|help| de::Error::custom(format!("`{}` is no method: {help}", shown())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_written_as_requests_carry_it() {
        assert_eq!(MethodName::parse("POST").unwrap().method(), Method::POST);
        for (text, help) in [
            ("post", "write \"POST\": methods are compared by case"),
            ("PSOT", "did you mean \"POST\"?"),
            ("*", "list the methods; nothing that is not written is meant"),
            ("TRACE", "TRACE is never admitted"),
        ] {
            assert_eq!(MethodName::parse(text), Err(help.to_owned()));
        }
        assert!(MethodName::parse("").unwrap_err().starts_with("possible are GET, HEAD, POST"));
    }

    #[test]
    fn get_stands_for_head_and_head_for_itself() {
        let of = |names: &[&str]| MethodName::with_head(names.iter().map(|name| MethodName::parse(name).unwrap()));
        assert_eq!(of(&["GET"]), [Method::GET, Method::HEAD]);
        assert_eq!(of(&["HEAD", "GET"]), [Method::HEAD, Method::GET]);
        assert_eq!(of(&["HEAD"]), [Method::HEAD]);
        assert_eq!(of(&["PUT", "PUT"]), [Method::PUT]);
    }
}
