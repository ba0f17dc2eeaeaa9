use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use super::setup::Workplace;
use super::{PodError, PodInterfaces, PodSpec, removal};

/// Threads that make pods' networks for a program that makes many.
///
/// [`setup`](super::setup) starts a thread for each pod and opens a connection to the kernel. Here
/// both stay. There are few threads on purpose: the kernel has one lock for all changes of
/// interfaces, and whoever waits for it spins on a processor that others need.
///
/// The threads work in the network namespace of whoever calls first; they start when they are
/// needed and end with this value.
pub struct Workers {
    shared: Arc<Shared>,
}

/// What a thread does with its workplace, which is not there yet before its first job.
type Job = Box<dyn FnOnce(&mut Option<Workplace>) + Send>;

struct Shared {
    queue: Mutex<Queue>,
    /// A job came, or there will be none any more.
    news: Condvar,
    most: usize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.shared.queue();
        f.debug_struct("Workers")
            .field("threads", &queue.threads)
            .field("waiting", &queue.jobs.len())
            .finish_non_exhaustive()
    }
}

impl Default for Workers {
    /// One thread.
    fn default() -> Self {
        Self::new(1)
    }
}

impl Workers {
    /// At most so many threads; at least one.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let shared = Shared { queue: Mutex::default(), news: Condvar::new(), most: most.max(1) };
        Self { shared: Arc::new(shared) }
    }

    /// As [`setup`](super::setup). Safe to drop: the work goes on to its end.
    ///
    /// # Errors
    ///
    /// As [`setup`](super::setup).
    pub async fn setup(&self, spec: PodSpec) -> Result<PodInterfaces, PodError> {
        self.run(move |workplace| workplace.setup(&spec)).await
    }

    /// As [`cut_off`](super::cut_off). Safe to drop: the work goes on to its end.
    ///
    /// # Errors
    ///
    /// As [`cut_off`](super::cut_off).
    pub async fn cut_off(&self, host_ifname: String) -> Result<bool, PodError> {
        self.run(move |workplace| removal::cut_off_by(workplace.host(), &host_ifname)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Workplace) -> Result<T, PodError> + Send + 'static,
    ) -> Result<T, PodError> {
        let (answer, answered) = oneshot::channel();
        let job = move |place: &mut Option<Workplace>| {
            let opened = place.take().map_or_else(Workplace::open, Ok);
            let done = opened.and_then(|opened| work(place.insert(opened)));
            if matches!(&done, Err(PodError::Kernel { source, .. }) if source.errno().is_none()) {
                // The kernel did not even refuse: the next one begins with a new connection.
                place.take_if(|place| !place.is_lost());
            }
            // Whoever does not wait any more does not want to know.
            let _ = answer.send(done);
        };
        self.shared.submit(Box::new(job))?;
        let ended = |_| PodError::Thread(io::Error::other("the thread ended before its work"));
        answered.await.map_err(ended)?
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.news.notify_all();
    }
}

impl Shared {
    fn submit(self: &Arc<Self>, job: Job) -> Result<(), PodError> {
        let mut queue = self.queue();
        queue.jobs.push_back(job);
        if queue.idle >= queue.jobs.len() || queue.threads >= self.most {
            self.news.notify_one();
            return Ok(());
        }
        match self.start(&mut queue) {
            // Without another thread, those that are there will do it.
            Err(error) if queue.threads == 0 => {
                queue.jobs.clear();
                Err(PodError::Thread(error))
            }
            _ => Ok(()),
        }
    }

    fn start(self: &Arc<Self>, queue: &mut Queue) -> io::Result<()> {
        let shared = Arc::clone(self);
        thread::Builder::new().name("pods".into()).spawn(move || shared.work())?;
        queue.threads += 1;
        Ok(())
    }

    /// A thread's life.
    fn work(self: Arc<Self>) {
        let here = Present(&self);
        let mut workplace = None;
        while let Some(job) = self.next() {
            job(&mut workplace);
            if workplace.as_ref().is_some_and(Workplace::is_lost) {
                break;
            }
        }
        drop(here);
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue.idle += 1;
            queue = self.news.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing that panics runs while it is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that is counted, however it ends.
struct Present<'a>(&'a Arc<Shared>);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.threads -= 1;
        // It panicked, or got lost in a pod's namespace: another does what waits.
        if !queue.jobs.is_empty() && queue.threads == 0 && self.0.start(&mut queue).is_err() {
            // Those who asked see that it is not done.
            queue.jobs.clear();
        }
    }
}
