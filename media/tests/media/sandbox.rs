//! What a program can't do in the sandbox, tried from inside.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use genie_media::sandbox::{
    SandboxLevel, Tool, ToolError, ToolLimits, ToolNetwork, ToolOutput, launch_with, probe,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A folder that a program may write, and one beside it that it may not touch.
struct Inside {
    root: TempDir,
}

impl Inside {
    fn new() -> Self {
        launch_with(Path::new(env!("CARGO_BIN_EXE_sandbox-exec")));
        let root = TempDir::new().unwrap();
        for folder in ["work", "inputs", "outside"] {
            fs::create_dir(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("inputs/given"), "given").unwrap();
        fs::write(root.path().join("outside/secret"), "secret").unwrap();
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn python(&self, script: &str) -> Tool {
        Tool {
            program: "/usr/bin/python3".into(),
            arguments: ["-I", "-S", "-c", script].map(Into::into).to_vec(),
            folder: self.path("work"),
            inputs: vec![self.path("inputs")],
            limits: ToolLimits {
                time: Duration::from_secs(60),
                ..ToolLimits::default()
            },
            network: ToolNetwork::None,
        }
    }
}

async fn run(tool: &Tool) -> ToolOutput {
    tool.run(&mut |_| (), CancellationToken::new())
        .await
        .unwrap()
}

/// Runs a script that prints what came of it.
async fn told(tool: &Tool) -> String {
    let output = run(tool).await;
    assert!(output.status.success(), "{}", output.stderr);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn this_machine_confines_fully() {
    let _box = Inside::new();
    let found = probe().await.unwrap();
    assert_eq!(found.level, SandboxLevel::Full, "{found:?}");
    assert!(found.missing.is_empty());
}

#[tokio::test]
async fn inputs_are_read_and_only_the_folder_is_written() {
    let inside = Inside::new();
    let script = format!(
        r#"
import os
def tried(what, *arguments):
    try:
        what(*arguments)
        return "done"
    except OSError as error:
        return error.strerror
root = {root:?}
print(open(root + "/inputs/given").read())
print(tried(open, root + "/inputs/given", "a"))
print(tried(open, root + "/outside/secret"))
print(tried(os.listdir, root + "/outside"))
print(tried(open, "/etc/passwd"))
print(tried(open, "/proc/self/environ"))
print(tried(open, root + "/outside/new", "w"))
print(tried(os.chmod, root + "/outside/secret", 0o777))
print(tried(os.utime, root + "/outside/secret"))
print(tried(os.rename, root + "/inputs/given", root + "/work/given"))
print(tried(os.execv, "/usr/bin/id", ["id"]))
open("new", "w").write("kept")
print(os.getcwd() == os.path.realpath(root + "/work"))
"#,
        root = inside.root.path()
    );
    let told = told(&inside.python(&script)).await;
    let denied = "Permission denied";
    let expected = [
        "given",
        denied,
        denied,
        denied,
        denied,
        denied,
        denied,
        "Operation not permitted",
        "Operation not permitted",
        denied,
        denied,
        "True",
    ];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    assert_eq!(fs::read_to_string(inside.path("work/new")).unwrap(), "kept");
    assert_eq!(
        fs::read_to_string(inside.path("outside/secret")).unwrap(),
        "secret"
    );
}

#[tokio::test]
async fn a_link_leads_nowhere() {
    let inside = Inside::new();
    std::os::unix::fs::symlink(inside.path("outside/secret"), inside.path("inputs/link")).unwrap();
    let script = format!(
        "try:\n open({:?}).read(); print('read')\nexcept PermissionError: print('denied')",
        inside.path("inputs/link")
    );
    assert_eq!(told(&inside.python(&script)).await, "denied");
}

const SOCKETS: &str = r#"
import errno, socket
def tried(*arguments):
    try:
        socket.socket(*arguments)
        return "made"
    except OSError as error:
        return errno.errorcode[error.errno]
print(tried(socket.AF_INET, socket.SOCK_STREAM), tried(socket.AF_INET6, socket.SOCK_STREAM),
      tried(socket.AF_INET, socket.SOCK_DGRAM), tried(socket.AF_UNIX, socket.SOCK_STREAM),
      tried(socket.AF_NETLINK, socket.SOCK_RAW))
"#;

#[tokio::test]
async fn no_socket_is_opened() {
    let inside = Inside::new();
    assert_eq!(
        told(&inside.python(SOCKETS)).await,
        "EPERM EPERM EPERM EPERM EPERM"
    );
}

#[tokio::test]
async fn one_port_is_reached_and_no_other() {
    let inside = Inside::new();
    let allowed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = |listener: &tokio::net::TcpListener| listener.local_addr().unwrap().port();
    let script = format!(
        r#"{SOCKETS}
for port in [{}, {}]:
    try:
        socket.create_connection(("127.0.0.1", port)); print("connected")
    except OSError as error: print(errno.errorcode[error.errno])
try:
    socket.socket().bind(("127.0.0.1", 0)); print("bound")
except OSError as error: print(errno.errorcode[error.errno])
"#,
        port(&allowed),
        port(&other)
    );
    let tool = Tool {
        network: ToolNetwork::Loopback(port(&allowed)),
        ..inside.python(&script)
    };
    assert_eq!(
        told(&tool).await,
        "made made EPERM EPERM EPERM\nconnected\nEACCES\nEPERM"
    );
}

#[tokio::test]
async fn its_environment_is_empty_and_it_holds_no_file_of_its_parent() {
    let inside = Inside::new();
    let script = "import os\nheld = []\nfor number in range(3, 200):\n  try:\n    os.fstat(number); held.append(number)\n  except OSError: pass\nprint(sorted(os.environ), held)";
    assert_eq!(
        told(&inside.python(script)).await,
        "['HOME', 'LANG', 'MALLOC_ARENA_MAX', 'PATH', 'PYTHONDONTWRITEBYTECODE', 'TMPDIR'] []"
    );
}

#[tokio::test]
async fn memory_files_and_cpu_time_are_limited() {
    let inside = Inside::new();
    let small = |script: &str, limits: ToolLimits| Tool {
        limits,
        ..inside.python(script)
    };
    let limits = ToolLimits::default();
    let memory = small(
        "try:\n  bytearray(1 << 30); print('had')\nexcept MemoryError: print('refused')",
        ToolLimits {
            memory: 512 << 20,
            ..limits
        },
    );
    assert_eq!(told(&memory).await, "refused");
    let file = small(
        "open('large', 'wb').write(bytes(2 << 20))",
        ToolLimits {
            file_bytes: 1 << 20,
            ..limits
        },
    );
    assert!(!run(&file).await.status.success());
    assert!(fs::metadata(inside.path("work/large")).unwrap().len() <= 1 << 20);
    let cpu = small(
        "while True: pass",
        ToolLimits {
            cpu: Duration::from_secs(1),
            ..limits
        },
    );
    let started = Instant::now();
    let ended = run(&cpu).await;
    assert!(!ended.status.success());
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn it_makes_no_namespace_and_leaves_no_group() {
    let inside = Inside::new();
    let script = r#"
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def tried(call, *arguments):
    return "done" if call(*arguments) >= 0 else errno.errorcode[ctypes.get_errno()]
print(tried(libc.unshare, 0x10000000), tried(libc.setsid), tried(libc.setpgid, 0, 0),
      tried(libc.ptrace, 0, 0, 0, 0), tried(libc.prlimit, os.getppid(), 7, None, None),
      tried(libc.kill, os.getppid(), 0))
"#;
    assert_eq!(
        told(&inside.python(script)).await,
        "EPERM EPERM EPERM EPERM EPERM EPERM"
    );
}

/// True while a process of this number runs.
fn runs(process: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", process.trim()))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
}

async fn gone(process: &str) -> bool {
    let until = Instant::now() + Duration::from_secs(5);
    while runs(process) && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    !runs(process)
}

const PARENT_AND_CHILD: &str = "import os, sys, time\nchild = os.fork()\nif child: print(os.getpid(), child, flush=True)\ntime.sleep(60)";

#[tokio::test]
async fn cancelling_kills_all_that_it_started_within_a_second() {
    let inside = Inside::new();
    let tool = inside.python(PARENT_AND_CHILD);
    let cancel = CancellationToken::new();
    let mut line = String::new();
    let mut cancelled = None;
    let ended = tool
        .run(
            &mut |told| {
                line = told.to_owned();
                cancelled = Some(Instant::now());
                cancel.cancel();
            },
            cancel.clone(),
        )
        .await;
    assert!(matches!(ended, Err(ToolError::Cancelled)), "{ended:?}");
    let took = cancelled.unwrap().elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    for process in line.split(' ') {
        assert!(gone(process).await, "{process} of {line} still runs");
    }
}

#[tokio::test]
async fn a_child_that_is_left_behind_ends_with_the_program() {
    let inside = Inside::new();
    let script = "import os, time\nchild = os.fork()\nif child: print(child, flush=True)\nelse: time.sleep(60)";
    let started = Instant::now();
    let child = told(&inside.python(script)).await;
    assert!(started.elapsed() < Duration::from_secs(30));
    assert!(gone(&child).await);
}

#[tokio::test]
async fn time_is_over_when_the_limit_says_so() {
    let inside = Inside::new();
    let mut tool = inside.python("import time; time.sleep(60)");
    tool.limits.time = Duration::from_millis(300);
    let ended = tool.run(&mut |_| (), CancellationToken::new()).await;
    assert!(matches!(ended, Err(ToolError::TooSlow)), "{ended:?}");
}

#[tokio::test]
async fn it_dies_with_its_parent() {
    let inside = Inside::new();
    // A parent that names itself, as a worker does, and is then killed.
    let script = r#"
import json, os, subprocess, sys
policy = {"run": {"parent": os.getpid(), "folder": sys.argv[2], "inputs": [], "network": "None",
          "memory": 1 << 32, "cpu_seconds": 100, "file_bytes": 1 << 20, "open_files": 64}}
child = subprocess.Popen([sys.argv[1], "sandbox-exec", json.dumps(policy), "/usr/bin/sleep", "60"])
print(child.pid, flush=True)
child.wait()
"#;
    let mut parent = tokio::process::Command::new("/usr/bin/python3")
        .args(["-c", script, env!("CARGO_BIN_EXE_sandbox-exec")])
        .arg(inside.path("work"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = tokio::io::BufReader::new(parent.stdout.take().unwrap());
    let mut child = String::new();
    tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut child)
        .await
        .unwrap();
    // Until it is `sleep`, it may still be on its way there.
    let name = format!("/proc/{}/comm", child.trim());
    while fs::read_to_string(&name).unwrap().trim() != "sleep" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    parent.kill().await.unwrap();
    assert!(gone(&child).await);
}

#[tokio::test]
async fn output_is_bounded_and_given_out_by_lines() {
    let inside = Inside::new();
    let mut tool = inside.python("for number in range(1000): print('line', number)");
    tool.limits.output = 100;
    let mut lines = Vec::new();
    let output = tool
        .run(
            &mut |line| lines.push(line.to_owned()),
            CancellationToken::new(),
        )
        .await
        .unwrap();
    assert_eq!((output.stdout.len(), output.is_cut), (100, true));
    assert_eq!((lines.len(), lines[999].as_str()), (1000, "line 999"));
    let loud = inside.python("import sys; sys.stderr.write('x' * 100000 + 'end')");
    let output = run(&loud).await;
    assert!(output.stderr.len() <= 8 << 10 && output.stderr.ends_with("xend"));
}

#[tokio::test]
async fn a_program_that_is_missing_is_told() {
    let inside = Inside::new();
    let tool = Tool {
        program: "/usr/bin/no-such-program".into(),
        ..inside.python("")
    };
    let ended = tool.run(&mut |_| (), CancellationToken::new()).await;
    let Err(ToolError::NotStarted(why)) = ended else {
        panic!("{ended:?}");
    };
    assert!(why.contains("no-such-program"), "{why}");
}
