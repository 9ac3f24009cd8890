//! The files and system calls that a confined program has.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
    path_beneath_rules,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::ToolNetwork;

/// The rules for files that are asked for. Linux 6.10 has all of them.
const FILES: ABI = ABI::V5;
/// The rules for TCP. Linux 6.7.
const TCP: ABI = ABI::V4;
/// The rules for signals and for abstract sockets. Linux 6.12.
const SCOPES: ABI = ABI::V6;

/// Where programs and their libraries are. The home of no data.
const SYSTEM: [&str; 10] = [
    "/bin",
    "/lib",
    "/lib64",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/bin",
    "/usr/local/lib",
    "/usr/share",
    "/nix/store",
];
/// Where the loader and libraries are. Scripts need more: see [`ToolNetwork::Loopback`].
const LOADERS: [&str; 4] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"];
const SYSTEM_FILES: [&str; 8] = [
    "/dev/null",
    "/dev/urandom",
    "/dev/zero",
    "/etc/ca-certificates",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/ssl",
    "/sys/devices/system/cpu",
];

/// Restricts the files, the TCP ports and the signals of this thread and of what it becomes.
pub(super) fn restrict_files(
    program: Option<&Path>,
    folder: Option<&Path>,
    inputs: &[PathBuf],
    network: ToolNetwork,
) -> Result<RestrictionStatus, String> {
    // A path that is missing is left out of the rules by `path_beneath_rules`, but these must be there.
    let beneath = |path: &Path, access: BitFlags<AccessFs>| {
        let opened = PathFd::new(path).map_err(|_| format!("{} is missing", path.display()))?;
        let is_folder = path.is_dir();
        let access = if is_folder {
            access
        } else {
            access & AccessFs::from_file(FILES)
        };
        Ok::<_, String>(PathBeneath::new(opened, access))
    };
    let all = AccessFs::from_all(FILES);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = all & !AccessFs::Execute;
    let mut given = Vec::new();
    for input in inputs {
        given.push(beneath(input, read)?);
    }
    if let Some(program) = program {
        given.push(beneath(program, AccessFs::ReadFile | AccessFs::Execute)?);
    }
    if let Some(folder) = folder {
        // No devices, sockets or pipes: nothing that outlives the program or speaks to others.
        let special = AccessFs::MakeChar
            | AccessFs::MakeBlock
            | AccessFs::MakeSock
            | AccessFs::MakeFifo
            | AccessFs::IoctlDev;
        given.push(beneath(folder, write & !special)?);
    }
    let executable: &[&str] = match network {
        ToolNetwork::None => &LOADERS,
        ToolNetwork::Loopback(_) => &SYSTEM,
    };
    let rules = || {
        let mut rules = Ruleset::default()
            .handle_access(all)?
            .handle_access(AccessNet::from_all(TCP))?
            .scope(Scope::from_all(SCOPES))?
            .create()?
            .add_rules(path_beneath_rules(SYSTEM, read))?
            .add_rules(path_beneath_rules(SYSTEM_FILES, read))?
            .add_rules(path_beneath_rules(executable, AccessFs::Execute))?
            .add_rules(path_beneath_rules(["/dev/null"], AccessFs::WriteFile))?
            .add_rules(given.into_iter().map(Ok::<_, RulesetError>))?;
        if let ToolNetwork::Loopback(port) = network {
            rules = rules.add_rule(NetPort::new(port, AccessNet::ConnectTcp))?;
        }
        rules.restrict_self()
    };
    rules().map_err(|error: RulesetError| format!("Landlock: {error}"))
}

/// What of the wanted rules this kernel lacks.
pub(super) fn lacking(status: &RestrictionStatus) -> Vec<&'static str> {
    let abi = match status.landlock {
        LandlockStatus::NotEnabled => return vec!["Landlock is not enabled"],
        LandlockStatus::NotImplemented => return vec!["the kernel has no Landlock (Linux 5.13)"],
        LandlockStatus::Available { effective_abi, .. } => effective_abi,
    };
    let lacks = [
        (FILES, "some rules for files (Linux 6.10)"),
        (TCP, "rules for TCP (Linux 6.7)"),
        (SCOPES, "rules for signals (Linux 6.12)"),
    ];
    lacks
        .into_iter()
        .filter(|(needed, _)| abi < *needed)
        .map(|(_, what)| what)
        .collect()
}

/// System calls that no program here needs. Many open a way around the other rules, or are rarely used and
/// were often broken.
const DENIED: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    // Makes sockets and opens files past the filter of system calls.
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    // Would leave the group that is killed whole.
    libc::SYS_setpgid,
    libc::SYS_setsid,
    // Landlock lets them through, also for files outside (landlock(7), "Current limitations").
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_lremovexattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_setxattr,
    libc::SYS_utimensat,
];

/// Newer than the list of libc. All architectures have the same number.
const SYS_FCHMODAT2: i64 = 452;

/// The forms that only x86-64 has.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[i64] = &[
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_futimesat,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[i64] = &[];

/// The second set of numbers for the same calls that some kernels of x86-64 take (x32), as many as there are.
#[cfg(target_arch = "x86_64")]
const OTHER_NUMBERS: std::ops::RangeInclusive<i64> = 0x4000_0000..=0x4000_0000 + 547;
#[cfg(not(target_arch = "x86_64"))]
#[expect(clippy::reversed_empty_ranges, reason = "empty on purpose")]
const OTHER_NUMBERS: std::ops::RangeInclusive<i64> = 1..=0;

const NAMESPACES: [i32; 8] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
    0x80, // CLONE_NEWTIME
];

/// The kinds of sockets that are no TCP.
const NOT_STREAMS: [i32; 6] = [
    libc::SOCK_DGRAM,
    libc::SOCK_RAW,
    libc::SOCK_RDM,
    libc::SOCK_SEQPACKET,
    6,  // SOCK_DCCP
    10, // SOCK_PACKET
];
/// The bits of a socket's type that are no flags.
const TYPE_BITS: u64 = 0xf;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Denies system calls to this thread and what it becomes. False: this architecture has no filter.
pub(super) fn restrict_calls(network: ToolNetwork) -> Result<bool, String> {
    let Ok(architecture) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok(false);
    };
    let apply = || -> Result<(), Box<dyn std::error::Error>> {
        let filters = [
            (denied(network)?, libc::EPERM),
            // Its flags can't be read here. glibc takes `clone` when this call is absent.
            (Rules::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS),
        ];
        for (rules, errno) in filters {
            let errno = SeccompAction::Errno(errno.cast_unsigned());
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, errno, architecture)?;
            seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
        }
        Ok(())
    };
    apply().map_err(|error| format!("seccomp: {error}"))?;
    Ok(true)
}

fn denied(network: ToolNetwork) -> Result<Rules, seccompiler::BackendError> {
    let always = DENIED.iter().chain(DENIED_HERE).copied();
    let mut rules: Rules = always
        .chain(OTHER_NUMBERS)
        .map(|call| (call, Vec::new()))
        .collect();
    let mut namespaces = Vec::new();
    for flag in NAMESPACES {
        let flag = u64::from(flag.cast_unsigned());
        namespaces.push(when(&[(0, SeccompCmpOp::MaskedEq(flag), flag)])?);
    }
    rules.insert(libc::SYS_clone, namespaces);
    // Of another process.
    let other = when(&[(0, SeccompCmpOp::Ne, 0)])?;
    rules.insert(libc::SYS_prlimit64, vec![other]);
    let mut sockets = Vec::new();
    if let ToolNetwork::Loopback(_) = network {
        let [v4, v6] =
            [libc::AF_INET, libc::AF_INET6].map(|family| u64::from(family.cast_unsigned()));
        sockets.push(when(&[
            (0, SeccompCmpOp::Ne, v4),
            (0, SeccompCmpOp::Ne, v6),
        ])?);
        for kind in NOT_STREAMS {
            let kind = u64::from(kind.cast_unsigned());
            sockets.push(when(&[(1, SeccompCmpOp::MaskedEq(TYPE_BITS), kind)])?);
        }
        for call in [
            libc::SYS_accept,
            libc::SYS_accept4,
            libc::SYS_bind,
            libc::SYS_listen,
        ] {
            rules.insert(call, Vec::new());
        }
    } else {
        rules.insert(libc::SYS_socketpair, Vec::new());
    }
    rules.insert(libc::SYS_socket, sockets);
    Ok(rules)
}

/// A rule that holds when all these arguments compare so.
fn when(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, seccompiler::BackendError> {
    let conditions = conditions.iter().map(|(argument, compare, value)| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, compare.clone(), *value)
    });
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}
