//! Which branches of the fuzzed crate a run took. `fuzz/instrument` has them counted; without it there are no counters, and
//! only what a target says of its outcome tells one input from another.

use std::sync::atomic::{AtomicPtr, Ordering};

static START: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static END: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());

#[expect(unsafe_code, reason = "the name is LLVM's, which calls it before `main`; nothing else has it")]
mod hook {
    use super::{END, Ordering, START};

    /// Tells where the counters are. One crate is instrumented, in one unit, so there is one section of them.
    #[unsafe(no_mangle)]
    pub(super) extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, end: *mut u8) {
        START.store(start, Ordering::Relaxed);
        END.store(end, Ordering::Relaxed);
    }
}

/// What has been reached so far: of each branch, in which of eight classes of how often.
pub(crate) struct Coverage {
    seen: Vec<u8>,
}

impl Coverage {
    pub(crate) fn new() -> Self {
        Self { seen: vec![0; count()] }
    }

    /// Whether the fuzzed crate counts its branches at all.
    pub(crate) fn is_measured(&self) -> bool {
        !self.seen.is_empty()
    }

    /// How many branches have been taken.
    pub(crate) fn taken(&self) -> usize {
        self.seen.iter().filter(|seen| **seen != 0).count()
    }

    /// Reads the counters of one run and sets them back; whether something was new.
    pub(crate) fn take(&mut self) -> bool {
        let mut news = false;
        for (at, seen) in self.seen.iter_mut().enumerate() {
            let class = match read_and_clear(at) {
                0 => continue,
                1 => 1,
                2 => 2,
                3 => 4,
                4..=7 => 8,
                8..=15 => 16,
                16..=31 => 32,
                32..=127 => 64,
                128.. => 128,
            };
            news |= *seen & class == 0;
            *seen |= class;
        }
        news
    }
}

fn count() -> usize {
    let (start, end) = (START.load(Ordering::Relaxed), END.load(Ordering::Relaxed));
    end.addr().saturating_sub(start.addr())
}

#[expect(unsafe_code, reason = "the counters are a section of this process that only one thread writes to")]
fn read_and_clear(at: usize) -> u8 {
    assert!(at < count());
    let counter = START.load(Ordering::Relaxed).wrapping_add(at);
    // SAFETY: `counter` lies within the section that LLVM named, and the run that counted in it is over: volatile, since
    // the compiler does not see that run write here.
    unsafe {
        let value = counter.read_volatile();
        counter.write_volatile(0);
        value
    }
}
