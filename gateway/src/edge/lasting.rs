//! Exchanges that last: one can be ended from outside while client and upstream are both silent.
//!
//! Pingora polls nothing of ours while it waits for either side. So each exchange runs inside a future of the edge, which a
//! filter can tell to end it: [`end_when`]. An exchange that is ended is dropped where it stands. Over HTTP/1 that closes the
//! connection; over HTTP/2 it resets the stream (`CANCEL`), and the other streams of the connection go on. The same holds for
//! the upstream.

use std::{cell::RefCell, future::poll_fn, pin::Pin, sync::Arc, task::Poll};

use async_trait::async_trait;
use pingora_core::{
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream},
    protocols::http::{ServerSession, v2::server::H2Options},
    server::ShutdownWatch,
};

type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

tokio::task_local! {
    /// When to end the exchange of this task. Nothing is made for one that is not told.
    static ENDING: RefCell<Option<Ending>>;
}

/// Ends the exchange that is being handled once this is done. Told twice, the last one counts. False outside of one.
pub(crate) fn end_when(ending: impl Future<Output = ()> + Send + 'static) -> bool {
    ENDING.try_with(|slot| *slot.borrow_mut() = Some(Box::pin(ending))).is_ok()
}

/// A proxy whose exchanges can be ended.
pub(crate) struct Lasting<A>(pub(super) Arc<A>);

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> HttpServerApp for Lasting<A> {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let mut exchange = self.0.process_new_http(session, shutdown);
        let step = poll_fn(move |cx| {
            let ends = |cx: &mut std::task::Context<'_>| {
                ENDING.with(|slot| slot.borrow_mut().as_mut().map(|ending| ending.as_mut().poll(cx)))
            };
            // First: not one byte more passes once it is over.
            if matches!(ends(cx), Some(Poll::Ready(()))) {
                return Poll::Ready(None);
            }
            if let Poll::Ready(reused) = exchange.as_mut().poll(cx) {
                return Poll::Ready(reused);
            }
            // One that was told just now was never polled; and one that is done must not be polled again.
            match ends(cx) {
                Some(Poll::Ready(())) => Poll::Ready(None),
                Some(Poll::Pending) | None => Poll::Pending,
            }
        });
        ENDING.scope(RefCell::new(None), step).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.0.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.0.server_options()
    }

    /// Invariant: forwarded, else idle connections outlive a shutdown.
    async fn http_cleanup(&self) {
        self.0.http_cleanup().await;
    }
}
