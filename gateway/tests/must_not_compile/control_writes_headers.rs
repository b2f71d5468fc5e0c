//! A control reads. What it is shown of the headers is a shared reference.
//! error[E0596]: cannot borrow `*facts.headers` as mutable, as it is behind a `&` reference

use http::HeaderValue;
use portcullis_api::Facts;

fn check(facts: Facts<'_>) {
    facts.headers.insert("x-portcullis-tenant", HeaderValue::from_static("victim"));
}

fn main() {}
