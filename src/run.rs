//! What a caller attaches to a long call: a trace, a progress callback, a way to stop it.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle::Tensor;

use crate::{Error, Result, Trace};

/// Options of one call that have no influence on its result. `Run::default()` attaches nothing.
///
/// ```
/// use candle_sam3::{CancelToken, Run};
///
/// let cancel = CancelToken::default(); // clone it into another thread and call `cancel()` there
/// let mut report = |progress: candle_sam3::Progress| eprintln!("{progress:?}");
/// let mut run = Run { progress: Some(&mut report), cancel: Some(cancel.clone()), ..Run::default() };
/// # let _ = &mut run;
/// ```
#[derive(Default)]
pub struct Run<'a> {
    /// Records the tensors of every stage.
    pub trace: Option<&'a mut Trace>,
    /// Called after each step of a long task.
    pub progress: Option<&'a mut dyn FnMut(Progress)>,
    /// Stops the call early with [`Error::Cancelled`].
    pub cancel: Option<CancelToken>,
}

/// How far a long task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Finished steps: points of `everything`, bytes of a file.
    pub done: u64,
    /// All steps.
    pub total: u64,
}

/// Asks a running call to stop. Clones share one flag.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<Flag>);

#[derive(Debug, Default)]
struct Flag {
    is_set: AtomicBool,
    /// Cancels after this many looks at the flag, to stop a run at every place where it can stop.
    #[cfg(test)]
    looks_left: Option<std::sync::atomic::AtomicUsize>,
}

impl CancelToken {
    /// Makes every call that holds this token return [`Error::Cancelled`] as soon as the network
    /// layer it is in allows. There is no way back.
    pub fn cancel(&self) {
        self.0.is_set.store(true, Ordering::Relaxed);
    }

    /// True after [`CancelToken::cancel`].
    pub fn is_cancelled(&self) -> bool {
        #[cfg(test)]
        if let Some(left) = &self.0.looks_left
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                == Err(0)
        {
            self.cancel();
        }
        self.0.is_set.load(Ordering::Relaxed)
    }

    /// A token that cancels itself when it is looked at once more than `looks` times.
    #[cfg(test)]
    pub(crate) fn after(looks: usize) -> Self {
        Self(Arc::new(Flag {
            is_set: AtomicBool::new(false),
            looks_left: Some(looks.into()),
        }))
    }
}

impl<'a> Run<'a> {
    /// Records every stage in `trace`.
    pub fn traced(trace: &'a mut Trace) -> Self {
        Self {
            trace: Some(trace),
            ..Self::default()
        }
    }

    /// Reports progress to the caller.
    pub fn report(&mut self, done: usize, total: usize) {
        if let Some(progress) = &mut self.progress {
            progress(Progress {
                done: done as u64,
                total: total as u64,
            });
        }
    }

    /// # Errors
    /// [`Error::Cancelled`] if the call was asked to stop.
    pub fn check(&self) -> Result<()> {
        match &self.cancel {
            Some(cancel) if cancel.is_cancelled() => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }

    /// Runs one stage of a network inside a `tracing` span of target `candle_sam3::stage` whose
    /// field `name` is `name`. The layers inside see the cancel token.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the call was asked to stop, before or during the stage; else the
    /// error of `work`.
    pub(crate) fn stage<T, E>(&self, name: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T>
    where
        Error: From<E>,
    {
        self.check()?;
        let span = tracing::debug_span!(target: "candle_sam3::stage", "stage", name);
        let _entered = span.enter();
        let _scope = Scope(CURRENT.replace(self.cancel.clone()));
        let done = work();
        // A layer that stops reports an error of its own; what the caller asked for is the cause.
        self.check()?;
        Ok(done?)
    }

    /// Records a stage's result if there is a trace.
    pub(crate) fn record(&mut self, name: &str, tensor: &Tensor) {
        if let Some(trace) = &mut self.trace {
            trace.record(name, tensor);
        }
    }

    /// Puts `prefix` before the names recorded from here on.
    pub(crate) fn set_prefix(&mut self, prefix: impl Into<String>) {
        if let Some(trace) = &mut self.trace {
            trace.set_prefix(prefix);
        }
    }
}

thread_local! {
    /// The token of the call that this thread works for. Layers have no parameter for it: they
    /// implement candle's `Module`.
    static CURRENT: RefCell<Option<CancelToken>> = const { RefCell::new(None) };
}

/// Restores the previous token when it goes out of scope, so that nested runs do not leak theirs.
struct Scope(Option<CancelToken>);

impl Drop for Scope {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// Called by layers before and during long work, on the thread that runs the network.
///
/// # Errors
/// If the call that this thread works for was asked to stop.
pub(crate) fn check() -> candle::Result<()> {
    checker()()
}

/// [`check`] for all threads that work on one layer of the call that this thread works for.
pub(crate) fn checker() -> impl Fn() -> candle::Result<()> + Sync {
    let token = CURRENT.with_borrow(Clone::clone);
    move || match &token {
        Some(token) if token.is_cancelled() => Err(candle::Error::msg("cancelled")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_stops_before_and_during_its_work() {
        let cancel = CancelToken::default();
        let run = Run {
            cancel: Some(cancel.clone()),
            ..Run::default()
        };
        let layers = || -> candle::Result<u8> {
            check()?;
            cancel.cancel();
            check()?;
            Ok(1)
        };
        assert!(matches!(run.stage("a", layers), Err(Error::Cancelled)));
        let never = || -> candle::Result<u8> { panic!("the stage ran") };
        assert!(matches!(run.stage("b", never), Err(Error::Cancelled)));
    }

    #[test]
    fn a_token_is_seen_only_inside_its_stage() {
        let cancel = CancelToken::default();
        let outer = Run {
            cancel: Some(cancel.clone()),
            ..Run::default()
        };
        let work = || -> Result<()> {
            cancel.cancel();
            // A run without a token inside one that has one.
            Run::default().stage("inner", check)
        };
        assert!(matches!(outer.stage("outer", work), Err(Error::Cancelled)));
        assert!(check().is_ok());
    }

    #[test]
    fn an_error_of_the_stage_is_its_own() {
        let run = Run::default();
        let fails = || Err::<(), _>(candle::Error::msg("shape"));
        assert!(matches!(run.stage("a", fails), Err(Error::Tensor(_))));
    }
}
