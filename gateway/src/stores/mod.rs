//! State that several gateways share. What is kept in one process only lives with its control, in `plugins`.

pub(crate) mod redis;
