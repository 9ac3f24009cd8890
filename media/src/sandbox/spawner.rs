//! Starts programs from one thread of its own. The kernel takes the death of the thread that started a program
//! for the death of its parent (PR_SET_PDEATHSIG, prctl(2)), and threads of a runtime come and go.

use std::{
    io,
    sync::{LazyLock, mpsc},
    thread,
};

use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

struct Start {
    command: Command,
    runtime: Handle,
    started: oneshot::Sender<io::Result<Child>>,
}

static SPAWNER: LazyLock<Option<mpsc::Sender<Start>>> = LazyLock::new(|| {
    let (starts, asked) = mpsc::channel::<Start>();
    let spawn = move || {
        for mut start in asked {
            let _inside = start.runtime.enter();
            // When nobody waits any more, the child is dropped here. It was started to be killed then.
            if let Err(Ok(child)) = start.started.send(start.command.kill_on_drop(true).spawn()) {
                drop(child);
            }
        }
    };
    let thread = thread::Builder::new().name("genie-sandbox".into());
    thread.spawn(spawn).ok().map(|_| starts)
});

pub(super) async fn spawn(command: Command) -> io::Result<Child> {
    let (started, child) = oneshot::channel();
    let start = Start {
        command,
        runtime: Handle::current(),
        started,
    };
    let gone = || io::Error::other("the thread that starts programs is gone");
    let starts = SPAWNER.as_ref().ok_or_else(gone)?;
    starts.send(start).map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}
