//! A bounded queue of two priorities in front of the thread that owns the model.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

use super::lock;
use crate::CancelToken;

/// When a job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Milliseconds of work: a decode.
    Urgent,
    /// Everything else: an encode, a text, everything.
    Patient,
}

/// Work for the engine. Its result goes where the work sends it.
pub struct Job<W> {
    /// What to do.
    pub work: Box<dyn FnOnce(&W) + Send>,
    /// A job that nobody waits for is dropped before it costs anything.
    pub cancel: CancelToken,
}

/// See the [module](self).
pub struct Queue<W> {
    /// A panic inside the short critical sections below leaves the lines whole.
    state: Mutex<State<W>>,
    has_work: Condvar,
    capacity: usize,
}

struct State<W> {
    urgent: VecDeque<Job<W>>,
    patient: VecDeque<Job<W>>,
    /// Urgent jobs that ran since a patient one did.
    overtaken: usize,
    is_closed: bool,
}

/// Urgent jobs that overtake a patient one, at most: pointers that never rest must not starve it.
const OVERTAKING: usize = 4;

/// Why a job is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// As many jobs wait as may wait.
    Full,
    /// The server shuts down.
    Closed,
}

impl<W> Queue<W> {
    /// At most `capacity` jobs of each priority wait.
    pub fn new(capacity: usize) -> Self {
        let state = State {
            urgent: VecDeque::new(),
            patient: VecDeque::new(),
            overtaken: 0,
            is_closed: false,
        };
        Self {
            state: Mutex::new(state),
            has_work: Condvar::new(),
            capacity,
        }
    }

    /// Puts a job at the end of its line.
    ///
    /// # Errors
    /// When the line is full even without the jobs that nobody waits for, or the queue is closed.
    pub fn push(&self, priority: Priority, job: Job<W>) -> Result<(), Refused> {
        let mut state = lock(&self.state);
        if state.is_closed {
            return Err(Refused::Closed);
        }
        let line = match priority {
            Priority::Urgent => &mut state.urgent,
            Priority::Patient => &mut state.patient,
        };
        if line.len() >= self.capacity {
            line.retain(|job| !job.cancel.is_cancelled());
        }
        if line.len() >= self.capacity {
            return Err(Refused::Full);
        }
        line.push_back(job);
        drop(state);
        self.has_work.notify_one();
        Ok(())
    }

    /// The next job, urgent ones first, but not always. Waits for one; `None` when the queue is closed and empty.
    pub fn pop(&self) -> Option<Job<W>> {
        let mut state = lock(&self.state);
        loop {
            let is_due = state.urgent.is_empty() || state.overtaken >= OVERTAKING;
            let next = match is_due && !state.patient.is_empty() {
                true => state.patient.pop_front().map(|job| (job, 0)),
                false => {
                    let overtaken = state.overtaken + usize::from(!state.patient.is_empty());
                    state.urgent.pop_front().map(|job| (job, overtaken))
                }
            };
            match next {
                Some((job, _)) if job.cancel.is_cancelled() => continue,
                Some((job, overtaken)) => {
                    state.overtaken = overtaken;
                    return Some(job);
                }
                None if state.is_closed => return None,
                None => {
                    state = self
                        .has_work
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// The next urgent job, if one waits.
    pub fn pop_urgent(&self) -> Option<Job<W>> {
        let mut state = lock(&self.state);
        loop {
            let job = state.urgent.pop_front()?;
            if !job.cancel.is_cancelled() {
                return Some(job);
            }
        }
    }

    /// Jobs that wait: urgent, patient.
    pub fn len(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.urgent.len(), state.patient.len())
    }

    /// Takes no more jobs; what waits is still handed out.
    pub fn close(&self) {
        lock(&self.state).is_closed = true;
        self.has_work.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    fn job(name: &'static str, done: &Sender<&'static str>) -> Job<()> {
        let done = done.clone();
        Job {
            work: Box::new(move |()| done.send(name).unwrap()),
            cancel: CancelToken::default(),
        }
    }

    fn run_all(queue: &Queue<()>) {
        queue.close();
        while let Some(job) = queue.pop() {
            (job.work)(&());
        }
    }

    #[test]
    fn urgent_jobs_go_first_and_equals_in_order() {
        let (done, results) = channel();
        let queue = Queue::new(4);
        for (name, priority) in [
            ("a", Priority::Patient),
            ("b", Priority::Urgent),
            ("c", Priority::Patient),
            ("d", Priority::Urgent),
        ] {
            queue.push(priority, job(name, &done)).unwrap();
        }
        assert_eq!(queue.len(), (2, 2));
        run_all(&queue);
        drop(done);
        assert_eq!(results.iter().collect::<Vec<_>>(), ["b", "d", "a", "c"]);
    }

    #[test]
    fn urgent_jobs_that_never_end_do_not_starve_a_patient_one() {
        let (done, results) = channel();
        let queue = Queue::new(4 * OVERTAKING);
        queue
            .push(Priority::Patient, job("patient", &done))
            .unwrap();
        for _ in 0..3 * OVERTAKING {
            queue.push(Priority::Urgent, job("urgent", &done)).unwrap();
        }
        run_all(&queue);
        drop(done);
        let order: Vec<&str> = results.iter().collect();
        assert_eq!(
            order.iter().position(|name| *name == "patient"),
            Some(OVERTAKING)
        );
        assert_eq!(order.len(), 3 * OVERTAKING + 1);
    }

    #[test]
    fn a_full_line_refuses_until_somebody_gives_up() {
        let (done, results) = channel();
        let queue = Queue::new(1);
        let first = job("first", &done);
        let cancel = first.cancel.clone();
        queue.push(Priority::Urgent, first).unwrap();
        let refused = queue.push(Priority::Urgent, job("second", &done));
        assert_eq!(refused, Err(Refused::Full));
        queue
            .push(Priority::Patient, job("other line", &done))
            .unwrap();
        cancel.cancel();
        queue.push(Priority::Urgent, job("third", &done)).unwrap();
        run_all(&queue);
        drop(done);
        assert_eq!(results.iter().collect::<Vec<_>>(), ["third", "other line"]);
    }

    #[test]
    fn a_closed_queue_takes_nothing() {
        let (done, _results) = channel();
        let queue = Queue::new(1);
        queue.close();
        let refused = queue.push(Priority::Urgent, job("late", &done));
        assert_eq!(refused, Err(Refused::Closed));
        assert!(queue.pop().is_none() && queue.pop_urgent().is_none());
    }
}
