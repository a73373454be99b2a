//! The clients a scenario is about, where others chat meanwhile: they have a thread of their own, so
//! that what they do delays the chatting in the relay and not in the tester.

use tokio::runtime::{Builder, Runtime};

use super::Failure;

/// Threads of the crowd.
pub(super) const THREADS: u64 = 1;

/// The crowd's runtime. Whatever connects in it lives in it.
pub(crate) struct Crowd(Option<Runtime>);

impl Crowd {
    pub(super) fn new() -> Result<Self, Failure> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS as usize)
            .thread_name("crowd")
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// Does something there, and waits for it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let runtime = self.0.as_ref().expect("it runs until it is dropped");
        runtime.spawn(work).await.expect("the crowd never panics")
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A runtime may not wait for its threads inside another one.
            runtime.shutdown_background();
        }
    }
}
