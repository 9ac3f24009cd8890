//! Makes small media with ffmpeg, gives them to operations, and looks at what comes out. ffmpeg and exiftool run
//! outside of the sandbox here: they stand for the programs of those who get the outputs.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, LazyLock, Mutex, OnceLock},
};

use genie_media::{
    ffmpeg::{InputFile, JobFolder, MediaFailure, Programs},
    operations::{self, Input, MediaOperation, MediaOutcome, OutputFile},
    sandbox::{ToolLimits, launch_with},
};
use serde_json::{Map, Value};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// The test pattern of ffmpeg, one second of it.
pub const PATTERN: &str = "testsrc=size=64x48:rate=25:duration=1";
pub const TONE: &str = "sine=frequency=440:sample_rate=48000:duration=1";
/// Red on the left, blue on the right.
pub const HALVES: &str =
    "color=red:s=32x48:r=25:d=1[l];color=blue:s=32x48:r=25:d=1[r];[l][r]hstack";
/// Each frame is a little brighter than the one before.
pub const STEPS: &str = "nullsrc=s=64x48:r=25:d=2,format=yuv420p,geq=lum=20+N*4:cb=128:cr=128";

type Cell = Arc<OnceLock<PathBuf>>;

static MADE: LazyLock<(PathBuf, Mutex<HashMap<String, Cell>>)> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("media");
    let _ = fs::remove_dir_all(&folder); // of an earlier run
    fs::create_dir_all(&folder).unwrap();
    (folder, Mutex::default())
});

/// A file that is made once for all tests.
pub fn made(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let cell = MADE
        .1
        .lock()
        .unwrap()
        .entry(name.to_owned())
        .or_default()
        .clone();
    cell.get_or_init(|| {
        let path = MADE.0.join(name);
        make(&path);
        path
    })
    .clone()
}

fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    output.stdout
}

/// Runs ffmpeg; the arguments are words between spaces.
pub fn ffmpeg(arguments: &str, last: &[&str]) -> Vec<u8> {
    let mut all = vec!["-nostdin", "-loglevel", "error", "-y"];
    all.extend(arguments.split_whitespace());
    all.extend(last);
    run("ffmpeg", &all)
}

/// A file that ffmpeg writes from sources of its own.
pub fn media(name: &str, sources: &[&str], options: &str) -> PathBuf {
    made(name, |path| {
        let inputs = sources
            .iter()
            .flat_map(|source| ["-f", "lavfi", "-i", source]);
        let mut all: Vec<&str> = vec!["-nostdin", "-loglevel", "error", "-y"];
        all.extend(inputs);
        all.extend(options.split_whitespace());
        all.push(path.to_str().unwrap());
        run("ffmpeg", &all);
    })
}

/// A file that ffmpeg writes from another.
pub fn remade(name: &str, from: &Path, options: &str) -> PathBuf {
    made(name, |path| {
        let path = path.to_str().unwrap();
        let mut all = vec![
            "-nostdin",
            "-loglevel",
            "error",
            "-y",
            "-i",
            from.to_str().unwrap(),
        ];
        all.extend(options.split_whitespace());
        all.push(path);
        run("ffmpeg", &all);
    })
}

/// One second of pictures with a tone.
pub fn film() -> PathBuf {
    media(
        "film.mp4",
        &[PATTERN, TONE],
        "-c:v libx264 -pix_fmt yuv420p -c:a aac -shortest",
    )
}

/// The file with what cameras and people write into it.
pub fn told(name: &str, from: &Path, tags: &[&str]) -> PathBuf {
    made(name, |path| {
        fs::copy(from, path).unwrap();
        let mut all = vec!["-q", "-overwrite_original"];
        all.extend(tags);
        all.push(path.to_str().unwrap());
        run("exiftool", &all);
    })
}

/// Names, places, times and cameras of a picture.
pub const OF_A_CAMERA: [&str; 8] = [
    "-EXIF:Make=canary-camera",
    "-EXIF:DateTimeOriginal=2026:01:02 03:04:05",
    "-EXIF:GPSLatitude=51.5",
    "-EXIF:GPSLatitudeRef=N",
    "-EXIF:Artist=canary-artist",
    "-XMP:Creator=canary-creator",
    "-XMP:GPSLatitude=51.5",
    "-Comment=canary-comment",
];

/// What an operation made.
pub struct Performed {
    pub outcome: MediaOutcome,
    pub progress: Vec<f64>,
    probed: OnceLock<Value>,
    _folder: TempDir,
}

pub fn programs() -> Programs {
    Programs::find(&std::env::var_os("PATH").unwrap()).expect("scripts/test installs ffmpeg")
}

/// Does an operation on files with these names.
pub async fn perform_named(
    operation: &str,
    params: Value,
    inputs: &[(&Path, &str)],
) -> Result<Performed, MediaFailure> {
    let cancel = CancellationToken::new();
    perform_within(operation, params, inputs, ToolLimits::default(), cancel).await
}

/// Does an operation within other limits, until it is cancelled.
pub async fn perform_within(
    operation: &str,
    params: Value,
    inputs: &[(&Path, &str)],
    limits: ToolLimits,
    cancel: CancellationToken,
) -> Result<Performed, MediaFailure> {
    launch_with(Path::new(env!("CARGO_BIN_EXE_sandbox-exec")));
    let params: Map<String, Value> = serde_json::from_value(params).unwrap();
    let input = Input {
        file_id: Some("input"),
        url: None,
    };
    let MediaOperation::Media(work) = MediaOperation::read(operation, input, &params).unwrap()
    else {
        panic!("{operation} is no work on files");
    };
    let folder = TempDir::new().unwrap();
    let inputs = inputs.iter().map(|(path, name)| InputFile {
        path: path.to_path_buf(),
        name: (*name).to_owned(),
    });
    let job = JobFolder {
        folder: folder.path().to_owned(),
        inputs: inputs.collect(),
    };
    let mut progress = Vec::new();
    let outcome = operations::run(
        &programs(),
        limits,
        &work,
        &job,
        &mut |part| progress.push(part),
        cancel,
    )
    .await?;
    check_result(operation, &outcome.result);
    Ok(Performed {
        outcome,
        progress,
        probed: OnceLock::new(),
        _folder: folder,
    })
}

/// Each field of a result is described, and no field that must be there is absent.
pub fn check_result(operation: &str, result: &Value) {
    let schema = operations::result_schema(operation).unwrap();
    let fields = result.as_object().unwrap();
    for (name, value) in fields {
        let described = &schema["properties"][name];
        let is_one = match described["type"].as_str() {
            Some("integer") => value.is_u64(),
            Some("number") => value.is_number(),
            Some("string") => value.is_string(),
            other => panic!("{operation}: {name} is described as {other:?}"),
        };
        assert!(is_one, "{operation}: {name} is {value}, not {described}");
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(
            fields.contains_key(name.as_str().unwrap()),
            "{operation}: {name} is absent"
        );
    }
}

/// Does an operation that works.
pub async fn perform(operation: &str, params: Value, inputs: &[&Path]) -> Performed {
    let named: Vec<_> = inputs.iter().map(|path| (*path, "my input.bin")).collect();
    match perform_named(operation, params, &named).await {
        Ok(performed) => performed,
        Err(failure) => panic!("{operation}: {failure} ({})", failure.code),
    }
}

/// Does an operation that fails.
pub async fn failure(operation: &str, params: Value, inputs: &[&Path]) -> MediaFailure {
    let named: Vec<_> = inputs.iter().map(|path| (*path, "my input.bin")).collect();
    match perform_named(operation, params, &named).await {
        Ok(performed) => panic!("{operation} made {:?}", performed.outcome),
        Err(failure) => failure,
    }
}

impl Performed {
    pub fn output(&self) -> &OutputFile {
        assert_eq!(self.outcome.outputs.len(), 1);
        &self.outcome.outputs[0]
    }

    pub fn path(&self) -> &Path {
        &self.output().path
    }

    pub fn size(&self) -> (u32, u32) {
        let output = self.output();
        (output.width.unwrap(), output.height.unwrap())
    }

    #[track_caller]
    pub fn check_length(&self, seconds: f64) {
        let found = self.output().duration.expect("a film has a length");
        assert!(
            (found - seconds).abs() < 0.06,
            "{found} s instead of {seconds}"
        );
    }

    /// What ffprobe says of the first stream of a type.
    pub fn stream(&self, kind: &str) -> Value {
        let probed = self.probed.get_or_init(|| probed(self.path()));
        let streams = probed["streams"].as_array().unwrap();
        let found = streams.iter().find(|stream| stream["codec_type"] == kind);
        found.unwrap_or(&Value::Null).clone()
    }

    pub fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    /// Checks all that holds for each film of a common kind.
    #[track_caller]
    pub fn check_film(&self, codec: &str, size: (u32, u32)) {
        let stream = self.stream("video");
        assert_eq!(stream["codec_name"], codec);
        assert_eq!(stream["pix_fmt"], "yuv420p");
        assert_eq!(
            (&stream["width"], &stream["height"]),
            (&size.0.into(), &size.1.into())
        );
        assert_eq!(self.size(), size);
        assert_eq!((size.0 % 2, size.1 % 2), (0, 0));
        if ["video/mp4", "video/quicktime"].contains(&self.output().mime) {
            let bytes = self.bytes();
            let place = |name: &[u8]| bytes.windows(4).position(|four| four == name).unwrap();
            assert!(place(b"moov") < place(b"mdat"), "the index stands behind");
        }
    }

    /// Checks that no word of a person or camera is left.
    #[track_caller]
    pub fn check_silent(&self) {
        let bytes = self.bytes();
        for word in ["canary", "2026:01:02", "2026-01-02", "+51.5"] {
            let has = bytes
                .windows(word.len())
                .any(|part| part == word.as_bytes());
            assert!(!has, "{word} is left");
        }
    }

    /// The same, by what exiftool finds.
    #[track_caller]
    pub fn check_tags(&self) {
        self.check_silent();
        for (name, value) in &tags(self.path()) {
            let is_personal = [
                "GPS", "Location", "Make", "Artist", "Author", "Creator", "Title",
            ]
            .iter()
            .any(|word| name.contains(word));
            assert!(!is_personal, "{name}: {value}");
        }
    }
}

/// All that exiftool finds, by group and name.
pub fn tags(path: &Path) -> Map<String, Value> {
    let json = run(
        "exiftool",
        &[
            "-j",
            "-G1",
            "-n",
            "-api",
            "LargeFileSupport=1",
            path.to_str().unwrap(),
        ],
    );
    let all: Vec<Map<String, Value>> = serde_json::from_slice(&json).unwrap();
    all.into_iter().next().unwrap()
}

pub fn probed(path: &Path) -> Value {
    let show = [
        "-v",
        "error",
        "-show_streams",
        "-show_format",
        "-of",
        "json",
    ];
    let json = run("ffprobe", &[&show[..], &[path.to_str().unwrap()]].concat());
    serde_json::from_slice(&json).unwrap()
}

/// The frames of a film as red, green and blue, or a picture's only one.
pub struct Frames {
    size: (u32, u32),
    bytes: Vec<u8>,
}

impl Frames {
    pub fn of(path: &Path, size: (u32, u32)) -> Self {
        let path = path.to_str().unwrap();
        let bytes = ffmpeg(
            "-i",
            &[
                path,
                "-f",
                "rawvideo",
                "-pix_fmt",
                "rgb24",
                "-fps_mode",
                "passthrough",
                "-",
            ],
        );
        Self { size, bytes }
    }

    fn length(&self) -> usize {
        self.size.0 as usize * self.size.1 as usize * 3
    }

    pub fn count(&self) -> usize {
        assert_eq!(self.bytes.len() % self.length(), 0, "the size is another");
        self.bytes.len() / self.length()
    }

    pub fn pixel(&self, frame: usize, (x, y): (u32, u32)) -> [u8; 3] {
        let at = frame * self.length() + (y * self.size.0 + x) as usize * 3;
        [self.bytes[at], self.bytes[at + 1], self.bytes[at + 2]]
    }

    #[track_caller]
    pub fn check(&self, place: (u32, u32), wanted: [u8; 3], tolerance: u8) {
        let found = self.pixel(0, place);
        let is_near = found
            .iter()
            .zip(wanted)
            .all(|(found, wanted)| found.abs_diff(wanted) <= tolerance);
        assert!(is_near, "{found:?} instead of {wanted:?} at {place:?}");
    }
}

pub const RED: [u8; 3] = [254, 0, 0];
pub const BLUE: [u8; 3] = [0, 0, 254];

/// The frames' data as stored, each with its hash.
pub fn stream_hash(path: &Path) -> String {
    let path = path.to_str().unwrap();
    let hashes = ffmpeg(
        "-i",
        &[
            path,
            "-map",
            "0:v?",
            "-map",
            "0:a?",
            "-c",
            "copy",
            "-f",
            "streamhash",
            "-hash",
            "md5",
            "-",
        ],
    );
    String::from_utf8(hashes).unwrap()
}

/// The times of a film's frames, in seconds.
pub fn frame_times(path: &Path) -> Vec<f64> {
    let show =
        "-v error -select_streams v -show_entries frame=best_effort_timestamp_time -of csv=p=0";
    let mut all: Vec<&str> = show.split(' ').collect();
    all.push(path.to_str().unwrap());
    let times = String::from_utf8(run("ffprobe", &all)).unwrap();
    times
        .split_whitespace()
        .map(|time| time.trim_end_matches(',').parse().unwrap())
        .collect()
}

/// The colour profile that exiftool finds.
pub fn profile_of(path: &Path) -> Vec<u8> {
    run("exiftool", &["-b", "-ICC_Profile", path.to_str().unwrap()])
}
