//! Time is handed in.

/// Microseconds of a monotonic clock whose zero is the start of the process.
pub type Micros = u64;
/// Seconds since 1970-01-01 UTC.
pub type UnixSeconds = u64;

/// The two clocks a control may need.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic: never goes back.
    fn now(&self) -> Micros;
    /// The wall clock, for token times.
    fn unix(&self) -> UnixSeconds;
}
