//! The one thread that owns the model, and what it is asked to do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::{oneshot, watch};

use super::error::{ApiError, Result};
use super::images::{Encoding, Images, Pending, Picture};
use super::queue::{Job, Priority, Queue, Refused};
use crate::models::Embedding;
use crate::{CancelToken, Model, Progress, Run};

/// Runs jobs one after the other, urgent ones first.
pub struct Engine {
    worker: Arc<Worker>,
    images: Arc<Images>,
}

/// What the metrics show.
#[derive(Default)]
pub struct Figures {
    /// Images encoded.
    pub encodes: AtomicU64,
    /// Microseconds spent encoding.
    pub encode_us: AtomicU64,
    /// Jobs done, encodes included.
    pub jobs: AtomicU64,
    /// Microseconds spent on jobs.
    pub job_us: AtomicU64,
    /// Jobs refused because the queue was full.
    pub refused: AtomicU64,
    /// Jobs that panicked.
    pub panics: AtomicU64,
}

/// What a job finds on the engine's thread.
pub struct Worker {
    /// The model.
    pub model: Model,
    queue: Queue<Self>,
    figures: Figures,
}

impl Worker {
    /// Runs the decodes that wait: for long work to call between its steps. Those that come
    /// meanwhile wait for the next step, or the long work would not go on.
    pub fn breathe(&self) {
        let (urgent, _) = self.queue.len();
        for _ in 0..urgent {
            if let Some(job) = self.queue.pop_urgent() {
                self.execute(job);
            }
        }
    }

    fn execute(&self, job: Job<Self>) {
        let start = Instant::now();
        // Whoever waits for the job sees its channel closed.
        if catch_unwind(AssertUnwindSafe(|| (job.work)(self))).is_err() {
            self.figures.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!("a job panicked; the engine goes on");
        }
        self.figures.jobs.fetch_add(1, Ordering::Relaxed);
        add_elapsed(&self.figures.job_us, start);
    }
}

/// Makes this thread one of a pool of its own. From outside a pool, each product of a decode would put the
/// thread to sleep and wake others.
fn join_pool() -> Option<ThreadPool> {
    let threads = rayon::current_num_threads();
    let pool = ThreadPoolBuilder::new().num_threads(threads);
    let pool = pool.use_current_thread().build();
    pool.inspect_err(|error| tracing::warn!("the engine uses the shared pool of threads: {error}"))
        .ok()
}

fn add_elapsed(total: &AtomicU64, start: Instant) {
    total.fetch_add(start.elapsed().as_micros() as u64, Ordering::Relaxed);
}

/// Cancels when it goes out of scope: a client that hangs up drops the future that holds it.
struct CancelOnDrop(CancelToken);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Engine {
    /// Starts the thread; it ends when the engine is closed and its queue is empty.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(
        model: Model,
        images: Arc<Images>,
        capacity: usize,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let worker = Arc::new(Worker {
            model,
            queue: Queue::new(capacity),
            figures: Figures::default(),
        });
        let engine = Self {
            worker: Arc::clone(&worker),
            images,
        };
        let work = move || {
            let _pool = worker.model.device().is_cpu().then(join_pool);
            while let Some(job) = worker.queue.pop() {
                worker.execute(job);
            }
        };
        let thread = std::thread::Builder::new().name("sam3-engine".into());
        Ok((engine, thread.spawn(work)?))
    }

    /// The model, for what needs no computation.
    pub fn model(&self) -> &Model {
        &self.worker.model
    }

    /// Figures for the metrics.
    pub fn figures(&self) -> &Figures {
        &self.worker.figures
    }

    /// Jobs that wait: urgent, patient.
    pub fn waiting(&self) -> (usize, usize) {
        self.worker.queue.len()
    }

    /// Takes no more jobs, finishes those that wait.
    pub fn close(&self) {
        self.worker.queue.close();
    }

    /// Runs `work` on the engine's thread. A caller that stops waiting cancels it: before it
    /// starts it is dropped, after that `work` sees the token.
    ///
    /// # Errors
    /// 429 when too much waits, 503 when the server shuts down, and those of `work`.
    pub async fn run<T, F>(&self, priority: Priority, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Worker, &CancelToken) -> Result<T> + Send + 'static,
    {
        let cancel = CancelToken::default();
        let _guard = CancelOnDrop(cancel.clone());
        let (done, result) = oneshot::channel();
        let token = cancel.clone();
        self.push(priority, cancel, move |worker| {
            // A receiver that is gone has cancelled.
            let _ = done.send(work(worker, &token));
        })?;
        result.await.unwrap_or_else(|_| Err(ApiError::internal()))
    }

    /// The picture's embedding, encoded once however many ask. When the last one who waits is
    /// gone, the encode stops.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub async fn encode(&self, picture: &Arc<Picture>) -> Result<Arc<Embedding>> {
        let mut result = {
            let mut encoding = picture.encoding();
            match &mut *encoding {
                Encoding::Done(embedding, _) => return Ok(Arc::clone(embedding)),
                Encoding::Pending(pending) if !pending.cancel.is_cancelled() => {
                    pending.waiting += 1;
                    pending.result.clone()
                }
                _ => {
                    let pending = self.push_encode(picture)?;
                    let result = pending.result.clone();
                    *encoding = Encoding::Pending(pending);
                    result
                }
            }
        };
        let _interest = Interest {
            picture,
            result: result.clone(),
        };
        loop {
            if let Some(done) = result.borrow_and_update().clone() {
                done?;
                return picture.embedding().ok_or_else(ApiError::internal);
            }
            // The sender is gone without a result when the job panicked.
            if result.changed().await.is_err() {
                *picture.encoding() = Encoding::No;
                return Err(ApiError::internal());
            }
        }
    }

    fn push_encode(&self, picture: &Arc<Picture>) -> Result<Pending> {
        let cancel = CancelToken::default();
        let (done, result) = watch::channel(None);
        let (picture, images) = (Arc::clone(picture), Arc::clone(&self.images));
        let token = cancel.clone();
        self.push(Priority::Patient, cancel.clone(), move |worker| {
            let start = Instant::now();
            let mut breathe = |_: Progress| worker.breathe();
            let mut run = Run {
                progress: Some(&mut breathe),
                cancel: Some(token),
                ..Run::default()
            };
            let encoded = worker.model.encode(&picture.image, &mut run);
            worker.figures.encodes.fetch_add(1, Ordering::Relaxed);
            add_elapsed(&worker.figures.encode_us, start);
            let (state, outcome) = match encoded {
                Ok(embedding) => {
                    let ms = start.elapsed().as_millis() as u64;
                    (Encoding::Done(Arc::new(embedding), ms), Ok(()))
                }
                Err(error) => (Encoding::No, Err(error.into())),
            };
            {
                let mut encoding = picture.encoding();
                // Unless all left and somebody else has started another encode meanwhile.
                let is_ours = match &*encoding {
                    Encoding::Pending(pending) => pending.result.same_channel(&done.subscribe()),
                    _ => false,
                };
                if is_ours || outcome.is_ok() {
                    *encoding = state;
                }
            }
            images.shrink(picture.id);
            let _ = done.send(Some(outcome));
        })?;
        Ok(Pending {
            cancel,
            waiting: 1,
            result,
        })
    }

    fn push<F>(&self, priority: Priority, cancel: CancelToken, work: F) -> Result<()>
    where
        F: FnOnce(&Worker) + Send + 'static,
    {
        let work = Box::new(work);
        let pushed = self.worker.queue.push(priority, Job { work, cancel });
        pushed.map_err(|refused| match refused {
            Refused::Full => {
                let refused = &self.figures().refused;
                refused.fetch_add(1, Ordering::Relaxed);
                let message = "the server has as much to do as it can take";
                ApiError::busy(message, self.backlog())
            }
            Refused::Closed => ApiError::shutting_down(),
        })
    }

    /// Seconds that the waiting jobs take, going by the mean so far.
    fn backlog(&self) -> u64 {
        let jobs = self.figures().jobs.load(Ordering::Relaxed).max(1);
        let mean_us = self.figures().job_us.load(Ordering::Relaxed) / jobs;
        let (urgent, patient) = self.waiting();
        (mean_us * (urgent + patient) as u64 / 1_000_000).clamp(1, 60)
    }
}

/// One who waits for an encode.
struct Interest<'a> {
    picture: &'a Picture,
    result: watch::Receiver<Outcome>,
}

/// The result of an encode, once there is one.
pub(super) type Outcome = Option<Result<()>>;

impl Drop for Interest<'_> {
    fn drop(&mut self) {
        // Another encode may have started since all those who waited for this one left.
        if let Encoding::Pending(pending) = &mut *self.picture.encoding()
            && pending.result.same_channel(&self.result)
        {
            pending.waiting = pending.waiting.saturating_sub(1);
            if pending.waiting == 0 {
                pending.cancel.cancel();
            }
        }
    }
}
